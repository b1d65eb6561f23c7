"""The files of a job, as both of its sides know them: under S3 here, under /opt/ml in the container."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pydantic import JsonValue, TypeAdapter

from embedfit.files.atomic import is_temporary
from embedfit.files.hashes import files_below, sha256_file
from embedfit.path.stages import FORGOTTEN, WRITERS

#: SageMaker's folder in a container, the name of our channel, and the folder that SageMaker copies to S3 all the time.
ROOT = "/opt/ml"
CHANNEL = "embedfit"
CHECKPOINTS = "checkpoints"
#: Under the channel: the user's files by their absolute paths, and the run folder as it was.
FILES = "files"
RUN = "run"
#: Under the checkpoints: the list of the run folder's files, and the ledger.
LISTING = "files.json"
LEDGER = "ledger.sqlite"
#: Files of the run folder that a person's command wrote.
_BROUGHT = ("person_grades.jsonl", FORGOTTEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The file job.json. version: of embedfit. run: the run folder, relative to the checkpoints.

    settings: of embedfit.toml, paths as the run folder keeps them; places: each such path → its file under the channel.
    arguments: further ones of `embedfit run`. secrets: environment variable → ARN; the container reads the values.
    """

    version: str
    wheel: str
    extras: str
    run: str
    settings: Mapping[str, JsonValue]
    places: Mapping[str, str]
    arguments: tuple[str, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The run folder's files at an instant, with their SHA-256 once the command has ended.

    code: its exit code; None while it runs.
    """

    files: Mapping[str, str]
    code: int | None = None


JOB = TypeAdapter(Job)
LISTED = TypeAdapter(Listing)


def job_json(job: Job) -> bytes:
    """The bytes of job.json."""
    return JOB.dump_json(job, indent=1)


def run_files(run: Path) -> Iterator[tuple[str, Path]]:
    """(name, path) of the files that make a run folder. The user's own files in it, and its settings, are left out."""
    for name, path in files_below(run) if run.is_dir() else ():
        parts = PurePosixPath(name).parts
        known = parts[0] in WRITERS or name in WRITERS or name in _BROUGHT or parts[0] == ".partial"
        manifest = len(parts) == 1 and name.endswith(".manifest.json")
        if (known or manifest) and not any(map(is_temporary, parts)):
            yield name, path


def listing_of(run: Path, code: int | None = None) -> bytes:
    """The listing of a run folder as JSON. code: of a command that has ended."""
    files = {name: sha256_file(path) if code is not None else "" for name, path in run_files(run)}
    return LISTED.dump_json(Listing(files=files, code=code))


def mirrored(path: str | Path) -> str:
    """The key under the channel of a file with that absolute path."""
    parts = [part.strip("/\\").replace(":", "_") for part in Path(path).parts]
    return "/".join([FILES, *filter(None, parts)])


def run_place(stored: Mapping[str, str]) -> str:
    """The run folder's place under the checkpoints: so deep that no stored path, "../../docs", leaves them.

    Files that lie where such a path leads would be taken for the user's.
    """
    up = max((PurePosixPath(name).parts.count("..") for name in stored), default=0)
    return "/".join(["_"] * (up + 1) + [RUN])
