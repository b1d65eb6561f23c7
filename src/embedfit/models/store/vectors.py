"""The store of computed and paid vectors, in which a vector is found by its embedder and its text.

A folder of shards (models.store.shards) per embedder. Its name is a hash of the *weights*, tokenizer and layout, never
of a model's name or path: a model trained again in the same folder finds no old vectors. A model behind a URL can't be
hashed; a few probe texts are embedded first, and if their vectors are not last time's, the folder is emptied.

Vectors are stored in float32, as they were computed, because in float16 a run that finds its vectors in the store would
give other results than the run that computed them.
"""

from __future__ import annotations

import re
import shutil
from array import array
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, Protocol, runtime_checkable

import numpy as np

from embedfit.errors import EmbedfitError, ModelError
from embedfit.files.atomic import atomic_file, disk_errors
from embedfit.models.store.shards import KEY_BYTES, Keys, Located, Shards, StoredVectors, count, key_of, keys_of
from embedfit.numerics.arrays import Ints, Vectors
from embedfit.progress import Reporter, Silent
from embedfit.scale.executor import Executor, Function, Result, State, Tell
from embedfit.scale.inline import Inline
from embedfit.scale.shards import Shards as Shared
from embedfit.scale.shards import name_of

#: Texts that are embedded to see whether a remote model is still the same.
PROBES = ("What does the warranty cover?", "net loss per share, basic and diluted", "mute", "Zwölf Boxkämpfer")
#: Cosine to last time's vector of a probe, above which a remote model counts as the same.
SAME_MODEL = 1 - 2e-5

# The number of texts between two writes decides how much a killed run loses and how often a bar moves: a few seconds of
# one core's work, yet enough for full batches.
_CHUNK_TEXTS = 512
_CHUNK_CHARACTERS = 60_000
#: How a shared shard begins; after it come the number of texts (8 bytes) and their keys.
_SHARED = b"embedfit vectors"
_SHARED_HEAD = len(_SHARED) + 8 + _CHUNK_TEXTS * KEY_BYTES
#: Files beside the shards: the embedder's name, and its vectors of PROBES.
_NAME, _PROBES = "name.txt", "probes.npy"
#: A file of vectors as embedfit 0.1 wrote it.
_OLD = re.compile(r"[0-9a-f]{40}\.sqlite(-wal|-shm|-journal)?")
_LEAST_LIMIT = 4 << 30
#: Cores that a worker can use well for one chunk.
_CPUS = 4
#: How often vectors are looked for and computed if other processes delete them at the same time.
_ATTEMPTS = 3


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


