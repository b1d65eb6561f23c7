"""A retriever as data: a fixed sum of parts, and a second stage that orders the best passages again.

Every system that a report lists, an index holds or a server answers with is such a record. It adds raw scores, scaled
by constants, so that the sum is the same on one machine, over shards and in a database:

    score(q, p) = Σ weight × raw(q, p) / deviation

A dense part's raw score is a cosine. Its deviation is how far the cosines of a query spread over the passages; it is
one number for the whole index. The raw score of words is BM25 over the query's idf mass: the share of the query that
the passage covers, from 0 to 1, on one scale for all queries and corpora. docs/recipe.md has measurements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue

_STRICT = ConfigDict(extra="forbid")

#: What a query is compared with: the passage's one vector; the best of the vectors of its windows, or of the queries
#: that were written of it; BM25 over its words, as a share of the query's idf mass, or over these queries' words, too.
PartName = Literal["one", "windows", "queries", "words", "words_and_queries"]
Method = Literal["sum", "reciprocal_rank"]

DENSE_PARTS = ("one", "windows", "queries")
#: An index of more passages gets token vectors only on request: they take some 13 kB for a passage of 100 tokens.
MOST_WITH_TOKENS = 50_000
#: Late interaction reads this many of the first stage's best passages.
DEPTH = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One term of the first stage's sum.

    deviation: the divisor of its raw scores; 1 for words, whose scale is fixed.
    """

    __pydantic_config__ = _STRICT

    name: PartName
    weight: float
    deviation: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerank:
    """The second stage: the best `depth` passages in the order of (1 - weight) × first stage + weight × tokens.

    tokens: late interaction (Khattab and Zaharia 2020). Both are standardised among the `depth` passages.
    """

    __pydantic_config__ = _STRICT

    weight: float
    depth: int = DEPTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Retriever:
    """A list of parts with weights, and a second stage or None.

    method: "sum" as above, or "reciprocal_rank": each part adds weight / (60 + rank), as in most databases (Cormack,
    Clarke and Büttcher, SIGIR 2009). "reciprocal_rank" serves comparisons and has no second stage.
    """

    __pydantic_config__ = _STRICT

    name: str
    parts: Annotated[tuple[Part, ...], Field(min_length=1)]
    rerank: Rerank | None = None
    method: Method = "sum"

    def with_deviations(self, deviations: Mapping[str, float]) -> Retriever:
        """The retriever with the deviations of one index. deviations: part name → deviation."""
        parts = tuple(replace(part, deviation=deviations.get(part.name, 1.0)) for part in self.parts)
        return replace(self, parts=parts)

    def without_tokens(self) -> Retriever:
        """The first stage alone."""
        return replace(self, rerank=None)

    def has(self, *names: str) -> bool:
        """Whether a part of one of the names is in the sum."""
        return any(part.name in names for part in self.parts)

    @property
    def reads_queries(self) -> bool:
        """Whether written queries must lie in its index."""
        return self.has("queries", "words_and_queries")

    def as_json(self) -> dict[str, JsonValue]:
        """A JSON value."""
        return asdict(self)


def union(retrievers: Iterable[Retriever]) -> Retriever:
    """A retriever with every part that any of the retrievers reads. Its weights mean nothing."""
    several = list(retrievers)
    names = sorted({part.name for one in several for part in one.parts})
    reranked = any(one.rerank is not None for one in several)
    return Retriever(
        name="union",
        parts=tuple(Part(name=name, weight=1.0) for name in names),
        rerank=Rerank(weight=0.0) if reranked else None,
    )


def single(name: str, part: PartName) -> Retriever:
    """A retriever of one part."""
    return Retriever(name=name, parts=(Part(name=part, weight=1.0),))


#: The retriever that ships unless evidence asks for another. docs/recipe.md lists its measurements.
DEFAULT = Retriever(
    name="default",
    parts=(
        Part(name="one", weight=0.5),
        Part(name="windows", weight=0.5),
        Part(name="words", weight=4.0),
    ),
    rerank=Rerank(weight=0.35),
)


#: The same over a model that was tuned as a whole. Training moves what tokens say into the one vector, but it does not
#: train the token vectors; where people paraphrase, they lose by it (docs/recipe.md).
DEFAULT_TUNED = replace(DEFAULT, rerank=Rerank(weight=0.3))


def default_for(passages: int) -> Retriever:
    """The safe default for so many passages. It has a second stage if its token vectors stay small."""
    return DEFAULT if passages <= MOST_WITH_TOKENS else DEFAULT.without_tokens()


BASE = single("base", "one")
WINDOWS = single("windows", "windows")
BM25 = single("bm25", "words")
#: The same for an index that holds a strong writer's queries of every passage. Late interaction reads them too.
EXPANDED = Retriever(
    name="expanded",
    parts=(
        Part(name="one", weight=0.375),
        Part(name="windows", weight=0.375),
        Part(name="queries", weight=0.25),
        Part(name="words_and_queries", weight=6.0),
    ),
    rerank=Rerank(weight=0.35),
)
#: What most databases offer as hybrid search.
RRF = Retriever(
    name="rrf",
    parts=(Part(name="one", weight=0.5), Part(name="words", weight=0.5)),
    method="reciprocal_rank",
)
