"""Loads an index into PostgreSQL beside the old rows, and puts it in their place in one transaction.

The rows lie in tables NAME_CONTENT_…, which layout describes: a hand-over fills tables of another content, and then
points the views to them. What an earlier hand-over has brought is copied inside the database, not sent again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embedfit.errors import EmbedfitError, InputError, UsageError
from embedfit.index.sinks.changes import Changes, matched
from embedfit.index.sinks.postgres.connection import MARK, Place, errors_of, opened, place_of
from embedfit.index.sinks.postgres.layout import (
    NAMES,
    NUL,
    SEVERAL,
    UNREADABLE,
    has_nul,
    is_in_page,
    passage_of,
    several_of,
    tables,
    vectors_of,
    words_of,
)
from embedfit.index.sinks.sink import About, Digest, Handover, Row, read_about
from embedfit.numerics.arrays import Ints

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

#: pgvector's bound.
_MOST_DIMENSIONS = 16_000
#: How often the switch waits for readers whose locks are in its way, and how long each time.
_SWITCHES, _LOCK_TIMEOUT = 6, "5s"


class PostgresSink:
    """The tables of a database."""

    def __init__(self, url: str) -> None:
        """Raises UsageError for a URL that can't be read, EmbedfitError if the server does not answer."""
        self.place = place_of(url)
        with errors_of(self.place), opened(self.place):
            pass

    def write(self, handover: Handover) -> None:
        """Load what is missing, then point the views to it."""
        about = handover.about
        if about.dimensions > _MOST_DIMENSIONS:
            raise InputError(
                f"pgvector holds vectors of {_MOST_DIMENSIONS:,} numbers; these have {about.dimensions:,}."
            )
        with errors_of(self.place), opened(self.place) as connection:
            loader = _Loader(connection, self.place, handover)
            loader.lock()
            if loader.is_current():
                handover.log(f"index: {self.place.shown} holds these rows already")
                return
            loader.check_names()
            loader.create()
            loader.fill()
            loader.switch()


