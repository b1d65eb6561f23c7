"""The record of a run's cloud resources, written before and after each call that changes one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from embedfit.errors import InputError, SchemaMismatch
from embedfit.path.workspace import Workspace

SCHEMA = 1
FILE = "state.json"

Kind = Literal[
    "role", "artefact", "model", "endpoint_config", "endpoint", "log_group", "scalable_target", "scaling_policy",
    "job_log", "training_job",
]  # fmt: skip
#: The kinds of resources in the order in which they are made; they are deleted in reverse.
KINDS: tuple[Kind, ...] = (
    "role",
    "artefact",
    "model",
    "endpoint_config",
    "log_group",
    "endpoint",
    "scalable_target",
    "scaling_policy",
    "job_log",
    "training_job",
)
Status = Literal["creating", "created", "adopted", "deleting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A cloud resource. name: its name in its service; id: its ARN or URI once known."""

    kind: Kind
    name: str
    id: str = ""
    status: Status = "creating"
    changed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """An endpoint, or a job, with all that belongs to it.

    expires: the time from which sweep may delete it (ISO 8601), empty for never. usd_per_instance_hour: from the plan;
    None if the price is not known. job: the name of the training job whose results are not here yet; else empty.
    """

    name: str
    region: str
    account: str
    run: str
    owner: str
    created: str
    expires: str = ""
    instance_type: str = ""
    usd_per_instance_hour: float | None = None
    max_client_batch: int = 32
    job: str = ""
    resources: tuple[Resource, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The deployments of one run."""

    schema: int = SCHEMA
    deployments: tuple[Deployment, ...] = ()

    def named(self, name: str) -> Deployment | None:
        """The deployment of that name."""
        return next((deployment for deployment in self.deployments if deployment.name == name), None)


_STATE = TypeAdapter(State)


class StateFile:
    """The state file of one run. Every change is on disk before the next call to AWS."""

    def __init__(self, folder: Path, now: Callable[[], datetime]) -> None:
        self.folder = folder
        self._workspace = Workspace(folder)
        self._now = now

    @property
    def path(self) -> Path:
        """The file's path."""
        return self._workspace.path(FILE)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second apply or destroy of the same run away."""
        with self._workspace.lock():
            yield

    def read(self) -> State:
        """The state, empty if there is no file yet. Raises InputError for a damaged file."""
        if not self.path.exists():
            return State()
        by_tag = f"Move {self.path} away; destroy then finds what is left by its tags."
        try:
            value = json.loads(self.path.read_text("utf-8"))
            schema = value.get("schema")
            if schema != SCHEMA:
                raise SchemaMismatch(
                    f"{self.path} has schema version {schema}; this embedfit reads version {SCHEMA}.",
                    remedy=f"Use the embedfit that wrote it. {by_tag}",
                )
            return _STATE.validate_python(value)
        except (ValueError, AttributeError, ValidationError) as error:
            raise InputError(f"{self.path} is damaged.", remedy=by_tag) from error

    def put(self, deployment: Deployment) -> None:
        """Record a deployment, in place of one of the same name."""
        state = self.read()
        others = tuple(other for other in state.deployments if other.name != deployment.name)
        self._write(replace(state, deployments=(*others, deployment)))

    def drop(self, name: str) -> None:
        """Forget a deployment of which nothing is left."""
        state = self.read()
        self._write(replace(state, deployments=tuple(other for other in state.deployments if other.name != name)))

    def mark(self, deployment: str, resource: Resource) -> None:
        """Record a resource of a known deployment, in place of the same one."""
        known = self._deployment(deployment)
        resource = replace(resource, changed=self._now().isoformat(timespec="seconds"))
        others = tuple(other for other in known.resources if not _same(other, resource))
        ordered = sorted((*others, resource), key=lambda one: KINDS.index(one.kind))
        self.put(replace(known, resources=tuple(ordered)))

    def unmark(self, deployment: str, resource: Resource) -> None:
        """Forget a resource that is gone."""
        known = self.read().named(deployment)
        if known is not None:
            left = tuple(other for other in known.resources if not _same(other, resource))
            self.put(replace(known, resources=left))

    def _deployment(self, name: str) -> Deployment:
        known = self.read().named(name)
        if known is None:
            raise InputError(
                f"{self.path} has no deployment {name}.", remedy="Was it changed by hand? Run apply again."
            )
        return known

    def _write(self, state: State) -> None:
        self._workspace.write_json(FILE, asdict(state))


def _same(one: Resource, other: Resource) -> bool:
    return (one.kind, one.name) == (other.kind, other.name)
