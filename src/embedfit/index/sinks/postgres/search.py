"""The first stage as one SQL statement, and the store that runs it."""

from __future__ import annotations

from typing import Any

from embedfit.errors import InputError
from embedfit.index.retriever import DENSE_PARTS, Part
from embedfit.index.sinks.postgres.connection import errors_of, opened, place_of
from embedfit.index.sinks.postgres.filters import condition_of
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
    """The statement of an index' first stage, with %(vector)s, %(words)s or %(words_and_queries)s, and %(depth)s.

    table: the name that was checked by place_of. conditions: SQL of a filter, whose values are parameters; "" for all.
    """
    parts = about.retriever.parts
    read = dict.fromkeys(part.name for part in parts)
    if "windows" in read:
        read = {"one": None, **read}  # a passage of one window has no row there
    dense = any(part.name in DENSE_PARTS for part in parts)
    names = [*read, *(["allowed"] if conditions else [])]
    return _BEST.format(
        allowed=f'allowed AS MATERIALIZED (SELECT number FROM "{table}" WHERE {conditions}),\n' if conditions else "",
        parts=",\n".join(_scores(name, table) for name in read),
        total=" + ".join(_addend(part) for part in parts),
        joined=_joined(names),
        where="" if dense else "WHERE score > 0 ",
        table=table,
    )


def _scores(name: str, table: str) -> str:
    """A part's raw scores, kept apart (MATERIALIZED, OFFSET 0): else the vectors themselves would be joined and sorted.

    <#> is the negative inner product.
    """
    if name not in DENSE_PARTS:
        score = f"least(1, -(weights <#> %({name})s))"
        return f'{name} AS MATERIALIZED (SELECT number, {score} AS raw FROM "{table}_{name}")'
    if name == "one":
        return f'one AS MATERIALIZED (SELECT number, -(vector <#> %(vector)s) AS raw FROM "{table}_one")'
    rows = f'SELECT number, -(vector <#> %(vector)s) AS raw FROM "{table}_{name}" OFFSET 0'
    return f"{name} AS (SELECT number, max(raw) AS raw FROM ({rows}) AS rows GROUP BY number)"


def _addend(part: Part) -> str:
    raw = "coalesce(windows.raw, one.raw)" if part.name == "windows" else f"{part.name}.raw"
    return f"{part.weight / part.deviation!r} * {raw}"


def _joined(names: list[str]) -> str:
    first, *others = sorted(names, key=lambda name: name == "windows")  # the only one that lacks passages
    return first + "".join(f" {'LEFT ' if name == 'windows' else ''}JOIN {name} USING (number)" for name in others)


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
        from pgvector import SparseVector, Vector

        conditions = [condition_of(one, self.about, number) for number, one in enumerate(where.conditions)]
        values: dict[str, Any] = {"vector": Vector(question.vector), "depth": depth}
        for name, terms in self.about.terms.items():
            asked = question.words[name]
            weights = dict(zip(asked.numbers.tolist(), asked.values.tolist(), strict=True))
            values[name] = SparseVector(weights, max(1, terms))
        for _, given in conditions:
            values |= given
        command = statement(self.about, self._place.table, " AND ".join(text for text, _ in conditions))
        with errors_of(self._place):
            try:
                rows = self._connection.execute(command.encode(), values).fetchall()
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
