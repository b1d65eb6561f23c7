"""Decides which retriever an index gets, by the run's choice, its settings and its written queries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from embedfit.errors import InputError
from embedfit.index.retriever import DEFAULT, EXPANDED, Retriever, default_for
from embedfit.index.written import COVERED, Written
from embedfit.path.artefacts import ChosenRetriever

Wish = Literal["auto", "yes", "no"]
#: Kinds of evidence that may choose between words, vectors and written queries.
_CHOOSING = ("labelled", "graded")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPlan:
    """The retriever of an index. with_queries: whether the index holds the written queries. why: the reason."""

    retriever: Retriever
    with_queries: bool
    why: str


def has_tokens(passages: int, wish: Wish) -> bool:
    """Whether the safe default for so many passages has a second stage. wish: the setting index.tokens."""
    return default_for(passages).rerank is not None if wish == "auto" else wish == "yes"


def plan(
    passages: int,
    *,
    chosen: ChosenRetriever | None,
    written: Written | None,
    is_strong: bool,
    tokens: Wish = "auto",
    queries: Wish = "auto",
) -> IndexPlan:
    """The retriever of an index of so many passages.

    chosen: the run's choice; None if it made none. written: the run's written queries; None if it has none.
    is_strong: whether their writer's queries improve an index (`Generator.strong`). Raises InputError if queries are
    wanted but there are too few.
    """
    retriever = chosen.retriever if chosen else default_for(passages)
    default = chosen.default if chosen else retriever
    with_queries, why = _queries(
        retriever, chosen is not None and chosen.evidence.kind in _CHOOSING, written, is_strong, queries
    )
    if with_queries and not retriever.reads_queries:
        retriever = EXPANDED if retriever.rerank is not None else EXPANDED.without_tokens()
    if not with_queries and retriever.reads_queries:
        retriever = default if not default.reads_queries else default_for(passages)
    if tokens == "no":
        retriever = retriever.without_tokens()
    elif tokens == "yes" and retriever.rerank is None:
        retriever = replace(retriever, rerank=DEFAULT.rerank)
    return IndexPlan(retriever=retriever, with_queries=with_queries, why=why)


def _queries(
    retriever: Retriever, has_evidence: bool, written: Written | None, is_strong: bool, wish: Wish
) -> tuple[bool, str]:
    """(whether the index shall hold the written queries, the reason)."""
    if wish == "no":
        return False, "they were not asked for"
    if written is None or not written.count:
        if wish == "yes":
            raise InputError(
                "There are no written queries to put into the index.",
                remedy="Have them written first: embedfit run DOCS. Without them: embedfit index --without-queries",
            )
        return False, "there are none"
    if wish == "yes":
        written.check()
        return True, "they were asked for"
    if not written.enough:
        return False, f"{written.covered:.0%} of the passages have some, and {COVERED:.0%} are needed"
    if has_evidence:
        used = retriever.reads_queries
        return used, "the retriever that people's questions chose " + ("reads them" if used else "reads none")
    if not is_strong:
        return False, "a small model wrote them, and such queries don't improve an index"
    return True, "a strong model wrote them"
