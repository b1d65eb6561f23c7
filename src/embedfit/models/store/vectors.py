"""The store of computed and paid vectors, in which a vector is found by its embedder and its text.

A file per embedder. Its name is a hash of the *weights*, tokenizer and layout, never of a model's name or path: a model
trained again in the same folder finds no old vectors. A model behind a URL can't be hashed; a few probe texts are
embedded first, and if their vectors are not last time's, the file is emptied.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from embedfit.errors import ModelError
from embedfit.files.atomic import disk_errors
from embedfit.numerics.arrays import Vectors
from embedfit.progress import Reporter, Silent

#: Texts that are embedded to see whether a remote model is still the same.
PROBES = ("What does the warranty cover?", "net loss per share, basic and diluted", "mute", "Zwölf Boxkämpfer")
#: Cosine to last time's vector of a probe, above which a remote model counts as the same.
SAME_MODEL = 1 - 2e-5

# The number of texts between two writes decides how much a killed run loses and how often a bar moves: a few seconds of
# one core's work, yet enough for full batches.
_CHUNK_TEXTS = 512
_CHUNK_CHARACTERS = 60_000
_SELECT = 500  # keys in one SELECT


#: "key": the key is a hash of the weights. "probed": the key is an address, and probes must be compared.
#: "own": the embedder keeps its vectors itself (in the ledger, because they were paid for).
Storage = Literal["key", "probed", "own"]


class Embedder(Protocol):
    """Something that turns texts into unit vectors."""

    @property
    def name(self) -> str:
        """The embedder's name for people, in progress bars and errors."""

    @property
    def key(self) -> str:
        """A hash of all that decides the vectors of passages. Two embedders with one key give the same vectors."""

    @property
    def instruction(self) -> str:
        """The text put before queries; it and the key decide their vectors."""

    @property
    def storage(self) -> Storage:
        """How far the key can be trusted."""

    def embed(self, texts: Sequence[str], *, is_query: bool) -> Vectors:
        """Unit rows: (N, H) float32."""

    def release(self) -> None:
        """Give back memory; embed() may be called again."""


@runtime_checkable
class TwoTowers(Protocol):
    """An embedder that may have a tower for queries and one for passages; each has its own key."""

    def tower(self, *, is_query: bool) -> Embedder:
        """The tower for queries or passages; the embedder itself if it has one tower."""