@dataclass(frozen=True, slots=True)
class Chunk:
    """Texts whose values are computed together: a shard of the work. name: the embedder's, for people."""

    name: str
    texts: list[str]

    def __str__(self) -> str:
        return f"{self.name}, {len(self.texts):,} texts from {self.texts[0][:60]!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute(Generic[State, Result]):
    """How missing values are computed.

    function, state: the work on a chunk (embedfit.scale.executor). values: the value of each text of a chunk, from the
    chunk's result; it is called in this process. here: whether the work must stay in this process, too.
    """

    function: Function[State, Chunk, Result]
    state: AbstractContextManager[State]
    values: Callable[[Chunk, Result], Sequence[bytes]]
    here: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The words of a progress bar: the embedder's name, and the name of the things counted."""

    name: str
    unit: str
    report: Reporter


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What is stored for one embedder. name: under which it was last used. used: seconds since 1970."""

    key: str
    name: str
    values: int
    bytes: int
    used: float


class VectorStore:
    """Vectors in a folder, with a folder of shards for each embedder.

    If all shards together have more than `limit` bytes, the longest unused ones go, except those of the embedder whose
    vectors are asked for.
    """

    def __init__(
        self, folder: Path, *, limit: int | None = None, executor: Executor | None = None, shared: Shared | None = None
    ) -> None:
        """limit: bytes; None: 4 GiB or a tenth of the disk, whichever is more. executor: who computes; default here.

        shared: where workers put what they have computed, too, so that a driver on another machine takes it up.
        """
        self.folder = folder
        self.shared = shared
        self.executor: Executor = executor or Inline()
        self._limit = limit
        self._shards: dict[str, Shards] = {}

    def computed_by(self, executor: Executor) -> VectorStore:
        """The same vectors; missing ones are computed by an executor."""
        other = copy(self)
        other.executor = executor
        return other

    @property
    def limit(self) -> int:
        """The bytes that all shards may have together."""
        if self._limit is None:
            there = next((one for one in (self.folder, *self.folder.parents) if one.is_dir()), Path())
            self._limit = max(_LEAST_LIMIT, shutil.disk_usage(there).total // 10)
        return self._limit

    def embed(
        self, embedder: Embedder, texts: Sequence[str], *, is_query: bool, report: Reporter | None = None
    ) -> Vectors:
        """Vectors of texts in their order: (N, H). Only texts without a stored vector are embedded, each once."""
        stored = self.stored(embedder, texts, is_query=is_query, report=report)
        return stored if isinstance(stored, np.ndarray) else stored[:]

    def stored(
        self, embedder: Embedder, texts: Sequence[str], *, is_query: bool, report: Reporter | None = None
    ) -> StoredVectors | Vectors:
        """The same as embed(), but the vectors (N, H) stay on the disk, unless the embedder itself keeps them."""
        embedder = _tower(embedder, is_query=is_query)
        if embedder.storage == "own":
            return _checked(embedder, embedder.embed(texts, is_query=is_query))
        task = Task(name=embedder.name, unit="queries" if is_query else "passages", report=report or Silent())
        compute = Compute(
            function=_embedded,
            state=nullcontext((embedder, is_query, self.shared if embedder.storage == "key" else None)),
            values=lambda _, vectors: [row.tobytes() for row in _checked(embedder, vectors)],
            here=embedder.storage != "key",  # a server's own client asks for much at a time
        )
        shards = self._of_embedder(embedder)
        return StoredVectors(self._completed(shards, _kind(embedder, is_query), texts, compute, task))

    def put(self, embedder: Embedder, texts: Sequence[str], vectors: Vectors, *, is_query: bool) -> None:
        """Store vectors (N, H) that were computed with something else."""
        embedder = _tower(embedder, is_query=is_query)
        keys = [key_of(_kind(embedder, is_query), text) for text in texts]
        rows = [row.tobytes() for row in _checked(embedder, vectors)]
        shards = self._of_embedder(embedder)
        with disk_errors(self.folder):
            shards.add(keys, rows)

    def kept(self, key: str, texts: Sequence[str], compute: Compute[State, Result], task: Task) -> list[bytes]:
        """The values of texts, in their order. They are computed once for each text that has none stored.

        key: a hash of all that decides a value beside the text.
        """
        return list(self._kept(key, texts, compute, task).values())

    def complete(self, key: str, texts: Sequence[str], compute: Compute[State, Result], task: Task) -> None:
        """Compute and store the values that kept() would compute, without reading the others."""
        self._kept(key, texts, compute, task)

    def _kept(self, key: str, texts: Sequence[str], compute: Compute[State, Result], task: Task) -> Located:
        return self._completed(self._of_key(key, task.name), "kept", texts, compute, task)

    def _completed(
        self, shards: Shards, kind: str, texts: Sequence[str], compute: Compute[State, Result], about: Task
    ) -> Located:
        """Where the values of texts lie. Missing ones are computed and stored first, chunk by chunk."""
        keys, lengths = _keyed(kind, texts)
        # Values that were found may be gone at the end, if another process makes room or finds a damaged shard.
        for _ in range(_ATTEMPTS):
            with disk_errors(self.folder):
                located = shards.find(keys)
            missing = located.missing
            with about.report.task(f"{about.name}: {about.unit}", len(texts), about.unit) as task:
                known = len(texts) - len(missing)
                task.advance(known, note=f"{known:,} known" if known else "")
                if not len(missing):
                    return located
                # Longest first: batches of equal length waste no padding, and too little memory shows at once.
                distinct = missing[np.unique(keys[missing], return_index=True)[1]]
                distinct = distinct[np.lexsort((distinct, -lengths[distinct]))]
                task.advance(len(missing) - len(distinct))
                chunks = [distinct[start:stop] for start, stop in _chunks(lengths[distinct].tolist())]
                work = (Chunk(about.name, [texts[place] for place in chunk.tolist()]) for chunk in chunks)
                # One chunk is done here, because a worker would take longer to start.
                executor = None if compute.here or len(chunks) == 1 else self.executor
                with closing(_results(executor, compute, work)) as results:
                    for number, values in results:
                        own = [keys[place].ljust(KEY_BYTES, b"\0") for place in chunks[number]]
                        with disk_errors(self.folder):
                            shards.add(own, values)
                        task.advance(len(own))
        raise EmbedfitError(
            f"Vectors that were just stored in {self.folder} are gone again.",
            remedy="Another program deletes them. Choose a folder of your own: EMBEDFIT_CACHE=FOLDER",
        )

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
        keys = keys_of([key_of(kind, text) for kind in kinds for text in texts])
        with disk_errors(self.folder):
            return sum(self._in(folder).delete(keys, dry=dry) for folder in self._folders())

    def forget_shared(self, kinds: Sequence[str], texts: Sequence[str], *, dry: bool = False) -> int:
        """Delete the shared shards that hold vectors of texts. Returns how many. What else they hold is computed again.

        kinds, dry: as in forget().
        """
        if self.shared is None:
            return 0
        keys, count, first = {key_of(kind, text) for kind in kinds for text in texts}, 0, len(_SHARED) + 8
        for name in self.shared.names():
            head = self.shared.head(name, _SHARED_HEAD)
            if not head.startswith(_SHARED):
                continue  # another program's
            held = head[first : first + KEY_BYTES * int.from_bytes(head[len(_SHARED) : first], "little")]
            if not keys.isdisjoint(held[at : at + KEY_BYTES] for at in range(0, len(held), KEY_BYTES)):
                count += 1
                if not dry:
                    self.shared.delete(name)
        return count

    def holdings(self) -> list[Holding]:
        """What is stored for each embedder, the longest unused first."""
        found = []
        for folder in self._folders():
            paths = self._in(folder).paths()
            states = [path.stat() for path in paths]
            found.append(
                Holding(
                    key=folder.name,
                    name=_name_in(folder),
                    values=sum(map(count, paths)),
                    bytes=sum(one.st_size for one in states),
                    used=max((one.st_mtime for one in states), default=0.0),
                )
            )
        return sorted(found, key=lambda one: (one.used, one.key))

    def clean(self, *, most: int = 0, keep: Collection[Path] = ()) -> int:
        """Delete the longest unused shards until at most `most` bytes are left. Returns the bytes that were deleted.

        keep: files that stay, and count.
        """
        with disk_errors(self.folder):
            files = [(path.stat(), path) for folder in self._folders() for path in self._in(folder).paths()]
            total, gone = sum(state.st_size for state, _ in files), 0
            for state, path in sorted(files, key=lambda one: (one[0].st_mtime_ns, one[1])):
                if total - gone > most and path not in keep:
                    path.unlink(missing_ok=True)
                    gone += state.st_size
                    if not self._in(path.parent).paths():
                        shutil.rmtree(path.parent, ignore_errors=True)
            for path in self.folder.glob("*.sqlite*"):  # of embedfit 0.1
                if _OLD.fullmatch(path.name):
                    gone += path.stat().st_size
                    path.unlink()
        return gone

    def _of_embedder(self, embedder: Embedder) -> Shards:
        """The shards of an embedder, emptied if it is at an address and has changed."""
        shards = self._of_key(embedder.key, embedder.name)
        if embedder.storage == "probed":
            probes = [embedder.embed(PROBES, is_query=is_query) for is_query in (False, True)]
            with disk_errors(self.folder):
                _check_probes(shards, np.concatenate(probes))
        return shards

    def _of_key(self, key: str, name: str) -> Shards:
        shards = self._in(self.folder / key[:40])
        self.clean(most=self.limit, keep=set(shards.paths()))
        if _name_in(shards.folder) != name:
            with suppress(EmbedfitError), atomic_file(shards.folder / _NAME) as file:  # a cache may be read-only
                file.write(name)
        return shards

    def _in(self, folder: Path) -> Shards:
        return self._shards.setdefault(folder.name, Shards(folder, self.folder / ".lock"))

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_dir()) if self.folder.is_dir() else []


def _keyed(kind: str, texts: Iterable[str]) -> tuple[Keys, Ints]:
    """The key of each text and its number of characters: (N,), (N,)."""
    keys, lengths = bytearray(), array("q")
    for text in texts:
        keys += key_of(kind, text)
        lengths.append(len(text))
    return np.frombuffer(bytes(keys), f"S{KEY_BYTES}"), np.array(lengths, np.int64)


def _chunks(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where each chunk of texts starts and stops, by the texts' numbers of characters."""
    first, characters = 0, 0
    for place, length in enumerate(lengths, 1):
        characters += length
        if place - first == _CHUNK_TEXTS or characters >= _CHUNK_CHARACTERS:
            yield first, place
            first, characters = place, 0
    if first < len(lengths):
        yield first, len(lengths)


