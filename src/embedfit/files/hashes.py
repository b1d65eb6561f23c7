"""SHA-256 of files, remembered beside the run while size, times and number of a file stay as they are."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

_NAME = ".hashes.json"
#: Smaller files are not remembered: reading one is as fast as looking it up.
_WORTH_KEEPING = 1 << 18
#: A file that changed less than this long before it was read may change again within one tick of the disk's clock,
#: and its times would not show it. Its hash is not kept.
_TICK_NS = 2_000_000_000


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes. A large file that this process has read is read again only if it changed."""
    status = path.stat()
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    if status.st_size < _WORTH_KEEPING or time.time_ns() - changed < _TICK_NS:
        return _sha256(path)
    return _kept_sha256(path.absolute(), (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, changed))


@lru_cache(maxsize=256)
def _kept_sha256(path: Path, status: tuple[int, ...]) -> str:
    return _sha256(path)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Digests:
    """Hashes of N texts, 16 bytes each, by which equal ones are found without keeping the texts."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, text: str) -> None:
        """Add a text."""
        self._bytes += hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def array(self) -> npt.NDArray[np.bytes_]:
        """(N,) the hashes, in the order of the texts."""
        return np.frombuffer(bytes(self._bytes), "S16")

    def firsts(self) -> npt.NDArray[np.int64]:
        """(N,) the place of the first text that is equal to each."""
        _, index, inverse = np.unique(self.array(), return_index=True, return_inverse=True)
        return np.asarray(index[inverse], np.int64)


class Hashes:
    """The hashes of a run folder's inputs and outputs. Large files are read again only when they changed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        self._known: dict[str, list[object]] = {}
        self._used: dict[str, list[object]] = {}
        with contextlib.suppress(OSError, ValueError):
            value = json.loads(self._path.read_bytes())
            if isinstance(value, dict):
                self._known = {key: row for key, row in value.items() if isinstance(row, list) and len(row) == 4}

    def of(self, path: Path) -> str:
        """Hex SHA-256 of a file, or the reason why there is none, such as "can't be read: Permission denied"."""
        try:
            status = path.stat()
            if status.st_size < _WORTH_KEEPING:
                return sha256_file(path)
            key = f"{status.st_dev}:{status.st_ino}"
            seen: list[object] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
            known = self._used.get(key) or self._known.get(key)
            if known is None or known[:3] != seen:
                started = time.time_ns()
                known = [*seen, sha256_file(path)]
                if started - max(status.st_mtime_ns, status.st_ctime_ns) < _TICK_NS:
                    return str(known[3])
            self._used[key] = known
            return str(known[3])
        except OSError as error:
            return f"can't be read: {error.strerror or error}"

    def keep(self) -> None:
        """Write the known hashes. A folder that can't be written to is no failure: its files will be read again."""
        if all(self._known.get(key) == row for key, row in self._used.items()):
            return
        temporary = self._path.with_name(f"{_NAME}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps({**self._known, **self._used}), "utf-8")
            temporary.replace(self._path)


def files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name under the folder, path) of every regular file, sorted. Linked folders are entered, each once."""
    found: list[tuple[str, Path]] = []
    entered: set[tuple[int, int]] = set()
    for parent, names, files in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in entered:
            names.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        found += [
            (path.relative_to(folder).as_posix(), path)
            for path in (Path(parent) / name for name in files)
            if os.path.isfile(path)
        ]
    yield from sorted(found)
