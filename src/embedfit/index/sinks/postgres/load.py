"""Loads an index into PostgreSQL beside the old rows, and puts it in their place in one transaction.

With ?table=NAME, which is "embedfit" by default, the database has these views:

    NAME                      number, id, document, title, text, page, metadata, dates, tokens: a row a passage
    NAME_one                  number, vector: the passage's one vector
    NAME_windows              number, vector: several rows for a passage that is longer than a window
    NAME_queries              number, vector: the written queries, if the index has them
    NAME_words                number, weights: BM25 as a sparse vector; or NAME_words_and_queries
    NAME_about                content, about (JSON), questions: one row

The rows lie in tables NAME_CONTENT_…: a hand-over fills tables of another content, and then points the views to them.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from embedfit.errors import EmbedfitError, InputError, UsageError
from embedfit.index.sinks.conditions import dates_of
from embedfit.index.sinks.postgres.connection import MARK, Place, errors_of, opened, place_of
from embedfit.index.sinks.sink import About, Handover, Row
from embedfit.numerics.arrays import Floats
from embedfit.path.artefacts import Value

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

#: A vector of more numbers does not fit into a page of the database, and is kept outside its row.
_IN_PAGE = 1_900
#: pgvector's bounds.
_MOST_DIMENSIONS, _MOST_TERMS = 16_000, 16_000
_ROWS = ("one", "windows", "queries")
_WORDS = ("words", "words_and_queries")
_NAMES = ("", "_about", *(f"_{name}" for name in (*_ROWS, *_WORDS)))
#: PostgreSQL's texts can't hold the sign NUL. It becomes the sign that stands for unreadable ones.
_NUL, _UNREADABLE = "\0", "\ufffd"
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
        self._parts = [name for name in _ROWS if name in self._about.holds] + [*self._about.terms]

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
        for suffix in _NAMES:
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

    def _table(self, suffix: str) -> sql.Identifier:
        return self._sql.Identifier(f"{self._place.table}_{self._about.content}{suffix or '_passages'}")

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
        vector = f"number integer NOT NULL, vector vector({self._about.dimensions}) NOT NULL"
        columns = {
            "": "number integer PRIMARY KEY, id text UNIQUE NOT NULL, document text NOT NULL, title text NOT NULL, "
            "text text NOT NULL, page integer NOT NULL, metadata jsonb NOT NULL, dates jsonb NOT NULL, tokens bytea",
            "_about": "content text PRIMARY KEY, about text NOT NULL, questions bytea NOT NULL",
            **{f"_{name}": vector for name in _ROWS},
            **{
                f"_{name}": f"number integer NOT NULL, weights sparsevec({max(1, terms)}) NOT NULL"
                for name, terms in self._about.terms.items()
            },
        }
        with self._connection.transaction():
            for suffix in ("", "_about", *(f"_{name}" for name in self._parts)):
                self._format("CREATE TABLE IF NOT EXISTS {} (" + columns[suffix] + ")", self._table(suffix))
                self._say_what(suffix, self._table(suffix), "TABLE")
            self._format("ALTER TABLE {} ALTER tokens SET STORAGE EXTERNAL", self._table(""))
            for name in self._parts:
                if name in _ROWS and self._about.dimensions <= _IN_PAGE:
                    self._format("ALTER TABLE {} ALTER vector SET STORAGE PLAIN", self._table(f"_{name}"))

    def _format(self, command: str, *names: sql.Composable) -> None:
        """Run a command of ours. Its braces are names; nothing of a user's stands in it."""
        self._run(self._sql.SQL(command).format(*names))

    def _say_what(self, suffix: str, name: sql.Identifier, kind: str) -> None:
        about = self._about
        text = (
            f"{MARK} {suffix.strip('_') or 'passages'} by the model {about.model}, fingerprint {about.fingerprint}; "
            f"compare them with queries of this model only; content {about.content}"
        )
        self._format(f"COMMENT ON {kind} {{}} IS {{}}", name, self._sql.Literal(text.replace(_NUL, _UNREADABLE)))

    def fill(self) -> None:
        """Load the rows behind those that an interrupted load left, each batch in one transaction."""
        from pgvector import SparseVector, Vector
        from pgvector.psycopg import register_vector

        register_vector(self._connection)
        (done,) = self._run(self._sql.SQL("SELECT count(*) FROM {}").format(self._table(""))).fetchone() or (0,)
        changed = 0
        for batch in self._handover.batches(done) if done < self._about.passages else ():
            changed += sum(_NUL in f"{row.title}{row.text}{row.metadata}" for row in batch)
            with self._connection.transaction():
                self._copy("", "int4 text text text text int4 jsonb jsonb bytea", map(_columns, batch))
                for name in self._parts:
                    if name in _ROWS:
                        rows = ((row.number, Vector(one)) for row in batch for one in _own(row, name))
                        self._copy(f"_{name}", "int4 vector", rows)
                    else:
                        size = max(1, self._about.terms[name])
                        sparse = ((row.number, SparseVector(_terms(row, name), size)) for row in batch)
                        self._copy(f"_{name}", "int4 sparsevec", sparse)
        if changed:
            self._handover.log(
                f"index: PostgreSQL can't hold the sign NUL; in {changed:,} passages it is written as {_UNREADABLE}"
            )
        with self._connection.transaction():
            self._format("DELETE FROM {}", self._table("_about"))
            self._run(
                self._sql.SQL("INSERT INTO {} VALUES (%s, %s, %s)").format(self._table("_about")),
                [self._about.content, self._about.model_dump_json(), self._handover.questions],
            )
        for suffix in ("", *(f"_{name}" for name in self._parts)):
            self._format("ANALYZE {}", self._table(suffix))

    def _copy(self, suffix: str, types: str, rows: Iterator[tuple[object, ...]]) -> None:
        command = self._sql.SQL("COPY {} FROM STDIN WITH (FORMAT BINARY)").format(self._table(suffix))
        with self._connection.cursor().copy(command) as copy:
            copy.set_types(types.split())
            for row in rows:
                copy.write_row(row)

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
        held = ("", "_about", *(f"_{name}" for name in self._parts))
        for suffix in _NAMES:
            if suffix not in held:
                self._format("DROP VIEW IF EXISTS {}", self._view(suffix))
                continue
            self._point(suffix)
            self._say_what(suffix, self._view(suffix), "VIEW")
        pattern = re.compile(rf"{self._place.table}_([0-9a-f]{{16}})(_passages|{'|'.join(filter(None, _NAMES))})")
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


