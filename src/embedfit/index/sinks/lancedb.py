"""An index in a LanceDB folder, the embedded database that needs no server.

    DIR/current            a link to the folder of the rows that count; a hand-over moves it in one step
    DIR/current/*.lance    passages, with their vectors and tokens; windows; queries; words by term
    DIR/current/index.json the facts, written last: without it the load was interrupted, and the next one goes on

LanceDB compares the vectors. It has no sparse vectors, so words are kept by term: a query reads the rows of its terms
and adds their weights. Every passage is compared, or proven to be no better than those found: the search is exact.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from embedfit.errors import EmbedfitError, InputError, MissingDependency, UsageError, first_line
from embedfit.files.atomic import atomic_file, disk_errors
from embedfit.index.retriever import DENSE_PARTS, PartName
from embedfit.index.scoring import ordered
from embedfit.index.sinks.changes import say_changes
from embedfit.index.sinks.sink import (
    Candidate,
    Digest,
    Handover,
    Outdated,
    Question,
    Row,
    SinkKind,
    after_colon,
    holds_no_index,
    read_about,
)
from embedfit.index.store.columns import Catalogue, Mask
from embedfit.index.store.filters import Filter
from embedfit.numerics.arrays import Floats, Ints

_FORM, _EXTRA = "lancedb://DIR", "stores"
CURRENT, ABOUT, QUESTIONS, _LOCK = "current", "index.json", "questions.npz", ".embedfit.lock"
#: Vectors that are compared first. If a passage behind them may be better than those found, four times as many are.
_FIRST = 20_000
#: Terms that are written at a time.
_TERMS = 20_000
_ROUNDING = 1e-4


class LanceDb:
    """DIR, a folder of LanceDB."""

    def __init__(self, folder: Path) -> None:
        """Raises UsageError if the folder holds anything but an earlier hand-over."""
        if folder.exists() and not _is_ours(folder):
            raise UsageError(
                f"{folder} holds something other than an earlier hand-over of an index, so it is not replaced.",
                remedy="Name a new folder or an empty one.",
            )
        self.folder = folder

    def write(self, handover: Handover) -> None:
        """Write the rows beside the old ones, move the link to them, and delete the old ones."""
        content = handover.about.content
        with _lance_errors(self.folder), _alone(self.folder):
            target = self.folder / content
            if not (target / ABOUT).exists():
                _load(target, handover)
            if _current(self.folder) == content:
                handover.log(f"index: {self.folder} holds these rows already")
            elif (before := _digests(self.folder / CURRENT)) is not None:
                say_changes(handover, before)
            link = self.folder / f".{CURRENT}"
            link.unlink(missing_ok=True)
            link.symlink_to(content)
            os.replace(link, self.folder / CURRENT)
            for other in self.folder.iterdir():
                if other.is_dir() and not other.is_symlink() and other.name != content:
                    shutil.rmtree(other)


def _is_ours(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return not names or _LOCK in names


def _current(folder: Path) -> str:
    try:
        return os.readlink(folder / CURRENT)
    except OSError:
        return ""


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _LOCK, timeout=0):
            yield
    except Timeout as error:
        raise EmbedfitError(
            f"Another process hands an index over to {folder} just now.", remedy="Wait for it, and try again."
        ) from error


@contextmanager
def _lance_errors(folder: Path) -> Iterator[None]:
    """The errors of LanceDB and of its files as ours."""
    try:
        with disk_errors(folder):
            yield
    except (OSError, RuntimeError, ValueError) as error:
        raise EmbedfitError(
            f"LanceDB could not use {folder}: {first_line(error)}",
            remedy=f"If the folder was changed by hand, delete it and hand the index over again: --to lancedb://{folder}",
        ) from error


def _load(target: Path, handover: Handover) -> None:
    """Write the rows of a folder, from where an interrupted load stopped."""
    import lancedb
    import pyarrow as pa

    about = handover.about
    tables = lancedb.connect(target)
    have = set(tables.list_tables(limit=100).tables)

    def table(name: str, columns: Mapping[str, pa.DataType]) -> Any:  # noqa: ANN401 - a lancedb table
        return tables.open_table(name) if name in have else tables.create_table(name, schema=pa.schema(columns))

    vector = pa.list_(pa.float32(), about.dimensions)
    columns = dict.fromkeys(("id", "document", "title", "text", "metadata", "digest"), pa.string())
    columns = {"number": pa.int32(), **columns, "page": pa.int32()}
    columns |= {"vector": vector} if "one" in about.holds else {}
    columns |= {"tokens": pa.binary()} if "tokens" in about.holds else {}
    passages = table("passages", columns)
    several = {
        name: table(name, {"number": pa.int32(), "vector": vector})
        for name in ("windows", "queries")
        if name in about.holds
    }
    done = passages.count_rows()
    for rows in several.values():
        rows.delete(f"number >= {done}")  # those of a batch whose passages did not follow
    for batch in handover.batches(done) if done < about.passages else ():
        for part, rows in several.items():
            given = [getattr(row, part) for row in batch]
            numbers = np.repeat([row.number for row in batch], [len(one) for one in given]).astype(np.int32)
            rows.add(pa.table({"number": numbers, "vector": _vectors(given, vector)}))
        passages.add(_passages(batch, columns, vector))
    for name in about.terms:
        terms = {"number": pa.int32(), "term": pa.string()}
        lists = {"passages": pa.list_(pa.int32()), "weights": pa.list_(pa.float32())}
        _load_words(table(name, terms | lists), handover, name)
    for path in handover.field_files():
        shutil.copyfile(path, target / path.name)
    (target / QUESTIONS).write_bytes(handover.questions)
    with atomic_file(target / ABOUT) as file:
        file.write(about.model_dump_json(indent=1))


def _digests(folder: Path) -> list[Digest] | None:
    """Those of an earlier hand-over, None if there is none of this edition."""
    import lancedb

    try:
        read_about((folder / ABOUT).read_text("utf-8"), str(folder))
    except (OSError, InputError):
        return None
    table = lancedb.connect(folder).open_table("passages")
    rows = table.search().select(["number", "id", "digest"]).limit(table.count_rows()).to_arrow()
    found = zip(*(rows[name].to_pylist() for name in ("number", "id", "digest")), strict=True)
    return [Digest(*own) for _, *own in sorted(found)]


def _vectors(given: Sequence[Floats], kind: Any) -> Any:  # noqa: ANN401 - pyarrow's
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(given).ravel()), type=kind)


def _passages(batch: Sequence[Row], columns: Mapping[str, Any], vector: Any) -> Any:  # noqa: ANN401 - pyarrow's
    import pyarrow as pa

    made: dict[str, Any] = {}
    for name, kind in columns.items():
        if name == "vector":
            made[name] = _vectors([row.vector[None] for row in batch if row.vector is not None], vector)
        elif name == "tokens":
            made[name] = pa.array([b"" if row.tokens is None else row.tokens.tobytes() for row in batch], kind)
        elif name == "metadata":
            made[name] = pa.array([json.dumps(dict(row.metadata), ensure_ascii=False) for row in batch], kind)
        else:
            made[name] = pa.array([getattr(row, name) for row in batch], kind)
    return pa.table(made)


def _load_words(table: Any, handover: Handover, part: str) -> None:  # noqa: ANN401 - a lancedb table
    """Write a part of words, a row a term: the passages that hold it, and its weights in them."""
    import pyarrow as pa

    starts, passages, weights = handover.postings(part)
    terms = handover.terms(part)
    for start in range(table.count_rows(), len(terms), _TERMS):
        stop = min(start + _TERMS, len(terms))
        own = slice(starts[start], starts[stop])
        offsets = pa.array((starts[start : stop + 1] - starts[start]).astype(np.int32))
        table.add(
            pa.table(
                {
                    "number": np.arange(start, stop, dtype=np.int32),
                    "term": pa.array(terms[start:stop]),
                    "passages": pa.ListArray.from_arrays(offsets, pa.array(passages[own].astype(np.int32))),
                    "weights": pa.ListArray.from_arrays(offsets, pa.array(weights[own])),
                }
            )
        )


class LanceStore:
    """What was handed over to a folder, opened for queries."""

    def __init__(self, folder: Path) -> None:
        """Raises UsageError if nothing was handed over there, EmbedfitError if a file of it is missing."""
        self._link = folder
        self._catalogue: Catalogue | None = None
        with _lance_errors(folder):
            try:
                self._open()
            except (OSError, RuntimeError, ValueError):
                if _current(folder) == self._name:
                    raise
                self._open()  # the rows were replaced meanwhile

    def _open(self) -> None:
        import lancedb

        self._name = _current(self._link)
        self._folder = self._link / self._name
        if not self._name or not (self._folder / ABOUT).is_file():
            raise holds_no_index(str(self._link), f"lancedb://{self._link}")
        self.about = read_about((self._folder / ABOUT).read_text("utf-8"), f"lancedb://{self._link}")
        self.questions = (self._folder / QUESTIONS).read_bytes()
        tables = lancedb.connect(self._folder)
        names = ("passages", *(name for name in ("windows", "queries") if name in self.about.holds), *self.about.terms)
        self._tables = {name: tables.open_table(name) for name in names}

    def first(self, question: Question, depth: int, where: Filter) -> list[Candidate]:
        """The best `depth` passages by the first stage, best first. A filter costs a comparison of every passage."""
        with _lance_errors(self._link):
            try:
                allowed = self._allowed(where) if where.conditions else None
                found, scores = self._best(question, depth, allowed)
                return self._read(found, scores)
            except (RuntimeError, ValueError, OSError) as error:
                if _current(self._link) != self._name:
                    raise Outdated(self._link) from error
                raise

    def close(self) -> None:
        """Free what is open. LanceDB opens files as it reads them."""

    def _allowed(self, where: Filter) -> Mask | None:
        if self._catalogue is None:
            self._catalogue = Catalogue(self.about.fields, self.about.passages, self._folder)
        return self._catalogue.allowed(where)

    def _best(self, question: Question, depth: int, allowed: Mask | None) -> tuple[Ints, Floats]:
        """Numbers and scores of the best passages: exact, because no other passage can score more than the bound."""
        if _current(self._link) != self._name:
            raise Outdated(self._link)
        words = {part.name: self._words(part.name, question) for part in self.about.retriever.parts if part.name in
                 self.about.terms}  # fmt: skip
        most = max([0, *(table.count_rows() for name, table in self._tables.items() if name not in self.about.terms)])
        every = allowed is not None or any(part.weight < 0 for part in self.about.retriever.parts)
        count = most if every else max(_FIRST, 4 * depth)
        while True:
            total, behind = self._sum(question, words, count)
            if allowed is not None:
                total[~allowed] = -np.inf
            best = ordered(total, depth)
            least = total[best[-1]] if len(best) == min(depth, self.about.passages) else -np.inf
            if least > behind or count >= most:
                return best, total[best]
            count *= 4

    def _sum(self, question: Question, words: Mapping[PartName, Floats], count: int) -> tuple[Floats, float]:
        """First-stage scores (N,), -inf for passages that were not compared, and the most that one of them can have."""
        retriever, behind = self.about.retriever, 0.0
        dense = [part.name for part in retriever.parts if part.name in DENSE_PARTS]
        raw: dict[PartName, Floats] = dict(words)
        bounds: dict[PartName, float] = {}
        for name in dense:
            raw[name], bounds[name] = self._cosines(name, question.vector, count)
        known = np.isfinite(sum((raw[name] for name in dense), start=np.zeros(self.about.passages, np.float32)))
        total = np.zeros(self.about.passages, np.float32)
        for part in retriever.parts:
            total += np.where(known, raw[part.name], 0) * np.float32(part.weight / part.deviation)
            most = bounds.get(part.name)
            if most is None:
                most = float(raw[part.name][~known].max(initial=0.0))
            behind += most * part.weight / part.deviation
        total[~known if dense else total <= 0] = -np.inf
        return total, behind + _ROUNDING if not known.all() else -np.inf

    def _cosines(self, name: str, vector: Floats, count: int) -> tuple[Floats, float]:
        """Each passage's best cosine (N,) among the `count` best rows, else -inf, and the least of those cosines."""
        table: Any = self._tables["passages" if name == "one" else name]
        found = (
            table.search(vector, vector_column_name="vector")
            .distance_type("dot")
            .select(["number", "_distance"])
            .limit(count)
            .to_arrow()
        )
        numbers, cosines = found["number"].to_numpy(), 1 - found["_distance"].to_numpy()
        result = np.full(self.about.passages, -np.inf, np.float32)
        np.maximum.at(result, numbers, cosines)
        return result, float(cosines.min(initial=1.0))

    def _words(self, part: str, question: Question) -> Floats:
        """The share of the query that each passage covers: (N,)."""
        asked = question.words[part]
        result = np.zeros(self.about.passages, np.float32)
        if len(asked.numbers):
            rows = self._tables[part].take_offsets(asked.numbers.tolist()).to_arrow()
            shares = dict(zip(asked.numbers.tolist(), asked.values.tolist(), strict=True))
            for number, passages, weights in zip(rows["number"], rows["passages"], rows["weights"], strict=True):
                result[passages.values.to_numpy()] += weights.values.to_numpy() * np.float32(shares[number.as_py()])
        return np.minimum(result, np.float32(1))

    def _read(self, numbers: Ints, scores: Floats) -> list[Candidate]:
        if not len(numbers):
            return []
        columns = ["number", "id", "document", "title", "text", "page", "metadata"]
        columns += ["tokens"] if "tokens" in self.about.holds else []
        rows = self._tables["passages"].take_offsets(numbers.tolist()).select(columns).to_arrow().to_pylist()
        known = {row["number"]: row for row in rows}
        return [
            _candidate(known[number], score, self.about.token_width)
            for number, score in zip(numbers.tolist(), scores.tolist(), strict=True)
        ]


def _candidate(row: dict[str, Any], score: float, width: int) -> Candidate:
    return Candidate.of({**row, "score": score, "metadata": json.loads(row["metadata"])}, width=width)


def _checked(url: str) -> Path:
    if importlib.util.find_spec("lancedb") is None:
        raise MissingDependency("lancedb", extra=_EXTRA, needed_for="A LanceDB folder")
    return after_colon(url, _FORM)


SINK = SinkKind(
    form=_FORM,
    open=lambda url: LanceDb(_checked(url)),
    read=lambda url: LanceStore(_checked(url)),
    extra=_EXTRA,
)
