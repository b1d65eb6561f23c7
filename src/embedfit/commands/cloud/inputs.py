"""What a run needs of this machine, as files under keys: documents, models, questions, the run folder, embedfit itself.

A file lies under its absolute path, so that documents' ids, which may hold the names of outer folders, are the same.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import resources
from pathlib import Path

from embedfit.config import RECORDED, Config, fields, path_kind, setting, stored_settings
from embedfit.corpus.sources.discover import discover
from embedfit.corpus.sources.walking import LEFT_OUT
from embedfit.deploy.artefact import ModelFile
from embedfit.deploy.jobs.layout import CHECKPOINTS, LEDGER, ROOT, RUN, Job, job_json, mirrored, run_files, run_place
from embedfit.deploy.jobs.plan import JobInputs
from embedfit.deploy.jobs.wheel import own_wheel
from embedfit.errors import InputError
from embedfit.files.beir import beir_files
from embedfit.files.hashes import Hashes
from embedfit.llm.ledger.moving import put_in, take_out
from embedfit.llm.ledger.spent import calls_of_run
from embedfit.models.store.content import model_files
from embedfit.path.freshness import model_path
from embedfit.path.workspace import Workspace, passages_of_model, sha256_json

#: What the job installs with embedfit: clients of language models, readers of documents, adapters.
_EXTRAS = "aws,openai,local,formats,lora"
#: The longest key of S3, in bytes, less what stands before ours.
_KEY_BYTES = 1024 - 128


@dataclass(slots=True)
class _Gathered:
    """Files by their keys. written: those that are made for the job."""

    files: dict[str, Path] = field(default_factory=dict)
    written: dict[str, bytes] = field(default_factory=dict)

    def add(self, path: Path) -> None:
        """A file under its absolute path."""
        self.files[mirrored(path.expanduser().absolute())] = path


def job_inputs(
    workspace: Workspace,
    config: Config,
    *,
    ledger: Path,
    arguments: tuple[str, ...],
    secrets: Mapping[str, str],
    force: bool,
) -> JobInputs:
    """The inputs of a run's job. Changes nothing.

    arguments: further ones of `embedfit run`. force: the run begins anew, without the run folder as it is here. Raises
    InputError for a file that can't be uploaded.
    """
    gathered = _Gathered()
    for path in _outside(config, gathered):
        gathered.add(path)
    hashes = Hashes(workspace.root)
    digests = {key: hashes.of(path) for key, path in sorted(gathered.files.items())}
    settings, places = stored_settings(config, workspace.path("embedfit.toml"))
    place = run_place(places)
    name, wheel = own_wheel()
    job = Job(
        version=name.split("-")[1],
        wheel=name,
        extras=_EXTRAS,
        run=place,
        settings=json.loads(json.dumps(settings)),
        places={stored: mirrored(path) for stored, path in places.items()},
        arguments=arguments,
        secrets=dict(secrets),
    )
    identity = sha256_json({"job": job_json(job).decode(), "files": digests, "wheel": sha256(wheel).hexdigest()})
    start = resources.files("embedfit.deploy.jobs").joinpath("start.py").read_bytes()
    gathered.written |= {"job.json": job_json(job), name: wheel, "start.py": start}
    if not force:
        gathered.files |= {f"{RUN}/{inner}": path for inner, path in run_files(workspace.root)}
    if replies := _replies(workspace, ledger, place):
        gathered.written[LEDGER] = replies
    return JobInputs(
        run=workspace.root.absolute().name,
        folder=workspace.root,
        files=tuple(_listed(gathered, workspace.root / "deploy" / "upload", hashes)),
        written=gathered.written,
        sha256=identity,
        place=place,
    )


def _listed(gathered: _Gathered, upload: Path, hashes: Hashes) -> Iterator[ModelFile]:
    made = {key: upload / key for key in gathered.written}
    for key, path in sorted({**gathered.files, **made}.items()):
        if len(key.encode("utf-8", "surrogateescape")) > _KEY_BYTES:
            raise InputError(f"The path {path} is too long for S3.", remedy="Move the documents to a shorter path.")
        content = gathered.written.get(key)
        size = path.stat().st_size if content is None else len(content)
        digest = hashes.of(path) if content is None else sha256(content).hexdigest()
        yield ModelFile(key=key, path=path, size=size, sha256=digest)


def _outside(config: Config, gathered: _Gathered) -> Iterator[Path]:
    """The files outside the run folder that the settings name."""
    for key in fields():
        kind, value = path_kind(key), setting(config, key)
        if kind is None or not value or key == "evaluate.systems" or kind == "vectors":
            continue
        names = [value] if isinstance(value, str) else [str(one) for one in value]
        if kind == "documents":
            yield from _documents(names, config, gathered)
            continue
        for name in names:
            if kind == "spec":
                if name.startswith(RECORDED):
                    yield Path(name.removeprefix(RECORDED))
            elif kind == "model":
                yield from _model(key, name, config)
            elif kind == "beir":
                yield from (path for path in beir_files(Path(name)).values() if path.is_file())
            else:
                yield Path(name)


def _model(key: str, name: str, config: Config) -> Iterator[Path]:
    path = model_path(key, name, config)
    if path is None:
        return  # a name on the hub or at a provider
    yield from (file for _, file in model_files(path))
    passages = passages_of_model(name)
    if passages is not None:  # ingest cuts new passages as that run did
        yield from (passages, passages.parent / "merge.manifest.json")


def _documents(names: list[str], config: Config, gathered: _Gathered) -> Iterator[Path]:
    """The documents that are read. Each other one is an empty file there, and a list gives the reasons."""
    left_out: dict[Path, dict[str, str]] = defaultdict(dict)
    for source in discover(names, follow_links=config.ingest.follow_links):
        if not source.problem:
            yield source.path
        elif source.path != source.root:
            left_out[source.root][source.name] = source.problem
            gathered.written[mirrored((source.root / source.name).absolute())] = b""
        elif source.path.is_file():
            yield source.path  # named itself: ingest says there what is wrong with it
    for root, reasons in left_out.items():
        gathered.written[mirrored(root.absolute() / LEFT_OUT)] = json.dumps(reasons, ensure_ascii=False).encode()


# --- replies that were paid for


def _replies(workspace: Workspace, ledger: Path, place: str) -> bytes:
    """The run's replies in a ledger of their own; empty if there are none."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / LEDGER
        calls = calls_of_run(workspace)
        if not take_out(ledger, target, str(workspace.root.resolve()), calls, booked=_booked(place)):
            return b""
        return target.read_bytes()


def keep_replies(source: Path, ledger: Path, workspace: Workspace, place: str) -> int:
    """Add the replies that a job paid for to the user's ledger. Returns how many were new."""
    return put_in(source, ledger, str(workspace.root.resolve()), booked=f"/{CHECKPOINTS}/{place}")


def _booked(place: str) -> str:
    """The name under which the run in the container books its calls: its folder."""
    return f"{ROOT}/{CHECKPOINTS}/{place}"