def _own(row: Row, name: str) -> Iterable[Floats]:
    """A part's vectors of a passage. A passage of one window has no row in windows: the search reads its one vector."""
    if name == "one":
        return () if row.vector is None else (row.vector,)
    if name == "windows":
        return () if row.windows is None or len(row.windows) == 1 else row.windows
    return () if row.queries is None else row.queries


def _terms(row: Row, name: str) -> dict[int, float]:
    sparse = row.words[name]
    if len(sparse.numbers) > _MOST_TERMS:
        raise InputError(
            f"The passage {row.id} has {len(sparse.numbers):,} different words; pgvector holds {_MOST_TERMS:,}.",
            remedy="Cut documents into shorter passages: embedfit run … --set chunk.max_tokens=256",
        )
    return dict(zip(sparse.numbers.tolist(), sparse.values.tolist(), strict=True))


def _columns(row: Row) -> tuple[object, ...]:
    from psycopg.types.json import Jsonb

    for name in (row.id, row.document):
        if _NUL in name:
            raise InputError(
                f"PostgreSQL can't hold the id {name[:60]!r}: it has the sign NUL.", remedy="Give it another id."
            )
    metadata = {readable(name): _clean(value) for name, value in row.metadata.items()}
    tokens = None if row.tokens is None else row.tokens.tobytes()
    texts = (row.id, row.document, readable(row.title), readable(row.text))
    return (row.number, *texts, row.page, Jsonb(metadata, dumps=_json), Jsonb(dates_of(metadata), dumps=_json), tokens)


def readable(text: str) -> str:
    """A text without NUL."""
    return text.replace(_NUL, _UNREADABLE)


def _clean(value: Value) -> Value:
    if isinstance(value, tuple):
        return tuple(readable(one) if isinstance(one, str) else one for one in value)
    return readable(value) if isinstance(value, str) else value


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
