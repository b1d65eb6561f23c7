"""The only reader and writer of run folders: atomic files, atomic folders, manifests, a lock."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from embedfit.errors import ArtifactMissing, EmbedfitError, InputError, SchemaMismatch
from embedfit.files.atomic import atomic_file, atomic_folder, disk_errors, locked, sweep
from embedfit.files.places import read_places, stored_path
from embedfit.files.textfiles import lines_of
from embedfit.path.artefacts import (
    Adapted,
    Assessed,
    CheckResult,
    ChosenRetriever,
    Document,
    DroppedPassage,
    Evaluation,
    Grade,
    Judgement,
    Manifest,
    MergeSweep,
    Metadata,
    Passage,
    Pooled,
    Query,
    Score,
    Summary,
    TrainingLog,
    TrainingStep,
    TrainRow,
    Whole,
)
from embedfit.path.lines import Lines, mapped
from embedfit.path.stages import WRITERS, writer_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SCHEMA = 1

#: The file of each record type; a new format is a new entry.
FILES: dict[type, str] = {
    Document: "documents.jsonl",
    Passage: "passages.jsonl",
    Metadata: "metadata.jsonl",
    DroppedPassage: "dropped_passages.jsonl",
    Query: "queries.jsonl",
    TrainRow: "train.jsonl",
    Judgement: "judgements.jsonl",
    Pooled: "pool.jsonl",
    Grade: "grades.jsonl",
    Score: "scores.jsonl",
    TrainingStep: "finetuned/losses.jsonl",
    TrainingLog: "finetuned/training.json",
    MergeSweep: "merge.json",
    CheckResult: "check.json",
    ChosenRetriever: "retriever.json",
    Evaluation: "evaluation.json",
    Summary: "summary.json",
    Adapted: "adapt/adapt.json",
    Assessed: "assess/assess.json",
}
T = TypeVar("T")
W = TypeVar("W", bound=Whole)
L = TypeVar("L", bound="DataclassInstance")


#: The parser of each record type, made once.
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def _adapter(record_type: type[T]) -> TypeAdapter[T]:
    if record_type not in _ADAPTERS:
        _ADAPTERS[record_type] = TypeAdapter(record_type)
    return _ADAPTERS[record_type]


def encode_record(record: DataclassInstance) -> str:
    """One line of JSONL, without the newline. Surrogates are replaced, because no file may hold them."""
    return _ENCODER.encode(_plain(record)).encode("utf-8", "replace").decode("utf-8")


def line_of(record: DataclassInstance) -> bytes:
    """The line of a record in a JSONL file."""
    return f"{encode_record(record)}\n".encode()


def _plain(record: object) -> dict[str, object]:
    """The fields of a record. Unlike asdict() it copies no value, which took most of the time of writing."""
    if not is_dataclass(record):
        raise TypeError(f"{type(record).__name__} is no record")
    return {one.name: getattr(record, one.name) for one in fields(record)}


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_plain)


def decode_record(line: bytes, record_type: type[T]) -> T:
    """The record of one line of JSONL that encode_record wrote."""
    return _adapter(record_type).validate_json(line)


def encode_whole(record: Whole) -> str:
    """The text of a file of one JSON value. NaN is refused: no reader of JSON has to accept it."""
    value = record.model_dump(by_alias=True)
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_jsonl(path: Path, record_type: type[T]) -> Iterator[T]:
    """Records of a JSONL file. Errors name the file and the line."""
    adapter = _adapter(record_type)
    for number, line in lines_of(path):
        if not line.strip():
            continue
        try:
            yield adapter.validate_json(line)
        except ValidationError as error:
            raise InputError(f"{path}, line {number}: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    """The first fault of a record: its field, and what is wrong with it."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


#: The split of an asked question as encode_record() writes it. No text looks like it, for texts have escaped quotes.
_ASKED = tuple(f'"split": "{split}"'.encode() for split in ("log", "judge"))


