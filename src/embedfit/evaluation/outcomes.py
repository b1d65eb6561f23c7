"""The queries that a system wins and loses against another, with the passages that each of them found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from embedfit.evaluation.evalset import EvalSet
from embedfit.evaluation.measure import Measured
from embedfit.evaluation.slices import style_of
from embedfit.path.artefacts import Evaluation, Outcome, Ranked, ShownPassage

#: The most wins, and the most losses, that are kept. Those with the largest differences come first.
MAX_OUTCOMES = 200
#: Passages shown of each system's ranking.
TOP = 5
#: Characters of a passage that are kept for showing.
MAX_CHARACTERS = 700


def outcomes(
    eval_set: EvalSet,
    measured: Mapping[str, Measured],
    *,
    metric: str,
    base: str = "base",
    tuned: str = "merged",
    beside: Sequence[str] = ("bm25",),
) -> Evaluation:
    """The queries on which the tuned system does better or worse than base.

    beside: further systems whose rankings are shown. The result has every passage that it names, by id.
    """
    deltas = measured[tuned].column(metric) - measured[base].column(metric)
    order = np.argsort(-np.abs(deltas), kind="stable")
    won = [int(query) for query in order if deltas[query] > 0]
    lost = [int(query) for query in order if deltas[query] < 0]
    shown = [name for name in (base, tuned, *beside) if name in measured]
    wins = [_outcome(query, eval_set, measured, shown, deltas[query]) for query in won[:MAX_OUTCOMES]]
    losses = [_outcome(query, eval_set, measured, shown, deltas[query]) for query in lost[:MAX_OUTCOMES]]
    named = {
        passage
        for outcome in (*wins, *losses)
        for passage in (*outcome.relevant, *(passage for found in outcome.systems.values() for passage in found.top))
    }
    return Evaluation(
        metric=metric,
        tuned=tuned,
        counts={"won": len(won), "lost": len(lost), "tied": len(deltas) - len(won) - len(lost)},
        wins=tuple(wins),
        losses=tuple(losses),
        passages={passage: _passage(passage, eval_set) for passage in sorted(named)},
    )


def _outcome(
    query: int, eval_set: EvalSet, measured: Mapping[str, Measured], shown: Sequence[str], delta: float
) -> Outcome:
    found = {
        name: Ranked(rank=int(measured[name].ranks[query]), top=tuple(measured[name].found[query][:TOP]))
        for name in shown
    }
    return Outcome(
        query_id=eval_set.query_ids[query],
        query=eval_set.queries[query],
        style=style_of(eval_set, query),
        relevant=tuple(passage for passage in eval_set.relevant[query] if passage in eval_set.numbers)[:TOP],
        delta=float(delta),
        **found,
    )


def _passage(passage: str, eval_set: EvalSet) -> ShownPassage:
    number = eval_set.numbers[passage]
    text = eval_set.texts[number]
    return ShownPassage(
        title=eval_set.titles[number],
        text=text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS].rstrip() + "…",
        document_id=eval_set.documents[number],
        document=eval_set.document_names[eval_set.documents[number]],
        page=eval_set.pages[number],
    )
