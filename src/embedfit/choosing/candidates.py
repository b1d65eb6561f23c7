"""The retrievers that the gate compares."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from embedfit.choosing.models import Ships
from embedfit.generators import generator
from embedfit.index.retriever import BASE, BM25, DEFAULT, EXPANDED, RRF, WINDOWS, Part, Retriever, default_for
from embedfit.records import Passage, Query

#: Written queries belong in the index of all passages or of none: those without would stand behind those with.
COVERED = 0.95

# In these two words weigh about as much as in standardised sums of one .5 + BM25 .5 and of windows .7 + BM25 .3, which
# gain most where words matter (docs/recipe.md).
ONE_AND_WORDS = Retriever(name="one_words", parts=(Part(name="one", weight=1.0), Part(name="words", weight=20.0)))
WINDOWS_AND_WORDS = Retriever(
    name="windows_words", parts=(Part(name="windows", weight=1.0), Part(name="words", weight=12.0))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A retriever over a model. ships: False where it is there for comparison alone."""

    name: str
    model: Ships
    retriever: Retriever
    ships: bool = True

    @property
    def key(self) -> tuple[str, str]:
        """Model and name."""
        return self.model, self.name


def candidates(models: Sequence[Ships], passages: int, *, expanded: bool, default: str) -> list[Candidate]:
    """Every candidate over every model, the safe default first.

    expanded: whether written queries may lie in the index. default: the safe default's name.
    """
    tokens = default_for(passages).rerank is not None
    safe = [DEFAULT, EXPANDED] if expanded else [DEFAULT]
    safe = [one if tokens else one.without_tokens() for one in safe]
    safe.sort(key=lambda one: one.name != default)
    retrievers = [*safe, BASE, WINDOWS, ONE_AND_WORDS, WINDOWS_AND_WORDS, BM25, RRF]
    return [
        Candidate(name="one" if one is BASE else one.name, model=model, retriever=one, ships=one.method == "sum")
        for model in models
        for one in retrievers
    ]


def safe_name(written: Sequence[Sequence[str]], writer: str) -> str:
    """The name of the retriever that ships where no question of a person asks for another.

    writer: the generator's name. Written queries lie in the index where a strong writer wrote them, of nearly all
    passages. What a small model on this machine writes gains nothing there (docs/recipe.md).
    """
    return EXPANDED.name if generator(writer).strong and covered(written) >= COVERED else DEFAULT.name


def written_queries(passages: Sequence[Passage], queries: Sequence[Query]) -> list[list[str]]:
    """The kept queries that were written of each passage, in the passages' order."""
    of: Mapping[str, list[str]] = defaultdict(list)
    for query in queries:
        if query.kept and not query.is_asked:
            of[query.passage_id].append(query.text)
    return [of[one.passage_id] if one.passage_id in of else [] for one in passages]


def covered(written: Sequence[Sequence[str]]) -> float:
    """The share of passages that have a written query."""
    return sum(bool(texts) for texts in written) / len(written) if written else 0.0
