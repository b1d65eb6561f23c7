"""The first stage of an index in PostgreSQL, by SQL alone: what an application in another language would send.

    embedfit index --run runs/mine --to postgresql://me@localhost/mine
    python examples/search_postgresql.py postgresql://me@localhost/mine runs/mine/merged "how do I mute the tv"

The statement is for a retriever of one vector, windows and words, which is the default. Weights and deviations come
from the database. Stored vectors are in half precision; the question's is the sum of two in half precision, so nothing
of it is lost. OFFSET 0 keeps the vectors out of the join. A model of more than 871 dimensions has fewer columns of
windows. embedfit turns the question into a vector and a sparse vector, which are the only parameters.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import psycopg
from pgvector import HalfVector, SparseVector
from pgvector.psycopg import register_vector

from embedfit import connect

SQL = """
WITH factor AS (
  SELECT part->>'name' AS name, (part->>'weight')::float8 / (part->>'deviation')::float8 AS by
  FROM embedfit_about, jsonb_array_elements(about::jsonb->'retriever'->'parts') AS part),
vectors AS (
  SELECT number, -(one <#> %(vector)s) - (one <#> %(rest)s) AS one,
    -(window_1 <#> %(vector)s) - (window_1 <#> %(rest)s) AS first,
    -(window_2 <#> %(vector)s) - (window_2 <#> %(rest)s) AS second,
    -(window_3 <#> %(vector)s) - (window_3 <#> %(rest)s) AS third,
    least(1, -(words <#> %(words)s)) AS words
  FROM embedfit_vectors OFFSET 0),
more AS (
  SELECT number, max(-(vector <#> %(vector)s) - (vector <#> %(rest)s)) AS best FROM embedfit_windows GROUP BY number),
best AS (
  SELECT number, (SELECT by FROM factor WHERE name = 'one') * one
    + (SELECT by FROM factor WHERE name = 'windows') * coalesce(greatest(first, second, third, best), one)
    + (SELECT by FROM factor WHERE name = 'words') * words AS score
  FROM vectors LEFT JOIN more USING (number) ORDER BY score DESC, number LIMIT 10)
SELECT score, id, text FROM best JOIN embedfit USING (number) ORDER BY score DESC, number
"""


def best(url: str, model: str, query: str) -> list[tuple[Any, ...]]:
    """(score, id, text) of the ten best passages."""
    with connect(url, model) as store:
        question, terms = store.ask(query), store.store.about.terms["words"]
    words, half = question.words["words"], question.vector.astype(np.float16)
    sparse = SparseVector(dict(zip(words.numbers.tolist(), words.values.tolist(), strict=True)), terms)
    with psycopg.connect(url) as connection:
        register_vector(connection)
        connection.execute("SET jit = off")  # compiling takes longer than the search
        values = {"vector": HalfVector(half), "rest": HalfVector(question.vector - half), "words": sparse}
        return connection.execute(SQL, values).fetchall()


if __name__ == "__main__":
    for score, name, text in best(*sys.argv[1:]):
        print(f"{score:.3f} {name}: {text[:100]}")
