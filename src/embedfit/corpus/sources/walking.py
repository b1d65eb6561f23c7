"""The list of the user's documents, one for reading them and for noticing that they changed."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from embedfit.errors import InputError

#: Names of the files that office programs keep beside an open document; they are no documents.
_OFFICE_LEFTOVER = "~$"
#: The file in a named folder that lists what was left out when the folder was copied: name → the reason, as JSON.
LEFT_OUT = ".embedfit-left-out.json"
#: The most bytes that are read of it.
_MOST_LEFT_OUT = 64 << 20
_FOLLOW = "to read it, add --follow-links or name it on the command line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file, a link or a folder under the paths that a person named.

    root: the path that was named. name: the file's path under it, with "/" between the parts; for a file that was named
    itself, its own name. Every character of it can be written as UTF-8. problem: the reason why it is not read, or "".
    """

    path: Path
    root: Path
    name: str
    problem: str = ""


def files_of(documents: Sequence[str | Path], *, follow_links: bool = False) -> list[Found]:
    """Everything that the given paths name, folders searched, in a stable order, each file once.

    Hidden files and folders, and run folders of embedfit, are left out. A link that leads out of a named folder
    is listed with a problem and not followed, unless follow_links asks for it; a link that was itself named is
    followed. A file that can't be read is listed with its problem. Raises InputError for a path that is not there.
    """
    found: list[Found] = []
    for name in documents:
        root = Path(name).expanduser()
        if not os.path.exists(root):
            raise InputError(f"{root} is not there.", remedy="Name existing files or folders after the command.")
        found += _under(root, follow_links=follow_links)
    return _each_once(found)


def _under(root: Path, *, follow_links: bool) -> Iterator[Found]:
    if not os.path.isdir(root):
        yield Found(path=root, root=root, name=shown(root.name), problem=_problem_of(root))
        return
    walk = _Walk(
        root=root, real=Path(os.path.realpath(root)), follow_links=follow_links, left_out=_left_out(root / LEFT_OUT)
    )
    yield from walk.folder(root)


def _left_out(path: Path) -> Mapping[str, str]:
    """The names and reasons in such a list; none if there is no list that can be read."""
    with suppress(OSError, ValueError, AttributeError):
        if path.is_file() and path.stat().st_size <= _MOST_LEFT_OUT:
            return {str(name): str(reason) for name, reason in json.loads(path.read_bytes()).items()}
    return {}


@dataclass(slots=True)
class _Walk:
    """One search of a named folder. entered: folders by device and number, so that no link leads in circles.

    left_out: files that only the place of stands for, with the reason why they are not read.
    """

    root: Path
    real: Path
    follow_links: bool
    entered: set[tuple[int, int]] = field(default_factory=set)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def folder(self, start: Path) -> Iterator[Found]:
        pending = [start]
        while pending:
            folder = pending.pop()
            try:
                status = folder.stat()
                if (status.st_dev, status.st_ino) in self.entered:
                    yield self._found(folder, "a link to a folder that is read under its own name")
                    continue
                self.entered.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except OSError as error:
                yield self._found(folder, _words(error))
                continue
            if _is_run_folder({entry.name for entry in entries}):
                continue  # embedfit wrote this folder, so it holds no documents
            inner: list[Path] = []
            linked: list[Path] = []
            for entry in entries:
                if entry.name.startswith((".", _OFFICE_LEFTOVER)) or entry.name == "__MACOSX":
                    continue
                path = folder / entry.name
                if entry.is_dir(follow_symlinks=False):
                    inner.append(path)
                elif entry.is_symlink() and os.path.isdir(path) and not self._link_problem(path):
                    linked.append(path)
                else:
                    yield self._found(path, self._problem(path, is_link=entry.is_symlink()))
            # The stack is taken from the end: folders before links to folders, both in order of their names.
            pending = [*reversed(linked), *pending, *reversed(inner)]

    def _found(self, path: Path, problem: str) -> Found:
        name = path.relative_to(self.root).as_posix()
        problem = self.left_out.get(name) or problem or _problem_of_name(name)
        return Found(path=path, root=self.root, name=shown(name), problem=problem)

    def _problem(self, path: Path, *, is_link: bool) -> str:
        return (self._link_problem(path) if is_link else "") or _problem_of(path)

    def _link_problem(self, path: Path) -> str:
        target = Path(os.path.realpath(path))
        if self.follow_links or target.is_relative_to(self.real) or not os.path.lexists(target):
            return ""
        # The link's own text, because its final target may change with the process or with the folder's place.
        return f"a link out of the documents, to {shown(os.readlink(path))}; {_FOLLOW}"


def _is_run_folder(names: set[str]) -> bool:
    return "embedfit.toml" in names and (".lock" in names or any(name.endswith(".manifest.json") for name in names))


def _problem_of(path: Path) -> str:
    """The reason why a file is not opened for reading; "" for a regular file whose name is UTF-8."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "not a regular file"
        if not os.access(path, os.R_OK):
            return f"can't be read: {os.strerror(errno.EACCES)}"
    except OSError as error:
        return _words(error)
    return _problem_of_name(path.name)


def _problem_of_name(name: str) -> str:
    return "" if shown(name) == name else "its name is not UTF-8"


def _words(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "a link that leads back to itself"
    if error.errno == errno.ENOENT:
        return "a link to a file that is not there"
    return f"can't be read: {error.strerror or error}"


def _each_once(found: Sequence[Found]) -> list[Found]:
    """Each file once: under its own name rather than a link's, and under the path that was named first."""
    own = {os.path.realpath(one.path) for one in found if not one.problem and not one.path.is_symlink()}
    seen: set[str] = set()
    result: list[Found] = []
    for one in found:
        real = os.path.realpath(one.path) if not one.problem else os.path.abspath(one.path)
        if one.path.is_symlink() and not one.problem and real in own:
            one = replace(one, problem="a link to a file that is read under its own name")
            real = os.path.abspath(one.path)
        if real not in seen:
            seen.add(real)
            result.append(one)
    return result


def shown(name: str) -> str:
    r"""A file name with the bytes that are not UTF-8 written as \xe9, so that every file and terminal takes it."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    return name