def _results(
    executor: Executor | None, compute: Compute[State, Result], chunks: Iterator[Chunk]
) -> Generator[tuple[int, Sequence[bytes]], None, None]:
    """(number, values) of chunks in any order. executor: None for this process, where the first error ends the work."""
    given: dict[int, Chunk] = {}

    def taken() -> Iterator[Chunk]:
        for number, chunk in enumerate(chunks):
            given[number] = chunk
            yield chunk

    if executor is None:
        with compute.state as opened:
            for number, chunk in enumerate(chunks):
                yield number, compute.values(chunk, compute.function(opened, chunk, _ignore))
        return
    with closing(executor.map(compute.function, taken(), state=compute.state, cpus=_CPUS, gpus=1)) as results:
        for number, result in results:
            yield number, compute.values(given.pop(number), result)


def _embedded(state: tuple[Embedder, bool, Shared | None], chunk: Chunk, tell: Tell) -> Vectors:
    """The vectors (N, H) of a chunk: those that somebody has put into the shared place, or new ones."""
    embedder, is_query, shared = state
    if shared is None:
        return embedder.embed(chunk.texts, is_query=is_query)
    kind = _kind(embedder, is_query)
    name = name_of(_SHARED, embedder.key, kind, *chunk.texts)
    # The keys come first: forget() finds a text by them.
    head = _SHARED + len(chunk.texts).to_bytes(8, "little") + b"".join(key_of(kind, text) for text in chunk.texts)
    if (done := shared.read(name)) is not None:
        return np.frombuffer(done, np.float32, offset=len(head)).reshape(len(chunk.texts), -1)
    vectors = embedder.embed(chunk.texts, is_query=is_query).astype(np.float32, copy=False)
    shared.write(name, head + vectors.tobytes())
    return vectors


