"""The ledger: every language-model reply, durable before it is used, found again by its content.

One SQLite file per user, in WAL mode. A call's key is the hash of provider, model, messages and
parameters, so a second run over the same passages finds its replies and asks for nothing.

calls      the replies. A row is written once and never changed.
prompts    what comes before a call's last message (instructions, examples): the same for thousands.
claims     calls that some process is about to send or has sent, as leases: a second run waits for
           the first one's reply instead of paying for it again. A claim that nobody settled (its
           process was killed) counts as spent, for the provider may well have billed it.
doubts     money that may have been spent with no reply to show: time-outs, killed runs.
jobs       batch jobs and their records, so that another process can fetch what this one ordered.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sqlite3
import sys
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from embedfit.errors import EmbedfitError, InputError, SchemaMismatch
from embedfit.files.atomic import atomic_file, disk_errors
from embedfit.llm.ledger.rows import (
    Experience,
    Job,
    JobRecord,
    LedgerRow,
    ModelTotals,
    Usage,
    canonical,
    decode_request,
    value_of,
)
from embedfit.llm.protocol import Reply, Request

#: Stored in SQLite's user_version.
SCHEMA_VERSION = 2
#: Seconds for which a claim keeps others away unless it is renewed.
LEASE_S = 180.0
_BUSY_S = 60.0
_CHUNK = 500  # keys in one SELECT: under SQLite's limit of 999 parameters in old builds

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


#: States of a job that still owes replies.
OPEN_STATES = ("creating", "open")
_OPEN = ", ".join(f"'{state}'" for state in OPEN_STATES)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _alive(owner: str) -> bool:
    """Whether the process that made a claim may still be running. Unknown counts as yes."""
    host, pid, _ = owner.rsplit(":", 2)
    if host != socket.gethostname() or sys.platform == "win32":  # os.kill(pid, 0) ends the process on Windows
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


class Ledger:
    """A ledger file, opened. Safe for many threads and many processes at once."""

    def __init__(self, path: str | Path, *, clock: Callable[[], float] = time.time, busy_s: float = _BUSY_S) -> None:
        self.path = Path(path)
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._clock = clock
        self._lock = threading.RLock()
        self._queue: list[_Put] = []
        self._queue_lock = threading.Lock()
        self._renewed = clock()
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.path.exists():  # readable by the user alone: requests hold the text of documents
                with suppress(FileExistsError):
                    os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with self._explained():
            # Money waits for the disk (FULL: fsync at every commit). What was free to make, and claims,
            # survive a killed process without it, and a power cut only costs some work.
            self._paid = self._connect("FULL", busy_s)
            self._free = self._connect("NORMAL", busy_s)
            self._prepare()

    def _connect(self, synchronous: str, busy_s: float) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=busy_s, isolation_level=None, check_same_thread=False)
        _use_wal(connection, busy_s)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        return connection

    def _prepare(self) -> None:
        with self._transaction(self._paid) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    if statement.strip():
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

    @contextmanager
    def _transaction(self, connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
        with self._lock, self._explained():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk has rolled back by itself
                    connection.execute("ROLLBACK")
                raise

    def _select(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._lock, self._explained():
            return list(self._free.execute(sql, parameters))

    def _select_in(self, sql: str, keys: Iterable[str]) -> Iterator[tuple[Any, ...]]:
        """Rows of a SELECT whose `IN (?)` is filled with keys, chunk by chunk."""
        distinct = list(dict.fromkeys(keys))
        for start in range(0, len(distinct), _CHUNK):
            chunk = distinct[start : start + _CHUNK]
            yield from self._select(sql.replace("(?)", f"({','.join('?' * len(chunk))})"), chunk)

    def close(self) -> None:
        """Close the file. Claims of this process stay until they are settled or their lease ends."""
        with self._lock:
            self._paid.close()
            self._free.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- replies

    def find(self, call_ids: Iterable[str]) -> dict[str, Reply]:
        """The replies that are there, by key."""
        sql = "SELECT call_id, text, input_tokens, output_tokens, finish FROM calls WHERE call_id IN (?)"
        return {
            key: Reply(text=text, input_tokens=tin, output_tokens=tout, finish=finish)
            for key, text, tin, tout, finish in self._select_in(sql, call_ids)
        }

    def put(
        self,
        key: str,
        provider: str,
        model: str,
        request: Request,
        reply: Reply,
        *,
        usd: float = 0.0,
        run: str = "",
        fetchable: bool = False,
    ) -> None:
        """Make a reply durable and settle its claim. Returns when it is; the first reply of a key stays.

        Replies that threads bring at the same moment share one commit. fetchable: the provider keeps it
        until later, so it need not wait for the disk.
        """
        text = reply.text.encode("utf-8", "replace").decode("utf-8")
        prompt = canonical([[message.role, message.content] for message in request.messages[:-1]])
        prompt_id = hashlib.sha256(prompt.encode()).hexdigest()[:32]
        last = canonical(value_of(request, request.messages[-1:]))
        row: dict[str, Any] = {
            "call_id": key,
            "provider": provider,
            "model": model,
            "prompt_id": prompt_id,
            "request": last,
            "characters": len(prompt) + len(last),
            "text": text,
            "finish": reply.finish,
            "input_tokens": reply.input_tokens,
            "output_tokens": reply.output_tokens,
            "usd": usd,
            "run": run,
            "created": _now(),
        }
        put = _Put(row=row, prompt=prompt, precious=usd > 0 and not fetchable)
        with self._queue_lock:
            self._queue.append(put)
        with self._lock:
            if not put.done:  # else another thread's commit took ours along
                with self._queue_lock:
                    batch, self._queue = self._queue, []
                self._write(batch)

    def _write(self, batch: list[_Put]) -> None:
        try:
            with self._transaction(self._paid if any(put.precious for put in batch) else self._free) as connection:
                for put in batch:
                    _insert(connection, put)
        except BaseException:
            with self._queue_lock:
                self._queue = batch + self._queue  # each thread of the batch tries, and fails, by itself
            raise
        for put in batch:
            put.done = True

    # --- claims

    def claim(
        self, reservations: dict[str, float], *, run: str = "", lease_s: float = LEASE_S
    ) -> tuple[list[str], list[str]]:
        """Claim calls before sending them. reservations: key → the most that the call can cost in USD.

        Returns (claimed, foreign). Foreign ones are another live process's; ask find() for their
        replies after a while. A dead process's claim is taken over, and its money goes to doubts.
        """
        now = self._clock()
        claimed: list[str] = []
        foreign: list[str] = []
        sql = "SELECT call_id, owner, run, usd, expires FROM claims WHERE call_id IN (?)"
        with self._transaction(self._free) as connection:
            # Read inside the transaction, and whole before the first change: nobody claims a call in between.
            for key, owner, other_run, usd, expires in list(self._select_in(sql, reservations)):
                if owner != self.owner and expires > now and _alive(owner):
                    foreign.append(key)
                elif owner != self.owner:
                    gone = connection.execute("DELETE FROM claims WHERE call_id = ? AND owner = ?", (key, owner))
                    if gone.rowcount:
                        _doubt(connection, other_run, usd, "killed or hung")
            taken = set(foreign)
            for key, usd in reservations.items():
                if key in taken:
                    continue
                done = connection.execute("SELECT 1 FROM calls WHERE call_id = ?", (key,)).fetchone()
                got = (
                    not done
                    and connection.execute(
                        "INSERT INTO claims VALUES (?,?,?,?,?) ON CONFLICT (call_id) DO UPDATE SET"
                        " usd = excluded.usd, expires = excluded.expires WHERE owner = excluded.owner",
                        (key, self.owner, run, usd, now + lease_s),
                    ).rowcount
                )
                (claimed if got else foreign).append(key)
        return claimed, foreign

    def renew(self, *, lease_s: float = LEASE_S) -> None:
        """Extend this process's claims, if that is due. Call it now and then during long work."""
        now = self._clock()
        if now - self._renewed < lease_s / 4:
            return
        self._renewed = now
        with self._transaction(self._free) as connection:
            connection.execute("UPDATE claims SET expires = ? WHERE owner = ?", (now + lease_s, self.owner))

    def release(self, call_ids: Iterable[str]) -> None:
        """Give up claims of calls that were not sent, or that the provider refused unbilled."""
        keys = [(key, self.owner) for key in call_ids]
        if keys:
            with self._transaction(self._free) as connection:
                connection.executemany("DELETE FROM claims WHERE call_id = ? AND owner = ?", keys)

    def doubt(self, usd: float, reason: str, *, run: str = "") -> None:
        """Record money that may have been spent with no reply to show for it."""
        with self._transaction(self._free) as connection:
            _doubt(connection, run, usd, reason)

    def spent(self, run: str) -> float:
        """USD that a run has spent or may have: replies, doubts, unsettled claims and open batch jobs."""
        sql = (
            "SELECT (SELECT total(usd) FROM calls WHERE run = ?1) + (SELECT total(usd) FROM doubts WHERE run = ?1)"
            " + (SELECT total(usd) FROM claims WHERE run = ?1)"
            " + (SELECT total(job_records.usd) FROM job_records JOIN jobs ON jobs.name = job_records.job"
            f" WHERE run = ?1 AND state IN ({_OPEN}))"
        )
        return float(self._select(sql, (run,))[0][0])

    # --- batch jobs

    def add_job(self, job: Job, records: Sequence[JobRecord]) -> None:
        """Record a job before it is created at the provider."""
        with self._transaction(self._paid) as connection:
            connection.execute("INSERT INTO jobs VALUES (?,?,?,?,?,?,?,?,?)", tuple(asdict(job).values()))
            rows = [(job.name, record.record_id, record.call_id, record.usd) for record in records]
            connection.executemany("INSERT INTO job_records VALUES (?,?,?,?)", rows)

    def update_job(self, name: str, *, state: str, arn: str | None = None) -> None:
        """Record what became of a job."""
        with self._transaction(self._paid) as connection:
            connection.execute("UPDATE jobs SET state = ?, arn = coalesce(?, arn) WHERE name = ?", (state, arn, name))

    def open_jobs(self, provider: str, model: str) -> list[Job]:
        """Jobs of a model that still owe replies, oldest first."""
        sql = f"SELECT * FROM jobs WHERE provider = ? AND model = ? AND state IN ({_OPEN}) ORDER BY created, name"
        return [_record(Job, row) for row in self._select(sql, (provider, model))]

    def in_open_jobs(self, call_ids: Iterable[str], run: str) -> dict[str, float]:
        """Calls that an open job covers: key → what spent(run) counts for it (0 if another run ordered it)."""
        sql = (
            "SELECT call_id, job_records.usd, run FROM job_records JOIN jobs ON jobs.name = job_records.job"
            f" WHERE state IN ({_OPEN}) AND call_id IN (?)"
        )
        found: dict[str, float] = {}
        for key, usd, ordered_by in self._select_in(sql, call_ids):
            found[key] = found.get(key, 0.0) + (usd if ordered_by == run else 0.0)
        return found

    def job_records(self, name: str) -> list[JobRecord]:
        """The lines of one job."""
        rows = self._select("SELECT record_id, call_id, usd FROM job_records WHERE job = ?", (name,))
        return [JobRecord(record_id=record, call_id=key, usd=usd) for record, key, usd in rows]

    # --- forgetting

    def forget(self, call_ids: Iterable[str]) -> int:
        """Delete calls so that nothing of their texts stays in the file. Returns how many there were.

        What they cost stays counted (in doubts, by run). Freed space is overwritten, and the write-ahead log emptied.
        """
        keys = list(dict.fromkeys(call_ids))
        with self._lock, self._explained():
            self._paid.execute("PRAGMA secure_delete = ON")
        gone = 0
        with self._transaction(self._paid) as connection:
            for key in keys:
                for run, usd in connection.execute("SELECT run, usd FROM calls WHERE call_id = ?", (key,)).fetchall():
                    if usd:
                        _doubt(connection, str(run), float(usd), "of a call that was forgotten")
                gone += connection.execute("DELETE FROM calls WHERE call_id = ?", (key,)).rowcount
            connection.execute("DELETE FROM prompts WHERE prompt_id NOT IN (SELECT prompt_id FROM calls)")
        with self._lock, self._explained():
            # Also what was deleted before, by whatever version: VACUUM writes the file anew.
            self._paid.execute("VACUUM")
            self._paid.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return gone

    # --- reports

    def usage_of(self, call_ids: Collection[str]) -> Usage:
        """What the given calls consumed, each counted once."""
        sql = "SELECT input_tokens, output_tokens, usd FROM calls WHERE call_id IN (?)"
        rows = list(self._select_in(sql, call_ids))
        return Usage(
            calls=len(rows),
            input_tokens=sum(row[0] for row in rows),
            output_tokens=sum(row[1] for row in rows),
            usd=sum(row[2] for row in rows),
        )

    def totals(self) -> list[ModelTotals]:
        """One line per provider and model."""
        sql = (
            "SELECT provider, model, count(*), sum(input_tokens), sum(output_tokens), total(usd), min(created),"
            " max(created) FROM calls GROUP BY provider, model ORDER BY provider, model"
        )
        return [_record(ModelTotals, row) for row in self._select(sql)]

    def rows(self, *, provider: str = "", model: str = "", limit: int = 0) -> Iterator[LedgerRow]:
        """Calls in the order in which they were paid for; limit: only the newest so many."""
        where = "(?1 = '' OR provider = ?1) AND (?2 = '' OR model = ?2)"
        first = 0
        if limit:
            sql = f"SELECT rowid FROM calls WHERE {where} ORDER BY rowid DESC LIMIT 1 OFFSET ?3"
            found = self._select(sql, (provider, model, limit - 1))
            first = found[0][0] if found else 0
        while True:
            sql = (
                "SELECT calls.rowid, call_id, provider, model, request, prompts.messages, text, finish, input_tokens,"
                " output_tokens, usd, run, created FROM calls JOIN prompts USING (prompt_id)"
                f" WHERE {where} AND calls.rowid >= ?3 ORDER BY calls.rowid LIMIT {_CHUNK}"
            )
            page = self._select(sql, (provider, model, first))
            if not page:
                return
            yield from (_row(values[1:]) for values in page)
            first = page[-1][0] + 1

    def export(self, to: Path, *, provider: str = "", model: str = "") -> int:
        """Write every call as a line of JSON, atomically. Returns their number."""
        count = 0
        with atomic_file(to) as file:
            for row in self.rows(provider=provider, model=model):
                file.write(json.dumps(asdict(row), ensure_ascii=False).encode("utf-8", "replace").decode() + "\n")
                count += 1
        return count

    def experience(self, provider: str, model: str) -> Experience | None:
        """What this model's newest 500 replies teach about the size of the next ones; None with fewer than 20."""
        sql = (
            "SELECT count(*), sum(input_tokens), sum(output_tokens), sum(characters) FROM (SELECT * FROM calls"
            " WHERE provider = ? AND model = ? ORDER BY rowid DESC LIMIT 500)"
        )
        calls, tin, tout, characters = self._select(sql, (provider, model))[0]
        if calls < 20 or not tin:
            return None
        return Experience(input_tokens_per_character=tin / characters, output_tokens=tout / calls)


