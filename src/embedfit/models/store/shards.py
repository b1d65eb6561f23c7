"""Values by key in shard files, which are written once, named by their content and read by memory maps.

A folder holds the shards of one embedder. A shard names its keys itself, so there is no index that could disagree with
the files: whoever looks for a key searches the sorted keys of each shard. Any process may add a shard or take one away
at any time, because a missing value is computed again, and a value that two shards hold is the same in both.

    HASH.shard     header (64 bytes), keys (N × 16 bytes, sorted), starts (N + 1 int64), then the values

HASH is the file's SHA-256. It is compared before a value is read, so a damaged shard is deleted and never trusted.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedfit.files.atomic import atomic_file, locked
from embedfit.numerics.arrays import Floats, Ints

#: Keys of 16 bytes: (N,).
Keys: TypeAlias = npt.NDArray[np.bytes_]
#: What numpy accepts between the brackets of an array of one dimension.
Index: TypeAlias = int | slice | Ints

KEY_BYTES = 16
_KEY = f"S{KEY_BYTES}"
_SUFFIX = ".shard"
_MAGIC = b"embedfit shard 1"
_HEADER = struct.Struct("<16sQ40x")
#: Bytes of a shard that is merged with no other: a reader holds as much at a time.
FULL = 64 << 20
#: So many shards of like size are merged into one; a shard of the next size is about so many times as large.
_MERGED = 8
_READ = 1 << 20


class Shard:
    """One file of values, mapped into memory."""

    def __init__(self, path: Path) -> None:
        """Map a file. Raises ValueError if its parts don't fill it exactly."""
        self.path = path
        self._bytes = np.asarray(np.memmap(path, np.uint8, "r"))
        if len(self._bytes) < _HEADER.size:
            raise ValueError("no header")
        magic, count = _HEADER.unpack(self._bytes[: _HEADER.size].tobytes())
        first = _HEADER.size + count * KEY_BYTES
        values = first + (count + 1) * 8
        if magic != _MAGIC or values > len(self._bytes):
            raise ValueError("not a shard")
        self.keys: Keys = self._bytes[_HEADER.size : first].view(_KEY)
        self.starts: Ints = self._bytes[first:values].view(np.int64)
        self._values = self._bytes[values:]
        if int(self.starts[0]) != 0 or int(self.starts[-1]) != len(self._values):
            raise ValueError("not whole")

    def __len__(self) -> int:
        return len(self.keys)

    def __reduce__(self) -> tuple[type[Shard], tuple[Path]]:
        return Shard, (self.path,)  # another process maps the file itself

    def is_sound(self) -> bool:
        """Whether the content is what the name says. Reads the whole file, but not through the memory map."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while block := file.read(_READ):
                digest.update(block)
        return digest.hexdigest() == self.path.name.removesuffix(_SUFFIX)

    def value(self, row: int) -> memoryview:
        """The value in a row."""
        return self._values.data[int(self.starts[row]) : int(self.starts[row + 1])]

    def table(self) -> Floats:
        """Values that are vectors of one width, (N, H), without reading them. Raises ValueError for other values."""
        return self._values.view(np.float32).reshape(len(self), -1)

    def overwrite(self, rows: Iterable[int]) -> None:
        """Put zeros in the place of values, so that they don't stay on the disk when the file is deleted."""
        first = len(self._bytes) - len(self._values)
        with self.path.open("r+b") as file:
            for row in rows:
                start, stop = int(self.starts[row]), int(self.starts[row + 1])
                file.seek(first + start)
                file.write(bytes(stop - start))
            file.flush()
            os.fsync(file.fileno())


@dataclass(frozen=True, slots=True)
class Located:
    """Where the values of N keys lie.

    numbers: (N,) of their shards in `shards`, -1 for a key without a value. rows: (N,) in the shard.
    """

    shards: Sequence[Shard]
    numbers: Ints
    rows: Ints

    @property
    def missing(self) -> Ints:
        """The places of the keys that have no value."""
        return np.flatnonzero(self.numbers < 0)

    def values(self) -> Iterator[bytes]:
        """The values in the order of the keys."""
        for number, row in zip(self.numbers.tolist(), self.rows.tolist(), strict=True):
            yield bytes(self.shards[number].value(row))


