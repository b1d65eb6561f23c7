"""The questions by which the retriever may be chosen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from embedfit.path.artefacts import Query
from embedfit.retrieval.words import normalised


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingQuestion:
    """A question that helps to choose, with the passages that its asker or writer named as answers, if any."""

    query_id: str
    text: str
    relevant: frozenset[str]


def same(text: str) -> str:
    """A form of a question that is equal for questions that differ in case, width and spaces alone."""
    return " ".join(normalised(text).casefold().split())


def asked_questions(
    queries: Sequence[Query], passages: Collection[str], *, known: Collection[str] | None = None
) -> list[JudgingQuestion]:
    """The asked questions that judge, each once however often it was asked.

    passages: ids of the run's passages. known: questions, as `same` gives them, that a recorded judge has graded. They
    judge too, whatever their split, because the file has grades of no others.
    """
    found: dict[str, JudgingQuestion] = {}
    for query in queries:
        if not query.is_asked or not query.kept:
            continue
        key = same(query.text)
        if query.split != "judge" and (known is None or key not in known):
            continue
        relevant = frozenset({query.passage_id, *query.also_relevant}) & frozenset(passages)
        if key in found:
            found[key] = replace(found[key], relevant=found[key].relevant | relevant)
        else:
            found[key] = JudgingQuestion(query_id=query.query_id, text=query.text, relevant=relevant)
    return list(found.values())


def dev_questions(queries: Sequence[Query], passages: Collection[str]) -> list[JudgingQuestion]:
    """The written dev queries, with the passages that they were written of."""
    known = frozenset(passages)
    dev = [one for one in queries if one.kept and one.split == "dev" and one.passage_id in known]
    return [
        JudgingQuestion(
            query_id=one.query_id, text=one.text, relevant=frozenset({one.passage_id, *one.also_relevant}) & known
        )
        for one in dev
    ]