def _ignore(share: float) -> None:
    pass


def _checked(embedder: Embedder, vectors: Vectors) -> Vectors:
    vectors = vectors.astype(np.float32, copy=False)
    if not np.isfinite(vectors).all():
        raise ModelError(f"{embedder.name} gave vectors with NaN or infinity, which rank nothing.")
    return vectors


def _tower(embedder: Embedder, *, is_query: bool) -> Embedder:
    return embedder.tower(is_query=is_query) if isinstance(embedder, TwoTowers) else embedder


def _kind(embedder: Embedder, is_query: bool) -> str:
    return f"query {embedder.instruction}" if is_query else "passage"


def _name_in(folder: Path) -> str:
    """The name under which an embedder was last used."""
    with suppress(OSError, ValueError):
        return (folder / _NAME).read_text("utf-8")
    return ""


def _check_probes(shards: Shards, now: Vectors) -> None:
    """Empty the folder unless the probes' vectors are those of last time."""
    path = shards.folder / _PROBES
    before = np.zeros((0, 0), np.float32)
    with suppress(OSError, ValueError, EOFError):
        before = np.load(path, allow_pickle=False)
    if before.shape != now.shape or not (np.einsum("ij,ij->i", before, now) >= SAME_MODEL).all():
        shards.clear()
        with atomic_file(path, binary=True) as file:
            np.save(file, now, allow_pickle=False)