#: Turns texts into the value that is stored for each.
Compute = Callable[[list[str]], Sequence[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The words of a progress bar: the embedder's name, and the name of the things counted."""

    name: str
    unit: str
    report: Reporter


class VectorStore:
    """Vectors in a folder, one SQLite file per embedder, the longest unused ones removed over `limit` bytes."""

    def __init__(self, folder: Path, *, limit: int = 4 << 30) -> None:
        self.folder = folder
        self.limit = limit
        self._in_use: set[Path] = set()

    def embed(
        self, embedder: Embedder, texts: Sequence[str], *, is_query: bool, report: Reporter | None = None
    ) -> Vectors:
        """Vectors of texts in their order: (N, H). Only texts without a stored vector are embedded, each once."""
        embedder = _tower(embedder, is_query=is_query)
        if embedder.storage == "own":
            return _checked(embedder, embedder.embed(texts, is_query=is_query))
        keys = [_text_key(_kind(embedder, is_query), text) for text in texts]
        text_of = dict(zip(keys, texts, strict=True))
        task = Task(name=embedder.name, unit="queries" if is_query else "passages", report=report or Silent())

        def compute(chunk: list[str]) -> list[bytes]:
            return [row.tobytes() for row in _checked(embedder, embedder.embed(chunk, is_query=is_query))]

        with self._open(embedder) as store:
            found = self._completed(store, text_of, compute, task)
        if not texts:
            return np.zeros((0, 0), np.float32)
        return np.stack([np.frombuffer(found[key], np.float32) for key in keys])

    def put(self, embedder: Embedder, texts: Sequence[str], vectors: Vectors, *, is_query: bool) -> None:
        """Store vectors (N, H) that were computed with something else."""
        embedder = _tower(embedder, is_query=is_query)
        keys = [_text_key(_kind(embedder, is_query), text) for text in texts]
        rows = [row.tobytes() for row in _checked(embedder, vectors)]
        with self._open(embedder) as store, disk_errors(self.folder):
            _write(store, dict(zip(keys, rows, strict=True)))

    def kept(self, key: str, texts: Sequence[str], compute: Compute, task: Task) -> list[bytes]:
        """The values of texts, in their order. `compute` is called once for each text that has none stored.

        key: a hash of all that decides a value beside the text.
        """
        keys = [_text_key("kept", text) for text in texts]
        with self._file(key) as store:
            found = self._completed(store, dict(zip(keys, texts, strict=True)), compute, task)
        return [found[one] for one in keys]

    def _completed(
        self, store: sqlite3.Connection, text_of: dict[bytes, str], compute: Compute, about: Task
    ) -> dict[bytes, bytes]:
        """The values of keys. Missing ones are computed and stored first, chunk by chunk."""
        found = _read(store, text_of)
        # Longest first: batches of equal length waste no padding, and too little memory shows at once.
        missing = sorted((key for key in text_of if key not in found), key=lambda key: -len(text_of[key]))
        with about.report.task(f"{about.name}: {about.unit}", len(text_of), about.unit) as task:
            task.advance(len(found), note=f"{len(found):,} known" if found else "")
            for chunk in _chunks(missing, text_of):
                new = dict(zip(chunk, compute([text_of[key] for key in chunk]), strict=True))
                with disk_errors(self.folder):
                    _write(store, new)
                found.update(new)
                task.advance(len(chunk))
        return found

    def embed_both(
        self, embedder: Embedder, passages: Sequence[str], queries: Sequence[str], *, report: Reporter | None = None
    ) -> tuple[Vectors, Vectors]:
        """Vectors of passages (N, H) and of queries (Q, H); the embedder's memory is given back."""
        try:
            return (
                self.embed(embedder, passages, is_query=False, report=report),
                self.embed(embedder, queries, is_query=True, report=report),
            )
        finally:
            embedder.release()

    def forget(self, kinds: Sequence[str], texts: Sequence[str], *, dry: bool = False) -> int:
        """Delete and overwrite the vectors of texts under every embedder. Returns how many there were.

        kinds: "passage", and "query INSTRUCTION" for each instruction. dry: only count.
        """
        keys = list({_text_key(kind, text) for kind in kinds for text in texts})
        count = 0
        for path in sorted(self.folder.glob("*.sqlite")) if self.folder.is_dir() else ():
            with disk_errors(self.folder), suppress(sqlite3.DatabaseError), closing(_connect(path)) as store:
                store.execute("PRAGMA secure_delete = ON")
                for start in range(0, len(keys), _SELECT):
                    chunk = keys[start : start + _SELECT]
                    where = f"FROM vectors WHERE text IN ({','.join('?' * len(chunk))})"
                    count += int(store.execute(f"SELECT count(*) {where}", chunk).fetchone()[0])
                    if not dry:
                        with store:
                            store.execute(f"DELETE {where}", chunk)
        return count

    @contextmanager
    def _open(self, embedder: Embedder) -> Iterator[sqlite3.Connection]:
        with self._file(embedder.key) as store:
            if embedder.storage == "probed":
                probes = [embedder.embed(PROBES, is_query=is_query) for is_query in (False, True)]
                _check_probes(store, np.concatenate(probes))
            yield store

    @contextmanager
    def _file(self, key: str) -> Iterator[sqlite3.Connection]:
        path = self.folder / f"{key[:40]}.sqlite"
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(keep={path, *self._in_use})
            try:
                store = _connect(path)
            except sqlite3.DatabaseError:  # damaged: it is only a cache
                path.unlink(missing_ok=True)
                store = _connect(path)
        self._in_use.add(path)
        try:
            with closing(store):
                yield store
        finally:
            self._in_use.discard(path)
        with suppress(OSError):
            path.touch()

    def _make_room(self, *, keep: set[Path]) -> None:
        files = sorted(
            (path for path in self.folder.glob("*.sqlite") if path not in keep), key=lambda path: path.stat().st_mtime
        )
        total = sum(path.stat().st_size for path in files)
        for path in files:
            if total <= self.limit:
                break
            total -= path.stat().st_size
            path.unlink(missing_ok=True)


def _chunks(keys: Sequence[bytes], text_of: dict[bytes, str]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    characters = 0
    for key in keys:
        chunk.append(key)
        characters += len(text_of[key])
        if len(chunk) == _CHUNK_TEXTS or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _checked(embedder: Embedder, vectors: Vectors) -> Vectors:
    vectors = vectors.astype(np.float32, copy=False)
    if not np.isfinite(vectors).all():
        raise ModelError(f"{embedder.name} gave vectors with NaN or infinity, which rank nothing.")
    return vectors


def _tower(embedder: Embedder, *, is_query: bool) -> Embedder:
    return embedder.tower(is_query=is_query) if isinstance(embedder, TwoTowers) else embedder


def _kind(embedder: Embedder, is_query: bool) -> str:
    return f"query {embedder.instruction}" if is_query else "passage"


def _text_key(kind: str, text: str) -> bytes:
    return hashlib.sha256(f"{kind}\0{text}".encode("utf-8", "surrogatepass")).digest()[:16]


def _connect(path: Path) -> sqlite3.Connection:
    store = sqlite3.connect(path, timeout=60)
    try:
        store.execute("CREATE TABLE IF NOT EXISTS vectors (text BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID")
        store.execute("CREATE TABLE IF NOT EXISTS probes (number INTEGER PRIMARY KEY, vector BLOB NOT NULL)")
        store.commit()
    except sqlite3.DatabaseError:
        store.close()
        raise
    return store


def _read(store: sqlite3.Connection, keys: dict[bytes, str]) -> dict[bytes, bytes]:
    found = {}
    wanted = list(keys)
    for start in range(0, len(wanted), _SELECT):
        chunk = wanted[start : start + _SELECT]
        marks = ",".join("?" * len(chunk))
        for key, vector in store.execute(f"SELECT text, vector FROM vectors WHERE text IN ({marks})", chunk):
            found[bytes(key)] = bytes(vector)
    return found


def _write(store: sqlite3.Connection, values: dict[bytes, bytes]) -> None:
    with store:
        store.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", list(values.items()))


def _check_probes(store: sqlite3.Connection, now: Vectors) -> None:
    """Empty the file unless the probes' vectors are those of last time."""
    rows = store.execute("SELECT vector FROM probes ORDER BY number").fetchall()
    before = [np.frombuffer(row[0], np.float32) for row in rows]
    same = len(before) == len(now) and all(
        old.shape == new.shape and float(old @ new) >= SAME_MODEL for old, new in zip(before, now, strict=True)
    )
    if not same:
        with store:
            store.execute("DELETE FROM vectors")
            store.execute("DELETE FROM probes")
            store.executemany(
                "INSERT INTO probes VALUES (?, ?)", [(number, row.tobytes()) for number, row in enumerate(now)]
            )
