"""The rankings of all candidates over the run's passages, in the code that search uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from embedfit.choosing.candidates import CandidateRetriever
from embedfit.index.build import Source, build
from embedfit.index.retriever import union
from embedfit.index.scoring import Scores, find
from embedfit.index.search import Asker
from embedfit.models.local import LocalModel
from embedfit.runtime import Runtime

#: Scores of one part that are held at a time.
_SCORES = 20_000_000


def rank(
    candidates: Sequence[CandidateRetriever],
    model: LocalModel,
    source: Source,
    questions: Sequence[str],
    k: int,
    runtime: Runtime,
) -> list[tuple[CandidateRetriever, list[list[int]]]]:
    """Each candidate with its deviations, and the numbers of the k best passages of each question, best first.

    candidates: all over the same model.
    """
    found: list[tuple[CandidateRetriever, list[list[int]]]] = []
    plain = [one for one in candidates if not one.retriever.reads_queries]
    expanded = [one for one in candidates if one.retriever.reads_queries]
    # In an index with written queries, late interaction reads them too, so other candidates can't share its parts.
    for group, contents in ((plain, replace(source, queries=())), (expanded, source)):
        if not group:
            continue
        built = build(contents, model, union(one.retriever for one in group), runtime.vectors, runtime.report)
        deviations: dict[str, float] = {part.name: part.deviation for part in built.retriever.parts}
        known = [replace(one, retriever=one.retriever.with_deviations(deviations)) for one in group]
        rankings: list[list[list[int]]] = [[] for _ in known]
        asker = Asker(model, built.tokens)
        step = max(1, _SCORES // max(1, built.parts.size))
        for start in range(0, len(questions), step):
            scores = Scores(built.parts, asker.ask(questions[start : start + step]))
            for rows, one in zip(rankings, known, strict=True):
                rows += [hit.passages.tolist() for hit in find(scores, one.retriever, k)]
        found += zip(known, rankings, strict=True)
    model.release()
    order = [one.name for one in candidates]
    return sorted(found, key=lambda one: order.index(one[0].name))
