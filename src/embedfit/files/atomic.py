"""Files and folders that appear whole or not at all, and the disk's refusals as errors for people."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from embedfit.errors import EmbedfitError

#: The name of a file or folder while embedfit writes it, and of the one that it is about to replace.
_TEMPORARY = re.compile(r"^\.(?P<name>.+)\.(?P<process>\d+)\.(?P<kind>tmp|old)$", re.DOTALL)
#: The paths that this process is writing just now.
_writing: set[Path] = set()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk, and a place where no folder can be made, into an error for people.

    Libraries in other languages, such as safetensors and SQLite, raise errors of their own, which are recognised by the
    system's words in them.
    """
    try:
        yield
    except EmbedfitError:
        raise
    except Exception as error:
        number = _errno_of(error)
        if number in (errno.ENOSPC, errno.EDQUOT):
            free = _free_mib(path)
            raise EmbedfitError(
                f"The disk that holds {path} is full ({free} MiB free); nothing half-written was kept.",
                remedy="Free some space and run the same command again: finished stages are not repeated.",
            ) from error
        if number in (errno.EACCES, errno.EROFS, errno.EPERM) or _no_place(error, path):
            raise EmbedfitError(
                f"{path} can't be written: {os.strerror(number) if number else error}.",
                remedy="Choose a folder that you may write to. The cache is named by EMBEDFIT_CACHE, the ledger by "
                "--ledger or EMBEDFIT_HOME, and both lie in your home folder (HOME) otherwise.",
            ) from error
        raise


#: Words of libraries in other languages, and the system's error that they stand for.
_SYSTEM_WORDS = (
    ("no space left on device", errno.ENOSPC),
    ("database or disk is full", errno.ENOSPC),
    ("disk quota exceeded", errno.EDQUOT),
    ("read-only file system", errno.EROFS),
    ("attempt to write a readonly database", errno.EROFS),
    (" requested and ", errno.ENOSPC),  # numpy: "128000 requested and 65504 written"
)


def _errno_of(error: Exception) -> int | None:
    """The system's error number of an exception, or the one that its words stand for."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    words = str(error).lower()
    return next((number for text, number in _SYSTEM_WORDS if text in words), None)


def _no_place(error: Exception, path: Path) -> bool:
    """Whether no file can be at path: HOME=/proc/none, a file where a folder must be, a folder, too long a name."""
    if not isinstance(error, OSError):
        return False
    named = {str(error.filename), str(error.filename2), str(Path(os.fsdecode(error.filename or "")).parent)}
    places = {str(place) for place in (path, *path.parents)}
    numbers = (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
    return error.errno in numbers and not named.isdisjoint(places)


def _free_mib(path: Path) -> int:
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free >> 20


def _temporary(path: Path, kind: Literal["tmp", "old"]) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{kind}")


def is_temporary(name: str) -> bool:
    """Whether a file or folder of that name is one that embedfit has not finished writing, or is about to replace."""
    return _TEMPORARY.match(name) is not None


@contextmanager
def _being_written(path: Path) -> Iterator[None]:
    """Keep sweep() of this process away from a path."""
    _writing.add(path)
    try:
        yield
    finally:
        _writing.discard(path)


def sweep(folder: Path, name: str | None = None) -> None:
    """Clean up after processes that were killed while they wrote in a folder. name: of that file or folder alone.

    A folder that was moved aside for a new one, which then did not take its place, is put back. Files that a living
    process writes are left alone.
    """
    with suppress(OSError):
        found = [(path, match) for path in folder.iterdir() if (match := _TEMPORARY.match(path.name)) is not None]
        # Folders that were moved aside come first, the newest first, because it is the one to put back.
        found.sort(key=lambda one: (one[1]["kind"] != "old", -one[0].lstat().st_mtime_ns))
        for path, match in found:
            if name not in (None, match["name"]) or path in _writing or _is_another_alive(int(match["process"])):
                continue
            target = folder / match["name"]
            if match["kind"] == "old" and not os.path.lexists(target):
                path.replace(target)
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_another_alive(process: int) -> bool:
    """Whether a process other than this one has that number. This one's own files are in _writing."""
    if process == os.getpid():
        return False
    if sys.platform == "win32":
        return True  # os.kill() on Windows would end the process instead of asking for it
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


@contextmanager
def atomic_file(path: Path, *, binary: bool = False) -> Iterator[IO[Any]]:
    """A file that appears under its name whole or not at all."""
    temporary = _temporary(path, "tmp")
    with disk_errors(path), _being_written(temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb" if binary else "w", encoding=None if binary else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under its name whole or not at all; an older one of that name is replaced."""
    temporary, old = _temporary(path, "tmp"), _temporary(path, "old")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, path.name)
        with _being_written(temporary), _being_written(old):
            temporary.mkdir()
            try:
                yield temporary
                for file in temporary.rglob("*"):
                    if file.is_file():
                        with file.open("rb") as handle:
                            os.fsync(handle.fileno())
                if path.exists():
                    path.replace(old)
                    temporary.replace(path)
                    shutil.rmtree(old, ignore_errors=True)
                else:
                    temporary.replace(path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of a file, which the system releases if we are killed. Gives whether it is ours.

    wait: until another process has released it. Windows has no such locks here: there everybody gets one.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    with file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError:
                yield False
                return
        yield True