@dataclass(slots=True)
class _Put:
    row: dict[str, Any]
    prompt: str
    precious: bool
    done: bool = False


_COLUMNS = (
    "call_id, provider, model, prompt_id, request, characters, text, finish, input_tokens, output_tokens, usd, run,"
    " created"
)
_INSERT = f"INSERT OR IGNORE INTO calls ({_COLUMNS}) VALUES ({', '.join(':' + name for name in _COLUMNS.split(', '))})"


def _insert(connection: sqlite3.Connection, put: _Put) -> None:
    row = put.row
    connection.execute("INSERT OR IGNORE INTO prompts VALUES (?, ?)", (row["prompt_id"], put.prompt))
    if connection.execute(_INSERT, row).rowcount == 0:  # two runs sent it at once, against all odds
        _doubt(connection, row["run"], row["usd"], "duplicate")
    connection.execute("DELETE FROM claims WHERE call_id = ?", (row["call_id"],))


def _doubt(connection: sqlite3.Connection, run: str, usd: float, reason: str) -> None:
    if usd > 0:
        connection.execute("INSERT INTO doubts VALUES (?,?,?,?)", (run, usd, reason, _now()))


Record = TypeVar("Record", Job, ModelTotals)


def _record(form: type[Record], row: Sequence[Any]) -> Record:
    """A row whose columns are the fields of a record, in their order."""
    return form(**dict(zip([one.name for one in fields(form)], row, strict=True)))


