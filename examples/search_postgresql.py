"""The first stage of an index in PostgreSQL, by SQL alone: what an application in another language would send.

    embedfit index --run runs/mine --to postgresql://me@localhost/mine
    python examples/search_postgresql.py postgresql://me@localhost/mine runs/mine/merged "how do I mute the tv"

The statement is for a retriever of one vector, windows and words, which is the default. Weights and deviations come
from the database. MATERIALIZED and OFFSET 0 keep the vectors out of the joins, which makes it three times as fast.
embedfit turns the question into a vector and a sparse vector, which are the only parameters.
"""

from __future__ import annotations

import sys
from typing import Any

import psycopg
from pgvector import SparseVector, Vector
from pgvector.psycopg import register_vector

from embedfit import connect

SQL = """
WITH factor AS (
  SELECT part->>'name' AS name, (part->>'weight')::float8 / (part->>'deviation')::float8 AS by
  FROM embedfit_about, jsonb_array_elements(about::jsonb->'retriever'->'parts') AS part),
one AS MATERIALIZED (SELECT number, -(vector <#> %(vector)s) AS raw FROM embedfit_one),
rows AS (SELECT number, -(vector <#> %(vector)s) AS raw FROM embedfit_windows OFFSET 0),
windows AS (SELECT number, max(raw) AS raw FROM rows GROUP BY number),
words AS MATERIALIZED (SELECT number, least(1, -(weights <#> %(words)s)) AS raw FROM embedfit_words)
SELECT (SELECT by FROM factor WHERE name = 'one') * one.raw
     + (SELECT by FROM factor WHERE name = 'windows') * coalesce(windows.raw, one.raw)
     + (SELECT by FROM factor WHERE name = 'words') * words.raw AS score,
  id, text
FROM one JOIN words USING (number) LEFT JOIN windows USING (number) JOIN embedfit USING (number)
ORDER BY score DESC, number LIMIT 10
"""


def best(url: str, model: str, query: str) -> list[tuple[Any, ...]]:
    """(score, id, text) of the ten best passages."""
    with connect(url, model) as store:
        question, terms = store.ask(query), store.store.about.terms["words"]
    words = question.words["words"]
    sparse = SparseVector(dict(zip(words.numbers.tolist(), words.values.tolist(), strict=True)), terms)
    with psycopg.connect(url) as connection:
        register_vector(connection)
        connection.execute("SET jit = off")  # compiling takes longer than the search
        return connection.execute(SQL, {"vector": Vector(question.vector), "words": sparse}).fetchall()


if __name__ == "__main__":
    for score, name, text in best(*sys.argv[1:]):
        print(f"{score:.3f} {name}: {text[:100]}")
