"""Files of finished shards, found by the hash of all that decides them.

A shard's file is written whole or not at all, and its name is made of its inputs, settings and code. So a shard that
exists is done, and two workers that do the same shard write the same bytes: no coordinator has to see to it.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from embedfit.files.atomic import disk_errors


def name_of(*parts: str | bytes) -> str:
    """The name of a shard: the hex SHA-256 of its parts, each with its length, so that no two lists of parts agree."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()


class FolderShards:
    """Shards in a folder that every worker sees: of this machine, or of a network file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """The place of a shard's file."""
        return self.folder / name[:2] / name

    def has(self, name: str) -> bool:
        """Whether a shard is done."""
        return self.path(name).is_file()

    def read(self, name: str) -> bytes:
        """A shard's content. Raises FileNotFoundError if it is not done."""
        return self.path(name).read_bytes()

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file that gets the name on clean exit: temporary, fsync, rename."""
        path = self.path(name)
        # Workers on other machines may have the same process number, so the temporary name has none.
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
                _sync(path.parent)
            finally:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)

    def write(self, name: str, data: bytes) -> None:
        """Write a shard. One that exists is kept, because it has the same bytes."""
        if not self.has(name):
            with self.writing(name) as file:
                file.write(data)


def _sync(folder: Path) -> None:
    """Make a new name in a folder last through a loss of power."""
    with suppress(OSError):  # not every file system can
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