def _row(values: Sequence[Any]) -> LedgerRow:
    key, provider, model, request, prompt, text, finish, tin, tout, usd, run, created = values
    return LedgerRow(
        call_id=key,
        provider=provider,
        model=model,
        request=decode_request(request, prompt),
        reply=Reply(text=text, input_tokens=tin, output_tokens=tout, finish=finish),
        usd=usd,
        run=run,
        created=created,
    )


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
    if "locked" in text or "busy" in text:
        return EmbedfitError(
            f"The ledger {path} is held by another program for longer than a minute.",
            remedy="Close the program that has it open (an SQLite browser?), or name another file with --ledger PATH.",
        )
    if "full" in text:
        return EmbedfitError(
            f"The disk that holds the ledger {path} is full; every reply before this moment is safe in it.",
            remedy="Free some space and run the same command again: no call in the ledger is repeated.",
        )
    if "readonly" in text or "unable to open" in text:
        return InputError(
            f"The ledger {path} can't be opened for writing: {text}.",
            remedy="Make it writable, or name another file with --ledger PATH.",
        )
    if "not a database" in text or "malformed" in text:
        return InputError(
            f"The ledger {path} is damaged or not a ledger: {text}.",
            remedy=f"Move it away (mv {path} {path}.damaged) and run again, or name another file with --ledger PATH.",
        )
    return EmbedfitError(f"The ledger {path} could not be used: {text}.")
