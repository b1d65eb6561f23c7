"""The ledger: every language-model reply, durable before it is used, found again by its content.

One SQLite file per user, in WAL mode. A call's key is the hash of provider, model, messages and
parameters, so a second run over the same passages finds its replies and asks for nothing.

calls      the replies. A row is written once and never changed.
prompts    the part of a call before its last message (instructions, examples): the same for thousands.
claims     calls in flight. A row that is left when nobody pays is of a killed run: it counts as
           spent, for the provider may have billed it.
doubts     money that may have been spent with no reply to show: time-outs, killed runs.
jobs       batch jobs and their records, so that another process can fetch what this one ordered.

Runs that share a ledger take turns at paying: a lock file beside it is held for that time, and the
system frees it if the process is killed. Everybody may read at any time.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from filelock import FileLock, Timeout

from embedfit.files.atomic import atomic_file, disk_errors
from embedfit.llm.ledger.database import BUSY_S, CHUNK, Database, SqlRow
from embedfit.llm.ledger.rows import (
    BatchJob,
    Experience,
    JobRecord,
    LedgerRow,
    ModelTotals,
    Usage,
    canonical,
    decode_request,
    value_of,
)
from embedfit.llm.protocol import Reply, Request
from embedfit.progress import Reporter, Silent

#: Seconds between two looks whether another run has ended its turn.
_POLL_S = 0.1
#: States of a job that still owes replies.
_OPEN = "('creating', 'open')"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


class Ledger(Database):
    """A ledger file, opened. Safe for many threads and many processes at once."""

    def __init__(self, path: str | Path, *, busy_s: float = BUSY_S) -> None:
        super().__init__(path, busy_s=busy_s)
        #: The name under which calls without a run's name are booked.
        self.owner = uuid.uuid4().hex
        self._turn = FileLock(f"{self.path}.paying", mode=0o600, thread_local=False)
        self._queue: list[_Put] = []
        self._queue_lock = threading.Lock()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- whose turn it is to pay

    @contextmanager
    def paying(self, report: Reporter | None = None) -> Iterator[None]:
        """Hold the turn to pay, which one run at a time has on a ledger. Waits for another run's end, and logs that.

        Calls that a killed run had in flight count as spent from here on.
        """
        self._take_turn(report or Silent())
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def resting(self, report: Reporter) -> Iterator[None]:
        """Let other runs pay while this one waits, with no call in flight except those in batch jobs."""
        if not self._turn.is_locked:
            yield
            return
        self._turn.release()
        yield
        self._take_turn(report)

    def _take_turn(self, report: Reporter) -> None:
        said = False
        while True:
            with self._lock, disk_errors(self.path):  # one of this process's threads at a time
                held = self._turn.is_locked
                try:
                    self._turn.acquire(timeout=0)
                    break
                except Timeout:
                    pass
            if not said:
                report.log(f"Another run is paying from {self.path}; waiting for its end")
                said = True
            time.sleep(_POLL_S)
        if not held:
            self._execute(
                self._free,
                ("INSERT INTO doubts SELECT run, usd, 'killed', ? FROM claims", (_now(),)),
                ("DELETE FROM claims", ()),
            )

    def sending(self, key: str, usd: float, *, run: str = "") -> None:
        """Note a call before it is sent. usd: the most that it can cost; it counts as spent until the call ends."""
        self._execute(self._free, ("INSERT OR REPLACE INTO claims VALUES (?, '', ?, ?, 0)", (key, run, usd)))

    def returned(self, key: str) -> None:
        """Note that a call failed and was not billed."""
        self._execute(self._free, ("DELETE FROM claims WHERE call_id = ?", (key,)))

    def lost(self, key: str) -> None:
        """Note that a call failed and may have been billed: its possible cost stays counted."""
        self._execute(
            self._free,
            ("INSERT INTO doubts SELECT run, usd, 'no reply', ? FROM claims WHERE call_id = ?", (_now(), key)),
            ("DELETE FROM claims WHERE call_id = ?", (key,)),
        )

    def spent(self, run: str) -> float:
        """USD that a run has spent or may have spent: replies, doubts, calls in flight and open batch jobs."""
        sql = (
            "SELECT (SELECT total(usd) FROM calls WHERE run = ?1) + (SELECT total(usd) FROM doubts WHERE run = ?1)"
            " + (SELECT total(usd) FROM claims WHERE run = ?1)"
            " + (SELECT total(job_records.usd) FROM job_records JOIN jobs ON jobs.name = job_records.job"
            f" WHERE run = ?1 AND state IN {_OPEN})"
        )
        return float(self._select(sql, (run,))[0][0])

    # --- replies

    def find(self, call_ids: Iterable[str]) -> dict[str, Reply]:
        """The replies that the ledger has, by key."""
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
        """Make a reply durable. Returns when it is; the first reply of a key stays.

        Replies that threads bring at the same moment share one commit. fetchable: the provider keeps it
        until later, so it need not wait for the disk.
        """
        prompt = canonical([[message.role, message.content] for message in request.messages[:-1]])
        last = canonical(value_of(request, request.messages[-1:]))
        row: tuple[str | int | float, ...] = (
            key, provider, model, hashlib.sha256(prompt.encode()).hexdigest()[:32], last, len(prompt) + len(last),
            reply.text.encode("utf-8", "replace").decode("utf-8"), reply.finish, reply.input_tokens,
            reply.output_tokens, usd, run, _now(),
        )  # fmt: skip
        put = _Put(row=row, prompt=prompt, usd=usd, fetchable=fetchable)
        with self._queue_lock:
            self._queue.append(put)
        with self._lock:
            if not put.done:  # otherwise another thread's commit has written ours too
                with self._queue_lock:
                    batch, self._queue = self._queue, []
                self._write(batch)

    def _write(self, batch: list[_Put]) -> None:
        precious = any(put.usd > 0 and not put.fetchable for put in batch)
        try:
            self._commit(self._paid if precious else self._free, partial(_insert, batch))
        except BaseException:
            with self._queue_lock:
                self._queue = batch + self._queue  # each thread of the batch tries, and fails, by itself
            raise
        for put in batch:
            put.done = True

    # --- batch jobs

    def add_job(self, job: BatchJob, records: Sequence[JobRecord]) -> None:
        """Record a job before it is created at the provider."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO jobs VALUES (?,?,?,?,?,?,?,?,?)", tuple(asdict(job).values()))
            rows = [(job.name, record.record_id, record.call_id, record.usd) for record in records]
            connection.executemany("INSERT INTO job_records VALUES (?,?,?,?)", rows)

        self._commit(self._paid, work)

    def update_job(self, name: str, *, state: str, arn: str | None = None) -> None:
        """Record a job's new state."""
        self._execute(
            self._paid, ("UPDATE jobs SET state = ?, arn = coalesce(?, arn) WHERE name = ?", (state, arn, name))
        )

    def open_jobs(self, provider: str, model: str) -> list[BatchJob]:
        """Jobs of a model that still owe replies, oldest first."""
        sql = f"SELECT * FROM jobs WHERE provider = ? AND model = ? AND state IN {_OPEN} ORDER BY created, name"
        return [_record(BatchJob, row) for row in self._select(sql, (provider, model))]

    def in_open_jobs(self, call_ids: Iterable[str], run: str) -> dict[str, float]:
        """Calls that an open job covers: key → what spent(run) counts for it (0 if another run ordered it)."""
        sql = (
            "SELECT call_id, job_records.usd, run FROM job_records JOIN jobs ON jobs.name = job_records.job"
            f" WHERE state IN {_OPEN} AND call_id IN (?)"
        )
        found: dict[str, float] = {}
        for key, usd, ordered_by in self._select_in(sql, call_ids):
            found[key] = found.get(key, 0.0) + (usd if ordered_by == run else 0.0)
        return found

    def job_records(self, name: str) -> list[JobRecord]:
        """The lines of one job."""
        return [
            _record(JobRecord, row)
            for row in self._select("SELECT record_id, call_id, usd FROM job_records WHERE job = ?", (name,))
        ]

    # --- forgetting

    def forget(self, call_ids: Iterable[str]) -> int:
        """Delete calls so that nothing of their texts stays in the file. Returns how many there were.

        Their cost stays counted (in doubts, by run). Freed space is overwritten, and the write-ahead log is emptied.
        """
        keys = [(key,) for key in dict.fromkeys(call_ids)]
        with self._lock, self._explained():
            self._paid.execute("PRAGMA secure_delete = ON")

        def work(connection: sqlite3.Connection) -> int:
            connection.executemany(
                f"INSERT INTO doubts SELECT run, usd, 'of a call that was forgotten', '{_now()}' FROM calls"
                " WHERE call_id = ? AND usd > 0",
                keys,
            )
            gone = connection.executemany("DELETE FROM calls WHERE call_id = ?", keys).rowcount
            connection.execute("DELETE FROM prompts WHERE prompt_id NOT IN (SELECT prompt_id FROM calls)")
            return gone

        gone = self._commit(self._paid, work)
        with self._lock, self._explained():
            # VACUUM writes the file anew, so that rows which older versions deleted leave no trace either.
            self._paid.execute("VACUUM")
            self._paid.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return max(gone, 0)

    # --- reports

    def usage_of(self, call_ids: Collection[str]) -> Usage:
        """The tokens and money of the given calls, each counted once."""
        sql = "SELECT input_tokens, output_tokens, usd FROM calls WHERE call_id IN (?)"
        rows = list(self._select_in(sql, call_ids))
        tokens_in, tokens_out, usd = (sum(column) for column in zip(*rows, strict=True)) if rows else (0, 0, 0.0)
        return Usage(calls=len(rows), input_tokens=tokens_in, output_tokens=tokens_out, usd=usd)

    def models_of(self, call_ids: Collection[str]) -> tuple[str, ...]:
        """The models that answered the given calls, each as PROVIDER:MODEL, sorted."""
        sql = "SELECT DISTINCT provider, model FROM calls WHERE call_id IN (?)"
        return tuple(sorted({f"{provider}:{model}" for provider, model in self._select_in(sql, call_ids)}))

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
                f" WHERE {where} AND calls.rowid >= ?3 ORDER BY calls.rowid LIMIT {CHUNK}"
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
        """Mean sizes of this model's newest 500 replies; None with fewer than 20."""
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
    """A reply on its way into the file. row: of `calls`, in the order of its columns."""

    row: tuple[str | int | float, ...]
    prompt: str
    usd: float
    fetchable: bool
    done: bool = False


def _insert(batch: Iterable[_Put], connection: sqlite3.Connection) -> None:
    for put in batch:
        key, prompt_id, run = put.row[0], put.row[3], put.row[11]
        connection.execute("INSERT OR IGNORE INTO prompts VALUES (?, ?)", (prompt_id, put.prompt))
        marks = ", ".join("?" * len(put.row))
        new = connection.execute(f"INSERT OR IGNORE INTO calls VALUES ({marks})", put.row).rowcount
        if not new and put.usd > 0 and not put.fetchable:  # paid twice: an earlier run did not await the call's end
            connection.execute("INSERT INTO doubts VALUES (?, ?, 'duplicate', ?)", (run, put.usd, _now()))
        connection.execute("DELETE FROM claims WHERE call_id = ?", (key,))


Record = TypeVar("Record", BatchJob, JobRecord, ModelTotals)


def _record(form: type[Record], row: SqlRow) -> Record:
    """A row whose columns are the fields of a record, in their order."""
    return form(**dict(zip([one.name for one in fields(form)], row, strict=True)))


def _row(values: SqlRow) -> LedgerRow:
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
