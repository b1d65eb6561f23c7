"""Replies that move between ledgers: those of one run, to another machine and back."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from embedfit.errors import InputError
from embedfit.llm.ledger.database import CHUNK
from embedfit.llm.ledger.store import Ledger


def take_out(source: Path, target: Path, run: str, call_ids: Collection[str], *, booked: str) -> int:
    """Write a new ledger with a run's replies, and those of further calls. Returns how many.

    run: the name under which the run's calls are booked. booked: its name in the new ledger, so that what the run has
    spent counts there too.
    """
    target.unlink(missing_ok=True)
    Ledger(target).close()
    if not source.exists():
        return 0
    with closing(sqlite3.connect(target, isolation_level=None)) as connection:
        connection.execute("ATTACH ? AS other", (str(source),))
        connection.execute("BEGIN")
        connection.execute("INSERT INTO calls SELECT * FROM other.calls WHERE run = ?", (run,))
        keys = sorted(call_ids)
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            marks = ", ".join("?" * len(chunk))
            connection.execute(
                f"INSERT OR IGNORE INTO calls SELECT * FROM other.calls WHERE call_id IN ({marks})", chunk
            )
        connection.execute(
            "INSERT INTO prompts SELECT * FROM other.prompts WHERE prompt_id IN (SELECT prompt_id FROM calls)"
        )
        connection.execute("INSERT INTO doubts SELECT * FROM other.doubts WHERE run = ?", (run,))
        for table in ("calls", "doubts"):
            connection.execute(f"UPDATE {table} SET run = ? WHERE run = ?", (booked, run))
        (count,) = connection.execute("SELECT count(*) FROM calls").fetchone()
        connection.execute("COMMIT")
    return int(count)


def put_in(source: Path, target: Path, run: str, *, booked: str) -> int:
    """Add another ledger's replies to a ledger. Returns how many were new. Doing it twice adds nothing.

    booked: the end of the run's name in the source; run: the name here. Raises InputError for a file that is no ledger.
    """
    Ledger(target).close()
    with closing(sqlite3.connect(target, timeout=60, isolation_level=None)) as connection:
        try:
            connection.execute("ATTACH ? AS other", (str(source),))
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT OR IGNORE INTO prompts SELECT * FROM other.prompts")
            columns = [str(row[1]) for row in connection.execute("PRAGMA table_info(calls)")]
            taken = ", ".join("iif(substr(run, -length(?1)) = ?1, ?2, run)" if one == "run" else one for one in columns)
            new = connection.execute(
                f"INSERT OR IGNORE INTO calls SELECT {taken} FROM other.calls", (booked, run)
            ).rowcount
            # What may have been spent: in doubt, or on its way when the job was ended. Each only once.
            spent = (
                "SELECT ?2 AS run, usd, reason, created FROM other.doubts WHERE substr(run, -length(?1)) = ?1 UNION ALL"
                " SELECT ?2, usd, 'killed', 'in job ' || call_id FROM other.claims WHERE substr(run, -length(?1)) = ?1"
            )
            connection.execute(
                f"INSERT INTO doubts SELECT * FROM ({spent}) AS added WHERE NOT EXISTS (SELECT 1 FROM doubts WHERE"
                " doubts.run = added.run AND doubts.created = added.created AND doubts.usd = added.usd)",
                (booked, run),
            )
            connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise InputError(f"{source} is no ledger of this embedfit: {error}.") from error
    return max(new, 0)