class _Loader:
    """One hand-over, by one connection."""

    def __init__(self, connection: psycopg.Connection[Any], place: Place, handover: Handover) -> None:
        from psycopg import sql

        self._sql = sql
        self._run: Callable[..., psycopg.Cursor[Any]] = connection.execute
        self._connection = connection
        self._place = place
        self._handover = handover
        self._about: About = handover.about
        self._tables = tables(self._about)

    def lock(self) -> None:
        """Keep other hand-overs to the same table out, until the connection closes."""
        (free,) = self._one("SELECT pg_try_advisory_lock(hashtext('embedfit'), hashtext(%s))", [self._place.table])
        if not free:
            raise EmbedfitError(
                f"Another process hands an index over to {self._place.shown} just now.",
                remedy="Wait for it, and try again.",
            )

    def is_current(self) -> bool:
        """Whether the views show these rows already."""
        return self._comment("_about").endswith(f"content {self._about.content}")

    def check_names(self) -> None:
        """Raise UsageError if a name that the views need belongs to something else."""
        for suffix in NAMES:
            name = f"{self._place.table}{suffix}"
            (found,) = self._one("SELECT to_regclass(quote_ident(%s))::text", [name])
            if found is not None and not self._comment(suffix).startswith(MARK):
                raise UsageError(
                    f"The database has a table {name} that is not embedfit's; it is not touched.",
                    remedy="Choose another name: postgresql://…?table=NAME",
                )

    def _comment(self, suffix: str) -> str:
        name = f"{self._place.table}{suffix}"
        (found,) = self._one("SELECT obj_description(to_regclass(quote_ident(%s)), 'pg_class')", [name])
        return str(found or "")

    def _one(self, command: str, values: Sequence[object] = ()) -> tuple[Any, ...]:
        row: tuple[Any, ...] | None = self._run(command.encode(), values).fetchone()
        assert row is not None
        return row

    def _table(self, suffix: str, about: About | None = None) -> sql.Identifier:
        content = (about or self._about).content
        return self._sql.Identifier(f"{self._place.table}_{content}{suffix or '_passages'}")

    def _index(self, suffix: str) -> sql.Identifier:
        return self._sql.Identifier(f"{self._place.table}_{self._about.content}{suffix}_number")

    def _view(self, suffix: str) -> sql.Identifier:
        return self._sql.Identifier(f"{self._place.table}{suffix}")

    def create(self) -> None:
        """The tables of this content, unless an interrupted load made them."""
        self._run("CREATE EXTENSION IF NOT EXISTS vector")
        (version,) = self._one("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        if [int(one) for one in version.split(".")[:2]] < [0, 7]:
            raise EmbedfitError(
                f"{self._place.shown} has pgvector {version}, which has no sparse vectors.",
                remedy="Update it on the server to 0.7 or later, then run: ALTER EXTENSION vector UPDATE",
            )
        with self._connection.transaction():
            for suffix, columns in self._tables.items():
                listed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
                self._format(f"CREATE TABLE IF NOT EXISTS {{}} ({listed})", self._table(suffix))
                self._say_what(suffix, self._table(suffix), "TABLE")
                if suffix.strip("_") in SEVERAL:
                    self._format(
                        "CREATE INDEX IF NOT EXISTS {} ON {} (number)", self._index(suffix), self._table(suffix)
                    )
            # A hash, because a tree holds no id of more than 2,700 bytes.
            make = "CREATE INDEX IF NOT EXISTS {} ON {} USING hash (id)"
            self._format(make, self._index("_passages"), self._table(""))
            self._format("ALTER TABLE {} ALTER tokens SET STORAGE EXTERNAL", self._table(""))
            self._format("ALTER TABLE {} SET (toast_tuple_target = 8160)", self._table("_vectors"))
            if is_in_page(self._about):
                for suffix, columns in self._tables.items():
                    for name in (name for name, kind in columns.items() if kind.startswith("halfvec")):
                        self._format(f"ALTER TABLE {{}} ALTER {name} SET STORAGE PLAIN", self._table(suffix))

    def _format(self, command: str, *names: sql.Composable) -> None:
        """Run a command of ours. Its braces are names; nothing of a user's stands in it."""
        self._run(self._sql.SQL(command).format(*names))

    def _say_what(self, suffix: str, name: sql.Identifier, kind: str) -> None:
        about = self._about
        text = (
            f"{MARK} {suffix.strip('_') or 'passages'} by the model {about.model}, fingerprint {about.fingerprint}; "
            f"compare them with queries of this model only; content {about.content}"
        )
        self._format(f"COMMENT ON {kind} {{}} IS {{}}", name, self._sql.Literal(text.replace(NUL, UNREADABLE)))

    def fill(self) -> None:
        """Load the rows behind those that an interrupted load left, each batch in one transaction."""
        from pgvector.psycopg import register_vector

        register_vector(self._connection)
        (done,) = self._run(self._sql.SQL("SELECT count(*) FROM {}").format(self._table(""))).fetchone() or (0,)
        if done < self._about.passages:
            self._fill(done)
        with self._connection.transaction():
            self._format("DELETE FROM {}", self._table("_about"))
            self._run(
                self._sql.SQL("INSERT INTO {} VALUES (%s, %s, %s)").format(self._table("_about")),
                [self._about.content, self._about.model_dump_json(), self._handover.questions],
            )
        for suffix in self._tables:
            self._format("VACUUM (ANALYZE) {}", self._table(suffix))

    def _fill(self, done: int) -> None:
        old = self._earlier()
        same = self._same(old)
        changed = 0
        for batch in self._handover.batches(done):
            sent = [row for row in batch if same[row.number] < 0]
            changed += sum(map(has_nul, sent))
            with self._connection.transaction():
                self._send(sent)
                if old is not None and len(sent) < len(batch):
                    self._take(old, same, [row for row in batch if same[row.number] >= 0])
        if changed:
            self._handover.log(
                f"index: PostgreSQL can't hold the sign NUL; in {changed:,} passages it is written as {UNREADABLE}"
            )

    def _earlier(self) -> About | None:
        """The hand-over whose rows the views show, if there is one of this edition."""
        if not self._comment("_about"):
            return None
        found = self._run(self._sql.SQL("SELECT about FROM {}").format(self._view("_about"))).fetchone()
        try:
            return read_about(found[0], self._place.shown) if found else None
        except InputError:
            return None

    def _same(self, old: About | None) -> Ints:
        """For each passage its number in the old rows, -1 if those have not the same: (N,)."""
        same = np.full(self._about.passages, -1, np.int64)
        if old is None:
            return same
        rows = self._connection.cursor().stream(
            self._sql.SQL("SELECT id, digest FROM {} ORDER BY number").format(self._view(""))
        )
        changes = Changes()
        for match in matched((Digest(*row) for row in rows), self._handover.digests()):
            changes.add(match)
            was, number, is_same = match
            if is_same and was is not None and number is not None:
                same[number] = was
        self._handover.log(f"index: {changes}")
        if tables(old).keys() != self._tables.keys() or old.dimensions != self._about.dimensions:
            same[:] = -1
        return same

    def _send(self, rows: Sequence[Row]) -> None:
        self._copy("", map(passage_of, rows))
        self._copy("_vectors", (vectors_of(row, self._about) for row in rows))
        for name in SEVERAL:
            if f"_{name}" in self._tables:
                self._copy(f"_{name}", (one for row in rows for one in several_of(row, name, self._about)))

    def _copy(self, suffix: str, rows: Iterable[tuple[object, ...]]) -> None:
        command = self._sql.SQL("COPY {} FROM STDIN WITH (FORMAT BINARY)").format(self._table(suffix))
        with self._connection.cursor().copy(command) as copy:
            copy.set_types([re.split(r"[ (]", kind)[0] for kind in self._tables[suffix].values()])
            for row in rows:
                copy.write_row(row)

    def _take(self, old: About, same: Ints, rows: Sequence[Row]) -> None:
        """Copy passages from the old tables. Only their words' weights are new, and are sent."""
        words = [*self._about.terms]
        given = {"number": [row.number for row in rows], "was": [int(same[row.number]) for row in rows]}
        sparse = [words_of(row, self._about) for row in rows]
        given |= {name: [own[place] for own in sparse] for place, name in enumerate(words)}
        types = {"number": "int", "was": "int", **dict.fromkeys(words, "sparsevec")}
        arrays = ", ".join(f"%({name})s::{kind}[]" for name, kind in types.items())
        for suffix, columns in self._tables.items():
            if suffix == "_about":
                continue
            mine = ", ".join(f"given.{name}" if name in types else f"old.{name}" for name in columns)
            self._run(
                self._sql.SQL(
                    f"INSERT INTO {{}} SELECT {mine} FROM unnest({arrays}) AS given ({', '.join(types)})"
                    " JOIN {} AS old ON old.number = given.was"
                ).format(self._table(suffix), self._table(suffix, old)),
                given,
            )

    def switch(self) -> None:
        """Point the views to this content and drop every other one, in one transaction."""
        from psycopg import errors

        for tried in range(_SWITCHES):
            try:
                with self._connection.transaction():
                    self._run(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode())
                    self._switch()
                return
            except (errors.LockNotAvailable, errors.DeadlockDetected):
                if tried == _SWITCHES - 1:
                    raise
                time.sleep(0.1)

    def _switch(self) -> None:
        for suffix in NAMES:
            if suffix not in self._tables:
                self._format("DROP VIEW IF EXISTS {}", self._view(suffix))
                continue
            self._point(suffix)
            self._say_what(suffix, self._view(suffix), "VIEW")
        pattern = re.compile(rf"{self._place.table}_([0-9a-f]{{16}})(_passages|{'|'.join(filter(None, NAMES))})")
        for (name,) in self._run(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace"
            " AND obj_description(oid, 'pg_class') LIKE %s",
            [f"{MARK}%"],
        ).fetchall():
            found = pattern.fullmatch(name)
            if found and found[1] != self._about.content:
                self._format("DROP TABLE {}", self._sql.Identifier(name))

    def _point(self, suffix: str) -> None:
        """Replace a view, which keeps the rights that others have on it. With other dimensions it is made anew."""
        from psycopg import errors

        make = "CREATE OR REPLACE VIEW {} AS SELECT * FROM {}"
        try:
            with self._connection.transaction():
                self._format(make, self._view(suffix), self._table(suffix))
        except errors.InvalidTableDefinition:
            self._format("DROP VIEW {}", self._view(suffix))
            self._format(make, self._view(suffix), self._table(suffix))