class StoredVectors:
    """Vectors (N, H) that stay in their shards: an array of float32 that is read as far as it is asked for.

    It can be pickled: another process reads the same files.
    """

    def __init__(self, located: Located) -> None:
        """located: must have all N of them."""
        self._located = located
        shards = {number: located.shards[number] for number in np.unique(located.numbers).tolist()}
        self._tables = {number: shard.table() for number, shard in shards.items()}
        self.shape = len(located.numbers), next(iter(self._tables.values())).shape[1] if self._tables else 0

    def __len__(self) -> int:
        return self.shape[0]

    def __reduce__(self) -> tuple[type[StoredVectors], tuple[Located]]:
        return StoredVectors, (self._located,)

    def __getitem__(self, index: Index) -> Floats:
        """Rows in memory, (n, H), or one row (H,)."""
        numbers, rows = self._located.numbers[index], self._located.rows[index]
        if np.ndim(numbers) == 0:
            return np.array(self._tables[int(numbers)][int(rows)])
        result = np.empty((len(numbers), self.shape[1]), np.float32)
        for number in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == number)
            result[places] = self._tables[number][rows[places]]
        return result


class Shards:
    """The shards of one folder."""

    def __init__(self, folder: Path, lock: Path) -> None:
        """lock: a file that is locked while shards are merged or values deleted."""
        self.folder = folder
        self._lock = lock
        self._open: dict[Path, tuple[tuple[int, int, int], Shard]] = {}  # verified ones, with their state then

    def paths(self) -> list[Path]:
        """The files, by name."""
        with suppress(FileNotFoundError):
            return sorted(path for path in self.folder.iterdir() if path.suffix == _SUFFIX)
        return []

    def find(self, keys: Keys) -> Located:
        """Where the values of N keys lie. The shards that hold some are verified and marked as used now."""
        wanted, inverse = np.unique(keys, return_inverse=True)
        while True:
            paths = self.paths()
            found = self._find(wanted, paths)
            # Another process may have merged shards after they were listed: their values are in a new one.
            if not len(found.missing) or not set(self.paths()) - set(paths):
                return Located(found.shards, found.numbers[inverse], found.rows[inverse])

    def _find(self, wanted: Keys, paths: Sequence[Path]) -> Located:
        """The same for sorted keys without equal ones, in these files."""
        numbers, rows = np.full(len(wanted), -1, np.int64), np.zeros(len(wanted), np.int64)
        shards: list[Shard] = []
        self._open = {path: self._open[path] for path in paths if path in self._open}
        for path in paths if len(wanted) else ():
            shard = self._opened(path)
            if shard is None:
                continue
            where, found = _common(wanted, shard.keys)
            new = numbers[where] < 0
            if not new.any() or not self._verified(shard):
                continue
            numbers[where[new]], rows[where[new]] = len(shards), found[new]
            shards.append(shard)
        return Located(shards, numbers, rows)

    def add(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Store values in a new shard, and merge small shards."""
        if len(keys):
            self._write(np.array(keys, _KEY), values)
            self._merge()

    def delete(self, keys: Keys, *, dry: bool = False) -> int:
        """Overwrite and delete the values of keys. Returns how many there were. dry: only count."""
        count = 0
        with locked(self._lock, wait=True):
            for path in self.paths():
                shard = self._opened(path)
                if shard is None:
                    continue
                _, rows = _common(np.unique(keys), shard.keys)
                count += len(rows)
                if len(rows) and not dry:
                    kept = np.setdiff1d(np.arange(len(shard)), rows)
                    if len(kept) and shard.is_sound():
                        self._write(shard.keys[kept], [shard.value(row) for row in kept.tolist()])
                    shard.overwrite(rows.tolist())
                    path.unlink()
        return count

    def clear(self) -> None:
        """Delete every shard."""
        for path in self.paths():
            path.unlink(missing_ok=True)

    def _opened(self, path: Path) -> Shard | None:
        """The shard of a path; None, and no file any more, if it is no shard. Nothing that it holds is verified."""
        known = self._open.get(path)
        try:
            if known is not None and known[0] == _state(path):
                return known[1]
            return Shard(path)
        except FileNotFoundError:
            return None  # merged or deleted by another process
        except ValueError:
            self._open.pop(path, None)
            path.unlink(missing_ok=True)
            return None

    def _verified(self, shard: Shard) -> bool:
        """Whether a shard is sound. A damaged one is deleted; the other is marked as used now."""
        path = shard.path
        known = self._open.get(path)
        with suppress(FileNotFoundError):
            if known is None or known[1] is not shard:
                if not shard.is_sound():
                    path.unlink(missing_ok=True)
                    return False
            with suppress(PermissionError):
                path.touch()
            self._open[path] = _state(path), shard
            return True
        return False

    def _write(self, keys: Keys, values: Sequence[Any]) -> Path:
        """Write one shard. values: bytes for each key; of equal keys the first is kept."""
        keys, order = np.unique(keys, return_index=True)
        chosen = [values[place] for place in order.tolist()]
        starts = np.append(0, np.cumsum([len(one) for one in chosen])).astype("<i8")
        parts = [_HEADER.pack(_MAGIC, len(keys)), keys.tobytes(), starts.tobytes(), *chosen]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        path = self.folder / (digest.hexdigest() + _SUFFIX)
        if not path.exists():
            with atomic_file(path, binary=True) as file:
                file.writelines(parts)
        return path

    def _merge(self) -> None:
        """Merge shards of like size, so that few files hold many values and each value is copied a few times only."""
        with locked(self._lock, wait=False) as ours:
            while ours and (small := self._alike()):
                opened = [shard for path in small if (shard := self._opened(path)) is not None]
                sound = [shard for shard in opened if self._verified(shard)]
                if sound:
                    keys = np.concatenate([shard.keys for shard in sound])
                    values = [shard.value(row) for shard in sound for row in range(len(shard))]
                    merged = self._write(keys, values)
                for path in small:
                    if not sound or path != merged:
                        try:
                            path.unlink(missing_ok=True)
                        except PermissionError:  # Windows keeps a file that somebody has mapped
                            return

    def _alike(self) -> list[Path]:
        """Shards of like size that are to be merged, the smallest first; [] if no size has enough of them."""
        sizes: defaultdict[int, list[tuple[int, Path]]] = defaultdict(list)
        for path in self.paths():
            with suppress(FileNotFoundError):
                size = path.stat().st_size
                if size < FULL:
                    sizes[(size.bit_length() - 1) // (_MERGED.bit_length() - 1)].append((size, path))
        for _, alike in sorted(sizes.items()):
            total, taken = 0, []
            for size, path in sorted(alike):
                if total < FULL:
                    total += size
                    taken.append(path)
            if len(taken) > 1 and (len(alike) >= _MERGED or total >= FULL):
                return taken
        return []


def key_of(kind: str, text: str) -> bytes:
    """The key of a text. kind: keeps values of another kind for the same text apart."""
    return hashlib.sha256(f"{kind}\0{text}".encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES]


def keys_of(keys: Sequence[bytes]) -> Keys:
    """Keys as an array: (N,)."""
    return np.array(keys, _KEY)


def count(path: Path) -> int:
    """The number of values in a shard; 0 for a file that is none."""
    with suppress(OSError, struct.error), path.open("rb") as file:
        magic, number = _HEADER.unpack(file.read(_HEADER.size))
        return int(number) if magic == _MAGIC else 0
    return 0


def _common(wanted: Keys, held: Keys) -> tuple[Ints, Ints]:
    """The places in `wanted` and in `held` of the keys that both have. Both are sorted, without equal keys."""
    few, many = (wanted, held) if len(wanted) < len(held) else (held, wanted)
    if not len(few):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    places = np.minimum(np.searchsorted(many, few), len(many) - 1)
    own = np.flatnonzero(many[places] == few)
    there = places[own]
    return (own, there) if few is wanted else (there, own)


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
