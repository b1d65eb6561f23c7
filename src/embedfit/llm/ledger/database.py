"""The ledger's SQLite file: its tables, its two connections, and its errors as messages for people."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from embedfit.errors import EmbedfitError, InputError, SchemaMismatch
from embedfit.files.atomic import disk_errors

#: A row of a SELECT. SQLite's types are known where the columns are named.
SqlRow: TypeAlias = tuple[Any, ...]
Result = TypeVar("Result")
#: Stored in SQLite's user_version.
SCHEMA_VERSION = 2
CHUNK = 500  # keys in one SELECT: under SQLite's limit of 999 parameters in old builds
BUSY_S = 60.0

# In `claims`, owner and expires are of an earlier edition, which let several runs pay at once: they stay empty.
_SCHEMA = """
CREATE TABLE calls (
    call_id TEXT PRIMARY KEY, provider TEXT NOT NULL, model TEXT NOT NULL, prompt_id TEXT NOT NULL,
    request TEXT NOT NULL, characters INTEGER NOT NULL, text TEXT NOT NULL, finish TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, usd REAL NOT NULL, run TEXT NOT NULL,
    created TEXT NOT NULL);
CREATE TABLE prompts (prompt_id TEXT PRIMARY KEY, messages TEXT NOT NULL);
CREATE INDEX calls_by_model ON calls (provider, model);
CREATE INDEX calls_by_run ON calls (run);
CREATE TABLE claims (
    call_id TEXT PRIMARY KEY, owner TEXT NOT NULL, run TEXT NOT NULL, usd REAL NOT NULL, expires REAL NOT NULL);
CREATE TABLE doubts (run TEXT NOT NULL, usd REAL NOT NULL, reason TEXT NOT NULL, created TEXT NOT NULL);
CREATE TABLE jobs (
    name TEXT PRIMARY KEY, provider TEXT NOT NULL, model TEXT NOT NULL, arn TEXT NOT NULL, input_uri TEXT NOT NULL,
    output_uri TEXT NOT NULL, state TEXT NOT NULL, run TEXT NOT NULL, created TEXT NOT NULL);
CREATE TABLE job_records (
    job TEXT NOT NULL, record_id TEXT NOT NULL, call_id TEXT NOT NULL, usd REAL NOT NULL,
    PRIMARY KEY (job, record_id));
CREATE INDEX job_records_by_call ON job_records (call_id);
"""


class Database:
    """A ledger file, opened. Safe for many threads and many processes at once.

    busy_s: seconds to wait for another program that has the file locked.
    """

    def __init__(self, path: str | Path, *, busy_s: float = BUSY_S) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):  # readable by the user alone: requests hold the text of documents
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with self._explained():
            # A paid reply waits for the disk (FULL: fsync at every commit). Free replies survive a killed process
            # without that, and after a power cut they only cost some work again.
            self._paid = self._connect("FULL", busy_s)
            self._free = self._connect("NORMAL", busy_s)
            self._commit(self._paid, self._prepare)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._paid.close()
            self._free.close()

    def _connect(self, synchronous: str, busy_s: float) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=busy_s, isolation_level=None, check_same_thread=False)
        _use_wal(connection, busy_s)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise SchemaMismatch(
                f"{self.path} is a ledger of schema version {version}; this embedfit reads {SCHEMA_VERSION}.",
                remedy="Use the embedfit that made it, or name another file with --ledger PATH.",
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's errors into errors for people."""
        with disk_errors(self.path):
            try:
                yield
            except sqlite3.Error as error:
                raise _for_people(error, self.path) from error

    def _commit(self, connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Do work in a transaction, whole or not at all. Returns what work returns.

        Ctrl-C may arrive at any moment of it and leaves neither the lock nor a transaction behind, for which the calls
        in flight would wait with replies that are paid for. So all is in one frame: a context manager written in Python
        can be interrupted when it has entered but its `with` does not know it yet.
        """
        with self._lock, self._explained():
            try:
                connection.execute("BEGIN IMMEDIATE")
                result = work(connection)
                connection.execute("COMMIT")
                return result
            except BaseException:
                with suppress(sqlite3.Error):  # nothing has begun, all is committed, or a full disk rolled it back
                    connection.execute("ROLLBACK")
                raise

    def _execute(self, connection: sqlite3.Connection, *statements: tuple[str, Sequence[object]]) -> None:
        """Execute (SQL, parameters) in a transaction."""

        def work(connection: sqlite3.Connection) -> None:
            for sql, parameters in statements:
                connection.execute(sql, parameters)

        self._commit(connection, work)

    def _select(self, sql: str, parameters: Sequence[object] = ()) -> list[SqlRow]:
        with self._lock, self._explained():
            return list(self._free.execute(sql, parameters))

    def _select_in(self, sql: str, keys: Iterable[str]) -> Iterator[SqlRow]:
        """Rows of a SELECT whose `IN (?)` is filled with keys, chunk by chunk."""
        distinct = list(dict.fromkeys(keys))
        for start in range(0, len(distinct), CHUNK):
            chunk = distinct[start : start + CHUNK]
            yield from self._select(sql.replace("(?)", f"({','.join('?' * len(chunk))})"), chunk)


def _use_wal(connection: sqlite3.Connection, busy_s: float) -> None:
    """Switch to WAL, waiting for others that do so at the same moment: SQLite's own busy timeout does not cover it."""
    until = time.monotonic() + busy_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= until:
                raise
            time.sleep(0.02)


def _for_people(error: sqlite3.Error, path: Path) -> EmbedfitError:
    text = str(error)
    for words, form, message, remedy in _ERRORS:
        if any(word in text for word in words):
            return form(message.format(path=path, text=text), remedy=remedy.format(path=path))
    return EmbedfitError(f"The ledger {path} could not be used: {text}.")


#: SQLite's words, and the words for people in their place.
_ERRORS: tuple[tuple[tuple[str, ...], type[EmbedfitError], str, str], ...] = (
    (
        ("locked", "busy"),
        EmbedfitError,
        "The ledger {path} is held by another program for longer than a minute.",
        "Close the program that has it open (an SQLite browser?), or name another file with --ledger PATH.",
    ),
    (
        ("full",),
        EmbedfitError,
        "The disk that holds the ledger {path} is full; every reply before this moment is safe in it.",
        "Free some space and run the same command again: no call in the ledger is repeated.",
    ),
    (
        ("readonly", "unable to open"),
        InputError,
        "The ledger {path} can't be opened for writing: {text}.",
        "Make it writable, or name another file with --ledger PATH.",
    ),
    (
        ("not a database", "malformed"),
        InputError,
        "The ledger {path} is damaged or not a ledger: {text}.",
        "Move it away (mv {path} {path}.damaged) and run again, or name another file with --ledger PATH.",
    ),
)
