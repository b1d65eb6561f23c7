"""The groups of queries in which one system gains on another: by style, length, wording and document."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from embedfit.evaluation.evalset import EvalSet
from embedfit.evaluation.summary import Resamples
from embedfit.numerics.arrays import Doubles
from embedfit.path.artefacts import Slice
from embedfit.retrieval.words import Analysis, length, words

#: The most documents that are listed; those with the most queries come first.
MAX_DOCUMENTS = 30
#: A group of fewer queries is shown without an interval.
MIN_QUERIES = 5

#: Names of the groups by length and by overlap, and for each but the last the limit below which its queries lie.
_LENGTHS = ("1–3 words", "4–6 words", "7–10 words", "11–15 words", "16 words and more")
_BELOW_LENGTHS = (4, 7, 11, 16)
_OVERLAPS = ("0–25%", "25–50%", "50–75%", "75–100%")
_BELOW_OVERLAPS = (0.25, 0.5, 0.75)
_ASKS = [
    [word]
    for word in "what which who whom whose when where why how is are was were do does did can could should would will "
    "may".split()
]
#: Question marks, and the endings of questions in Chinese, Japanese and Korean, whose writers leave the mark out.
_QUESTION_ENDS = ("?", "？", "؟", "吗", "嗎", "呢", "か", "까", "나요")


def slices(
    eval_set: EvalSet,
    base: Doubles,
    tuned_values: Doubles,
    resamples: Resamples,
    *,
    tuned: str = "merged",
) -> dict[str, tuple[Slice, ...]]:
    """The groups of each slicing, by its name.

    base, tuned_values: (Q,) one metric of both systems. tuned: the tuned system's name. A group's ci95 is that of the
    difference, None for small groups.
    """

    def group(value: str, rows: list[int]) -> Slice:
        differences = (tuned_values[rows] - base[rows])[:, None]
        few = len(rows) < MIN_QUERIES or len(np.unique(resamples.clusters[rows])) < 2
        return Slice(
            value=value,
            queries=len(rows),
            base=float(base[rows].mean()),
            delta=float(differences.mean()),
            ci95=None if few else resamples.interval(differences, rows, bounds=(-1.0, 1.0))[0].tolist(),
            **{tuned: float(tuned_values[rows].mean())},
        )

    queries = range(len(eval_set.queries))
    groupings: dict[str, tuple[list[str], Callable[[str, int], tuple[int, str]]]] = {
        "style": ([style_of(eval_set, query) for query in queries], lambda value, count: (-count, "")),
        "length": ([length_of(text) for text in eval_set.queries], lambda value, count: (_LENGTHS.index(value), "")),
        "overlap": (overlaps(eval_set), lambda value, count: (_OVERLAPS.index(value), "")),
        "document": (
            [eval_set.document_names[eval_set.documents[eval_set.answer(query)]] for query in queries],
            lambda value, count: (-count, value),
        ),
    }
    result = {}
    for name, (values, order) in groupings.items():
        groups: dict[str, list[int]] = defaultdict(list)
        for query, value in enumerate(values):
            groups[value].append(query)
        ordered = sorted(groups, key=lambda value: order(value, len(groups[value])))
        limit = MAX_DOCUMENTS if name == "document" else len(ordered)
        result[name] = tuple(group(value, groups[value]) for value in ordered[:limit])
    return result


def style_of(eval_set: EvalSet, query: int) -> str:
    """The style in which a query was written. A person's query has none, so it is a question or not a question."""
    if eval_set.styles[query]:
        return eval_set.styles[query]
    text = eval_set.queries[query].strip()
    asks = text.endswith(_QUESTION_ENDS) or words(text)[:1] in _ASKS
    return "question" if asks else "not a question"


def length_of(text: str) -> str:
    """The group of a query by its number of words."""
    return _LENGTHS[bisect_right(_BELOW_LENGTHS, length(text))]


def overlaps(eval_set: EvalSet) -> list[str]:
    """Each query's group by the share of its words that stand in the answering passage, the best one of several."""
    analysis = Analysis.of(eval_set.contents)
    terms: dict[int, frozenset[str]] = {}

    def passage(number: int) -> frozenset[str]:
        if number not in terms:
            terms[number] = frozenset(analysis.passage(eval_set.contents[number]))
        return terms[number]

    result = []
    for text, relevant in zip(eval_set.queries, eval_set.relevant, strict=True):
        asked = frozenset(analysis.query(text))
        answers = [eval_set.numbers[key] for key in relevant if key in eval_set.numbers]
        share = max((len(asked & passage(number)) for number in answers), default=0) / max(len(asked), 1)
        result.append(_OVERLAPS[bisect_right(_BELOW_OVERLAPS, share)])
    return result
