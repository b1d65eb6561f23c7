"""The first stage as one SQL statement, and the store that runs it."""

from __future__ import annotations

from typing import Any

import numpy as np

from embedfit.errors import InputError
from embedfit.index.retriever import DENSE_PARTS, Part, PartName
from embedfit.index.sinks.postgres.connection import errors_of, opened, place_of
from embedfit.index.sinks.postgres.filters import condition_of
from embedfit.index.sinks.postgres.layout import SEVERAL, windows_in_row
from embedfit.index.sinks.sink import About, Candidate, Outdated, Question, holds_no_index, read_about
from embedfit.index.store.filters import Filter

#: The best %(depth)s passages. A query compares every passage: the search is exact.
_BEST = """\
WITH {allowed}{parts},
scored AS (SELECT number, {total} AS score FROM {joined}),
best AS (SELECT number, score FROM scored {where}ORDER BY score DESC, number LIMIT %(depth)s)
SELECT number, score, id, document, title, text, page, metadata, tokens,
  (SELECT content FROM "{table}_about") AS content
FROM best JOIN "{table}" USING (number) ORDER BY score DESC, number"""


def statement(about: About, table: str, conditions: str = "") -> str:
    """The statement of an index' first stage, with the parameters of `given` and %(depth)s.

    table: the name that was checked by place_of. conditions: SQL of a filter, whose values are parameters; "" for all.
    """
    parts = about.retriever.parts
    read = {part.name for part in parts}
    several = [name for name in SEVERAL if name in read]
    among = " JOIN allowed USING (number)" if conditions else ""
    return _BEST.format(
        allowed=f'allowed AS MATERIALIZED (SELECT number FROM "{table}" WHERE {conditions}),\n' if conditions else "",
        parts=",\n".join([_vectors(about, read, table, among), *(_best_of(name, table, among) for name in several)]),
        total=" + ".join(_addend(part, about) for part in parts),
        joined="vectors" + "".join(f" LEFT JOIN {name} USING (number)" for name in several),
        where="" if any(part.name in DENSE_PARTS for part in parts) else "WHERE score > 0 ",
        table=table,
    )


def _cosine(column: str) -> str:
    """<#> is the negative inner product. The query is the sum of two vectors in half precision."""
    return f"-({column} <#> %(vector)s) - ({column} <#> %(rest)s)"


def _vectors(about: About, read: set[PartName], table: str, among: str) -> str:
    """The scores of what lies in a passage's row, each computed once (OFFSET 0)."""
    columns = {"one": _cosine("one")} if read & {"one", "windows"} else {}
    if "windows" in read:
        columns |= {f"{name}_raw": _cosine(name) for name in windows_in_row(about)}
    columns |= {name: f"least(1, -({name} <#> %({name})s))" for name in about.terms if name in read}
    listed = "".join(f",\n  {sql} AS {name}" for name, sql in columns.items())
    return f'vectors AS (SELECT number{listed}\n  FROM "{table}_vectors"{among} OFFSET 0)'


def _best_of(name: str, table: str, among: str) -> str:
    """The best of a passage's vectors that lie in rows of their own."""
    rows = f'SELECT number, {_cosine("vector")} AS raw FROM "{table}_{name}"{among} OFFSET 0'
    return f"{name} AS (SELECT number, max(raw) AS raw FROM ({rows}) AS rows GROUP BY number)"


def _addend(part: Part, about: About) -> str:
    raw = f"{part.name}.raw" if part.name == "queries" else f"vectors.{part.name}"
    if part.name == "windows":  # a passage of one window has it in `one` alone
        several = ", ".join(["windows.raw", *(f"vectors.{name}_raw" for name in windows_in_row(about))])
        raw = f"coalesce(greatest({several}), vectors.one)"
    return f"{part.weight / part.deviation!r} * {raw}"


def given(about: About, question: Question) -> dict[str, Any]:
    """The parameters of a question: `vector` and `rest`, whose sum is its vector, and its words as sparse vectors."""
    from pgvector import HalfVector, SparseVector

    half = question.vector.astype(np.float16)
    values: dict[str, Any] = {"vector": HalfVector(half), "rest": HalfVector(question.vector - half)}
    for name, terms in about.terms.items():
        asked = question.words[name]
        weights = dict(zip(asked.numbers.tolist(), asked.values.tolist(), strict=True))
        values[name] = SparseVector(weights, max(1, terms))
    return values


class PostgresStore:
    """What was handed over to a database, opened for queries."""

    def __init__(self, url: str) -> None:
        """Raises UsageError if nothing was handed over there."""
        import psycopg
        from pgvector.psycopg import register_vector

        self._place = place_of(url)
        with errors_of(self._place):
            self._connection = opened(self._place)
            try:
                found = self._connection.execute(
                    f'SELECT about, questions FROM "{self._place.table}_about"'.encode()
                ).fetchone()
                register_vector(self._connection)
                self._connection.execute("SET jit = off")  # compiling takes longer than the search
            except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
                found = None
            except psycopg.ProgrammingError:
                found = None  # pgvector's types are not there
        if found is None:
            self._connection.close()
            raise holds_no_index(self._place.shown, self._place.shown)
        try:
            self.about = read_about(found[0], self._place.shown)
        except InputError:
            self._connection.close()
            raise
        self.questions = bytes(found[1])

    def first(self, question: Question, depth: int, where: Filter) -> list[Candidate]:
        """The best `depth` passages by the first stage, best first."""
        import psycopg

        conditions = [condition_of(one, self.about, number) for number, one in enumerate(where.conditions)]
        values = {**given(self.about, question), "depth": depth}
        for _, own in conditions:
            values |= own
        command = statement(self.about, self._place.table, " AND ".join(text for text, _ in conditions))
        with errors_of(self._place):
            try:
                rows = self._connection.execute(command.encode(), values, binary=True).fetchall()
            except psycopg.errors.DatabaseError:
                if self._connection.closed or self._content() != self.about.content:
                    raise Outdated(self._place.shown) from None
                raise
            if (rows[0][-1] if rows else self._content()) != self.about.content:
                raise Outdated(self._place.shown)
        return [_candidate(row, self.about.token_width) for row in rows]

    def _content(self) -> str:
        found = self._connection.execute(f'SELECT content FROM "{self._place.table}_about"'.encode()).fetchone()
        return "" if found is None else str(found[0])

    @property
    def process(self) -> int:
        """The number of the server's process that answers."""
        return self._connection.info.backend_pid

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _candidate(row: tuple[Any, ...], width: int) -> Candidate:
    names = ("number", "score", "id", "document", "title", "text", "page", "metadata", "tokens")
    found = dict(zip(names, row, strict=False))  # behind them stands the content
    return Candidate.of({**found, "score": float(found["score"])}, width=width)