def written_sha256(path: Path) -> str:
    """Hex SHA-256 of the lines that a language model wrote. If no question was asked, it is that of the whole file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for line in file:
            if not any(mark in line for mark in _ASKED):
                digest.update(line)
    return digest.hexdigest()


def passages_of_model(model: str) -> Path | None:
    """The passages of the run that made a model (RUN/merged, RUN/finetuned); None for any other model."""
    folder = Path(model).expanduser()
    passages = folder.parent / FILES[Passage]
    own = folder.name in ("merged", "finetuned") and (folder.parent / "merge.manifest.json").exists()
    return passages if own and passages.exists() else None


def sha256_json(value: object) -> str:
    """Hex SHA-256 of a JSON value in canonical form. Changing the form makes every run stale."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def sha256_json_list(values: Iterable[object]) -> str:
    """sha256_json() of a list, of which one value is in memory at a time."""
    digest = hashlib.sha256(b"[")
    for number, value in enumerate(values):
        digest.update(b"," * (number > 0) + _canonical(value))
    digest.update(b"]")
    return digest.hexdigest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Workspace:
    """A run folder. Its files are listed in docs/path.md and FILES."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        #: Names of the files that were read, for the manifest of the running stage.
        self.opened: set[str] = set()
        self._places: dict[str, str] = {}
        self._places_at: int | None = None

    def path(self, name: str) -> Path:
        """The path of a file or folder of the run, whether or not it exists."""
        return self.root / name

    def existing(self, name: str) -> Path:
        """The path of a file or folder that must exist. Raises ArtifactMissing with the stage that makes it."""
        path = self.path(name)
        self.opened.add(name)
        if not path.exists():
            stage = writer_of(name)
            raise ArtifactMissing(
                f"{path} is missing.", remedy=f"Run: embedfit {stage} --run {self.root}" if stage else None
            )
        return path

    def remove(self, name: str) -> None:
        """Remove a file or folder of the run that the present settings make invalid."""
        path = self.path(name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def stored_path(self, path: str | Path) -> str:
        """The form in which the run keeps a path outside or inside it; see embedfit.files.places."""
        settings = self.path("embedfit.toml")
        with suppress(OSError):
            changed = settings.stat().st_mtime_ns
            if changed != self._places_at:
                self._places, self._places_at = read_places(settings), changed
        return stored_path(path, self.root, self._places)

    # --- records

    def read(self, record_type: type[T]) -> list[T]:
        """All records of a type."""
        return list(read_jsonl(self.existing(FILES[record_type]), record_type))

    def lines(self, record_type: type[T]) -> Lines[T]:
        """The same, but a record is in memory only while it is used. Raises InputError for a line that is no record."""
        path = self.existing(FILES[record_type])
        with path.open("rb") as file:
            sizes, data = np.fromiter(map(len, file), np.int64), mapped(file)
        stops = np.cumsum(sizes)
        adapter = _adapter(record_type)

        def decode(line: bytes) -> T:
            try:
                return adapter.validate_json(line)
            except ValidationError as error:
                raise InputError(f"{path}: {_first(error)}: {line[:80].decode('utf-8', 'replace')!r}") from error

        blank = sizes <= len("\r\n")
        return Lines(data, (stops - sizes)[~blank], stops[~blank], decode)

    def unnamed(self) -> IO[bytes]:
        """A file in the run folder that has no name. It is gone when it is closed."""
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            return tempfile.TemporaryFile(dir=self.root)

    @contextmanager
    def writing(self, record_type: type[L]) -> Iterator[Callable[[Iterable[L]], None]]:
        """A function that appends records to a file, which appears only on clean exit."""
        with atomic_file(self.path(FILES[record_type])) as file:

            def extend(records: Iterable[L]) -> None:
                for record in records:
                    file.write(encode_record(record) + "\n")

            yield extend

    def write(self, record_type: type[L], records: Iterable[L]) -> None:
        """Write all records of a type, atomically."""
        with self.writing(record_type) as extend:
            extend(records)

    def has(self, record_type: type) -> bool:
        """Whether the file of a record type is there."""
        return self.path(FILES[record_type]).exists()

    def load(self, record_type: type[W]) -> W:
        """The record of a file of one JSON value. Raises InputError that names a damaged file and what is wrong."""
        name = FILES[record_type]
        path = self.existing(name)
        try:
            return record_type.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise InputError(
                f"{path}: {_first(error)}.", remedy=f"Run: embedfit {writer_of(name)} --run {self.root} --force"
            ) from error

    def store(self, record: Whole) -> None:
        """Write the file of a record, atomically."""
        self.write_text(FILES[type(record)], encode_whole(record))

    # --- JSON and text

    def read_json(self, name: str) -> Any:  # noqa: ANN401 - JSON
        """The value of a JSON file."""
        path = self.existing(name)
        try:
            return json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is not valid JSON: {error}") from error

    def write_json(self, name: str, value: object) -> None:
        """Write a JSON file, atomically. NaN is refused: no reader of JSON has to accept it."""
        with atomic_file(self.path(name)) as file:
            json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
            file.write("\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, atomically."""
        with atomic_file(self.path(name)) as file:
            file.write(text)

    def writing_folder(self, name: str) -> AbstractContextManager[Path]:
        """A temporary folder that gets the name on clean exit."""
        return atomic_folder(self.path(name))

    def scratch(self, stage: str) -> Path:
        """A folder for the files by which a stage resumes. It is removed when the stage is done."""
        path = self.path(f".partial/{stage}")
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def clear_scratch(self, stage: str) -> None:
        """Remove the scratch folder of a stage."""
        shutil.rmtree(self.path(f".partial/{stage}"), ignore_errors=True)
        with suppress(OSError):
            self.path(".partial").rmdir()

    def has_scratch(self, stage: str) -> bool:
        """Whether a stage began and did not finish."""
        return self.path(f".partial/{stage}").exists()

    # --- manifests

    def read_manifest(self, stage: str) -> Manifest | None:
        """The manifest of a finished stage, or None. Raises SchemaMismatch for another schema version."""
        path = self.path(f"{stage}.manifest.json")
        self.opened.add(path.name)
        if not path.exists():
            return None
        try:
            value = json.loads(path.read_text("utf-8"))
            schema = value.get("schema")
            if schema != SCHEMA:
                raise SchemaMismatch(
                    f"{path} has schema version {schema}; this embedfit reads version {SCHEMA}.",
                    remedy="Use the embedfit that made this run folder, or choose another --run folder.",
                )
            return _adapter(Manifest).validate_python(value)
        except (ValueError, AttributeError):
            return None  # a damaged manifest means that the stage is run again

    def write_manifest(self, manifest: Manifest) -> None:
        """Write a stage's manifest, which marks the stage as finished."""
        self.write_json(f"{manifest.stage}.manifest.json", asdict(manifest))

    def drop_manifest(self, stage: str) -> None:
        """Remove a stage's manifest before it runs, so that its outputs don't count as whole until it ends."""
        self.path(f"{stage}.manifest.json").unlink(missing_ok=True)

    # --- one run at a time

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second embedfit out of the run folder. The system releases the lock if we are killed."""
        with locked(self.root / ".lock", wait=False) as ours:
            if not ours:
                raise EmbedfitError(
                    f"Another embedfit is at work in {self.root}.",
                    remedy="Wait for it to end, or choose another --run folder.",
                )
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Remove leftovers of killed processes wherever a stage writes. All other files here belong to the user."""
        sweep(self.root)
        for name in (".partial", *WRITERS):
            for folder, _, _ in os.walk(self.path(name)):
                sweep(Path(folder))
