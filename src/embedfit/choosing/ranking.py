"""The rankings of all candidates over the run's passages, in the code that search uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from embedfit.choosing.candidates import Candidate
from embedfit.index.build import Source, build
from embedfit.index.retriever import union
from embedfit.index.scoring import Scores, find
from embedfit.index.search import Asker
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import VectorStore
from embedfit.progress import Reporter

#: Scores of one part that are held at a time.
_SCORES = 20_000_000


def rank(
    candidates: Sequence[Candidate],
    model: LocalModel,
    source: Source,
    questions: Sequence[str],
    k: int,
    cache: VectorStore,
    report: Reporter,
) -> list[tuple[Candidate, list[list[int]]]]:
    """Each candidate with its deviations, and the numbers of the k best passages of each question, best first.

    candidates: of one model.
    """
    found: list[tuple[Candidate, list[list[int]]]] = []
    for group, contents in _groups(candidates, source):
        built = build(contents, model, union(one.retriever for one in group), cache, report)
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
    order = {one.key: number for number, one in enumerate(candidates)}
    return sorted(found, key=lambda one: order[one[0].key])


def _groups(candidates: Sequence[Candidate], source: Source) -> Iterator[tuple[list[Candidate], Source]]:
    """Candidates that can share their parts: where written queries are indexed, late interaction reads them too."""
    plain = [one for one in candidates if not one.retriever.reads_queries]
    expanded = [one for one in candidates if one.retriever.reads_queries]
    if plain:
        yield plain, Source(contents=source.contents, asked=source.asked)
    if expanded:
        yield expanded, source
