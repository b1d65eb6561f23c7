"""A file of the queries that people send, in the form that `embedfit run --queries` reads."""

from __future__ import annotations

import os
import queue
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from threading import Thread

import orjson

from embedfit.asked.log import cut
from embedfit.asked.reading import cleaned
from embedfit.errors import UsageError
from embedfit.serving.settings import ServeSettings

#: Queries that may wait to be written.
_MOST_WAITING = 10_000
_REMEDY = "For example: embedfit serve RUN --log-queries queries.jsonl"

Log = Callable[[str], None]


class QueryLog:
    """A file that gets one JSON object a query: {"query": "how do I mute the tv", "time": "2026-11-26T12:00:00+00:00"}.

    It holds nothing else about a request. Its owner alone can read it. From most_bytes on it becomes FILE.1, in place
    of an older one, and a new file is begun, so both together take at most twice as much. A thread writes, so no
    request waits for the disk. dropped: queries that could not be written. log: gets a line if the disk fails.
    """

    def __init__(
        self,
        path: Path,
        *,
        most_bytes: int,
        log: Log,
        clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        """Raises UsageError if the file can't be opened for writing."""
        self.path = path
        self.written = self.dropped = 0
        self._most_bytes = most_bytes
        self._log = log
        self._clock = clock
        self._waiting: queue.Queue[tuple[str, datetime] | None] = queue.Queue(_MOST_WAITING)
        self._failed = False
        try:
            self._file = _opened(path)
        except OSError as error:
            raise UsageError(f"--log-queries: {path} can't be written: {error.strerror}.", remedy=_REMEDY) from error
        self._thread = Thread(target=self._write_all, name="query-log", daemon=True)
        self._thread.start()

    def add(self, queries: Sequence[str]) -> None:
        """Queries that were answered. This never waits."""
        now = self._clock()
        for text in queries:
            try:
                self._waiting.put_nowait((text, now))
            except queue.Full:
                self.dropped += 1

    def close(self) -> None:
        """Write what waits, and close the file."""
        self._waiting.put(None)
        self._thread.join(timeout=10)

    def _write_all(self) -> None:
        """On the thread."""
        while (entry := self._waiting.get()) is not None:
            text, when = entry
            shown = cleaned(cut(text)[0])
            line = orjson.dumps({"query": shown, "time": when.isoformat(timespec="seconds")}) + b"\n"
            try:
                self._write(line)
                self.written += 1
                self._failed = False
            except OSError as error:
                self.dropped += 1
                if not self._failed:  # once, until it works again
                    self._failed = True
                    self._log(f"{self.path} can't be written ({error.strerror}); queries are not logged")
        os.close(self._file)

    def _write(self, line: bytes) -> None:
        size = os.fstat(self._file).st_size
        if size and size + len(line) > self._most_bytes:
            with suppress(FileNotFoundError):  # somebody has moved it away
                os.replace(self.path, self.path.with_name(f"{self.path.name}.1"))
            new = _opened(self.path)
            os.close(self._file)
            self._file, size = new, 0
        if os.write(self._file, line) < len(line):  # the disk is full: no half line stays
            os.ftruncate(self._file, size)
            raise OSError(0, "the disk is full")


def _opened(path: Path) -> int:
    """A descriptor that appends to a file which its owner alone can read. A link is not followed."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0)
    file = os.open(path, flags, 0o600)
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(0, "it is no plain file")
        os.fchmod(file, 0o600)
        if about.st_size and not _ends_a_line(path):  # a process was killed while it wrote
            os.write(file, b"\n")
    except OSError:
        os.close(file)
        raise
    return file


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def query_log_of(settings: ServeSettings, *, searches: bool, log: Log) -> QueryLog | None:
    """The log of queries that the settings ask for.

    Raises UsageError if it can't be written, and if there is no index.
    """
    if settings.log_queries is None:
        return None
    if not searches:
        raise UsageError(
            "--log-queries needs an index: a model alone is asked no queries that could be told from passages.",
            remedy="Serve a run folder or an index: embedfit serve RUN --log-queries queries.jsonl",
        )
    path = Path(settings.log_queries).expanduser()
    log(f"queries are written to {path}")
    return QueryLog(path, most_bytes=settings.log_queries_bytes, log=log)
