"""The tables of an index in PostgreSQL, and an index' rows as rows of them.

With ?table=NAME, which is "embedfit" by default, the database has these views:

    NAME           number, id, document, title, text, page, metadata, dates, tokens, digest: a row a passage
    NAME_vectors   number, one, window_1, window_2 …, words: a row a passage, with all that most queries compare
    NAME_windows   number, vector: the windows of long passages that have no column in NAME_vectors
    NAME_queries   number, vector: the written queries, if the index has them
    NAME_about     content, about (JSON), questions: one row

A passage's vectors lie in one row, because PostgreSQL takes longer to join or to group rows than to compare vectors.
They are in half precision, as in the index.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from embedfit.errors import InputError
from embedfit.index.sinks.conditions import dates_of
from embedfit.index.sinks.sink import About, Row
from embedfit.index.store.columns import DOCUMENT
from embedfit.numerics.arrays import Floats
from embedfit.path.artefacts import Value

#: The parts that have several vectors a passage.
SEVERAL = ("windows", "queries")
#: What a name of ours may end in.
NAMES = ("", "_about", "_vectors", "_windows", "_queries")
#: Bytes of vectors that stay in a row, whose page has 8 kB, and the most windows of a passage in it.
_ROW_BYTES, _MOST_WINDOWS = 7_000, 3
#: pgvector's bound.
_MOST_TERMS = 16_000
#: PostgreSQL's texts can't hold the sign NUL. It becomes the sign that stands for unreadable ones.
NUL, UNREADABLE = "\0", "\ufffd"

Columns = Mapping[str, str]


def windows_in_row(about: About) -> list[str]:
    """The columns of NAME_vectors for a passage's first windows: as many as fit into a page beside its one vector."""
    if "windows" not in about.holds:
        return []
    room = _ROW_BYTES // (2 * about.dimensions + 8) - 1
    return [f"window_{number}" for number in range(1, min(room, _MOST_WINDOWS) + 1)]


def tables(about: About) -> dict[str, Columns]:
    """For the end of each table's name its columns and their types. "" is the table of passages."""
    half, number = f"halfvec({about.dimensions})", "integer PRIMARY KEY"
    found: dict[str, Columns] = {
        "": {
            "number": number, "id": "text NOT NULL",
            **dict.fromkeys(("document", "title", "text"), "text NOT NULL"), "page": "integer NOT NULL",
            **dict.fromkeys(("metadata", "dates"), "jsonb NOT NULL"), "tokens": "bytea", "digest": "text NOT NULL",
        },
        "_about": {"content": "text PRIMARY KEY", "about": "text NOT NULL", "questions": "bytea NOT NULL"},
        "_vectors": {
            "number": number, **({"one": f"{half} NOT NULL"} if "one" in about.holds else {}),
            **dict.fromkeys(windows_in_row(about), half),
            **{name: f"sparsevec({max(1, terms)}) NOT NULL" for name, terms in about.terms.items()},
        },
    }  # fmt: skip
    several = {"number": "integer NOT NULL", "vector": f"{half} NOT NULL"}
    return found | {f"_{name}": several for name in SEVERAL if name in about.holds}


def is_in_page(about: About) -> bool:
    """Whether a row of NAME_vectors has room for its vectors."""
    return 2 * about.dimensions + 8 <= _ROW_BYTES


def passage_of(row: Row) -> tuple[object, ...]:
    """A row of NAME."""
    from psycopg.types.json import Jsonb

    for name in (row.id, row.document):
        if NUL in name:
            raise InputError(
                f"PostgreSQL can't hold the id {name[:60]!r}: it has the sign NUL.", remedy="Give it another id."
            )
    metadata = {readable(name): _clean(value) for name, value in row.metadata.items()}
    dates = dates_of({DOCUMENT: row.document, **metadata})
    tokens = None if row.tokens is None else row.tokens.tobytes()
    texts = (row.id, row.document, readable(row.title), readable(row.text))
    jsons = (Jsonb(metadata, dumps=_json), Jsonb(dates, dumps=_json))
    return (row.number, *texts, row.page, *jsons, tokens, row.digest)


def vectors_of(row: Row, about: About) -> tuple[object, ...]:
    """A row of NAME_vectors."""
    from pgvector import HalfVector

    places = len(windows_in_row(about))
    own: list[object] = [row.number]
    if row.vector is not None:
        own.append(HalfVector(row.vector))
    first = [HalfVector(one) for one in list(_windows(row))[:places]]
    return (*own, *first, *[None] * (places - len(first)), *words_of(row, about))


def words_of(row: Row, about: About) -> list[Any]:
    """The sparse vectors of a passage, which change with every other passage of the index."""
    from pgvector import SparseVector

    return [SparseVector(_terms(row, name), max(1, terms)) for name, terms in about.terms.items()]


def several_of(row: Row, name: str, about: About) -> Iterable[tuple[object, ...]]:
    """The rows of a part of several vectors a passage."""
    from pgvector import HalfVector

    if name == "windows":
        vectors = list(_windows(row))[len(windows_in_row(about)) :]
    else:
        vectors = [] if row.queries is None else list(row.queries)
    return ((row.number, HalfVector(one)) for one in vectors)


def _windows(row: Row) -> Iterable[Floats]:
    """A passage's windows. One of a single window has none: the search reads its one vector."""
    return () if row.windows is None or len(row.windows) == 1 else row.windows


def _terms(row: Row, name: str) -> dict[int, float]:
    sparse = row.words[name]
    if len(sparse.numbers) > _MOST_TERMS:
        raise InputError(
            f"The passage {row.id} has {len(sparse.numbers):,} different words; pgvector holds {_MOST_TERMS:,}.",
            remedy="Cut documents into shorter passages: embedfit run … --set chunk.max_tokens=256",
        )
    return dict(zip(sparse.numbers.tolist(), sparse.values.tolist(), strict=True))


def readable(text: str) -> str:
    """A text without NUL."""
    return text.replace(NUL, UNREADABLE)


def has_nul(row: Row) -> bool:
    """Whether something of a passage is not written as it is."""
    texts = (row.title, row.text, *row.metadata, *(one for value in row.metadata.values() for one in _texts(value)))
    return any(NUL in text for text in texts)


def _texts(value: Value) -> Iterable[str]:
    return (one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, str))


def _clean(value: Value) -> Value:
    if isinstance(value, tuple):
        return tuple(readable(one) if isinstance(one, str) else one for one in value)
    return readable(value) if isinstance(value, str) else value


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
