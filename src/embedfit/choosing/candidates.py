"""The retrievers that the gate compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embedfit.generators import generator
from embedfit.index.retriever import BASE, BM25, DEFAULT, DEFAULT_TUNED, EXPANDED, RRF, WINDOWS, Part, Retriever
from embedfit.index.written import Written
from embedfit.path.artefacts import ShippedModel

# The weights of words match those of standardised sums of one .5 + BM25 .5 and of windows .7 + BM25 .3, which gain most
# on corpora where words matter (docs/recipe.md).
ONE_AND_WORDS = Retriever(name="one_words", parts=(Part(name="one", weight=1.0), Part(name="words", weight=20.0)))
WINDOWS_AND_WORDS = Retriever(
    name="windows_words", parts=(Part(name="windows", weight=1.0), Part(name="words", weight=12.0))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRetriever:
    """A retriever over a model. ships: False if it serves comparison only."""

    model: ShippedModel
    retriever: Retriever
    ships: bool = True

    @property
    def name(self) -> str:
        """Its name in retriever.json."""
        return "one" if self.retriever.name == BASE.name else self.retriever.name


def candidates(
    models: Sequence[ShippedModel], *, tokens: bool, expanded: bool, default: str, as_a_whole: bool
) -> list[CandidateRetriever]:
    """Every candidate over every model; over each model the safe default comes first.

    tokens: whether the safe default may have a second stage. expanded: whether the index may hold written queries.
    default: the safe default's name. as_a_whole: whether the merged model was tuned as a whole.
    """
    found = []
    for model in models:
        tuned = DEFAULT_TUNED if as_a_whole and model == "merged" else DEFAULT
        safe = [tuned, EXPANDED] if expanded else [tuned]
        safe = [one if tokens else one.without_tokens() for one in safe]
        safe.sort(key=lambda one: one.name != default)
        for one in (*safe, BASE, WINDOWS, ONE_AND_WORDS, WINDOWS_AND_WORDS, BM25, RRF):
            found.append(CandidateRetriever(model=model, retriever=one, ships=one.method == "sum"))
    return found


def safe_name(written: Written, writer: str, wish: str) -> str:
    """The name of the safe default, which ships unless people's questions choose another retriever.

    writer: the generator's name. wish: the setting index.queries. The index holds written queries if a strong writer
    wrote them for nearly all passages. Queries of a small local model improve no index (docs/recipe.md).
    """
    wanted = generator(writer).strong if wish == "auto" else wish == "yes"
    return EXPANDED.name if wanted and written.enough else DEFAULT.name
