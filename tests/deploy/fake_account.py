"""An AWS account in this process, a clock that does not wait, and a model folder of a few bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import boto3

from embedfit.deploy.account.calls import Aws, Clock
from embedfit.deploy.account.prices import load_prices
from embedfit.deploy.artefact import Artefact, resolve_artefact
from embedfit.deploy.endpoint.plan import DeployPlan, make_plan
from embedfit.deploy.options import Options
from embedfit.testing.aws_faults import Faults
from tests.deploy import backends

REGION = "us-east-1"
ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/endpoint"
BUCKET = f"sagemaker-{REGION}-{ACCOUNT}"
TRUST = json.dumps(
    {
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ]
    }
)


@dataclass
class FakeTime:
    """A clock that only sleep moves."""

    time: datetime = datetime(2026, 7, 1, 12, 0, tzinfo=timezone.utc)
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += timedelta(seconds=seconds)

    @property
    def clock(self) -> Clock:
        return Clock(now=lambda: self.time, sleep=self.sleep)


@dataclass
class Account:
    """The fake account. plain: a client that no fault reaches."""

    url: str
    session: Any
    plain_session: Any
    faults: Faults

    def aws(self, region: str = REGION) -> Aws:
        return Aws(session=self.session, region=region, endpoints={"*": self.url}, _clients=self._shared(region))

    _clients: dict[str, dict[str, Any]] = field(default_factory=dict)

    def _shared(self, region: str) -> dict[str, Any]:
        return self._clients.setdefault(region, {})

    def forget_clients(self) -> None:
        self._clients.clear()

    _plain: dict[tuple[str, str], Any] = field(default_factory=dict)

    def plain(self, service: str, region: str = REGION) -> Any:
        if (service, region) not in self._plain:
            self._plain[service, region] = self.plain_session.client(service, region_name=region, endpoint_url=self.url)
        return self._plain[service, region]

    def everything(self, region: str = REGION) -> dict[str, list[str]]:
        """The names of all that a deployment could leave behind, read past HTTP from the server's own memory."""
        sagemaker = backends.sagemaker_backends[ACCOUNT][region]
        scaling = backends.applicationautoscaling_backends[ACCOUNT][region]
        buckets = backends.s3_backends[ACCOUNT]["aws"].buckets.values()
        roles = backends.iam_backends[ACCOUNT]["aws"].roles.values()
        left = {
            "endpoints": list(sagemaker.endpoints),
            "configs": list(sagemaker.endpoint_configs),
            "models": list(sagemaker._models),
            "targets": [name for dimension in scaling.targets.values() for name in dimension],
            "policies": [policy.policy_name for policy in scaling.policies.values()],
            "objects": [key.name for bucket in buckets for key in bucket.keys.values()],
            "uploads": [upload.key_name for bucket in buckets for upload in bucket.multiparts.values()],
            "logs": list(backends.logs_backends[ACCOUNT][region].groups),
            "roles": [role.name for role in roles if role.path == "/embedfit/"],
        }
        return {kind: names for kind, names in left.items() if names}


def new_session() -> Any:
    return boto3.Session(
        aws_access_key_id="key-of-a-test", aws_secret_access_key="secret-of-a-test", region_name=REGION
    )


def make_model_folder(folder: Path, weights: bytes = b"weights") -> Path:
    (folder / "1_Pooling").mkdir(parents=True)
    (folder.parent / "embedfit.toml").write_text("")
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "modules.json").write_text(
        '[{"path": "", "type": "sentence_transformers.models.Transformer"},'
        ' {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]'
    )
    (folder / "1_Pooling" / "config.json").write_text(
        '{"word_embedding_dimension": 4, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    )
    return folder


def options_for(folder: Path, **changes: Any) -> Options:
    settings: dict[str, Any] = {
        "model": str(folder),
        "region": REGION,
        "instance_type": "ml.m5.xlarge",
        "role_arn": ROLE,
        "min_instances": 1,
        "max_instances": 3,
        "target_invocations": 200.0,
    }
    return Options(**{**settings, **changes})


def artefact_of(folder: Path | str, tmp_path: Path) -> Artefact:
    return resolve_artefact(str(folder), aliases={"minilm": "x/minilm"}, user_folder=tmp_path / "user", device="cpu")


@dataclass
class Deployer:
    """Makes plans of the small model in the fake account."""

    account: Account
    folder: Path
    tmp_path: Path
    time: FakeTime

    def plan(self, *, attempt: str | None = None, folder: Path | None = None, **changes: Any) -> DeployPlan:
        return make_plan(
            options_for(folder or self.folder, **changes),
            artefact_of(folder or self.folder, self.tmp_path),
            aws=self.account.aws(),
            prices=load_prices(),
            now=self.time.time,
            attempt=attempt,
        )

    @property
    def state_folder(self) -> Path:
        return self.folder.parent / "deploy"
