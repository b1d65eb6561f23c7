"""The decision how much of a query map ships, by held-out questions whose answers no teacher named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from embedfit.adapting.questions import ENOUGH, HeldOut, Questions
from embedfit.choosing import metric
from embedfit.merging.gate import SAME_SCORE
from embedfit.models.query_map import QueryMap
from embedfit.numerics.arrays import Doubles, Vectors
from embedfit.path.artefacts import AdaptDecision, AdaptEvidence
from embedfit.retrieval.metrics import judge, ndcg
from embedfit.retrieval.significance import Difference, compare, number
from embedfit.retrieval.topk import top_k
from embedfit.teaching.coverage import largest_weight

#: The weights of the map that are tried beside the unchanged vector.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
#: The weight of a map that learned from written queries alone, unless written questions forbid it.
WRITTEN = 0.75
_DEPTH = 10
_LISTED = 100


def decide(
    fitted: QueryMap,
    questions: Questions,
    vectors: Vectors,
    passages: Vectors,
    ids: Sequence[str],
    *,
    covered: float,
    fixed: float | None,
    seed: int,
) -> tuple[AdaptDecision, AdaptEvidence]:
    """How much of the map ships.

    Half of the held-out questions choose the weight, and the other half decides. But written questions can't choose,
    for they don't lean as people's do (docs/adapt.md): they only forbid a weight at which the map is surely worse.

    vectors: (E, H), those of the held-out questions. passages: (N, H), with their ids. covered: as in AdaptData. fixed:
    the weight that the user named; it is measured, and ships.
    """
    if len(questions.held_out) < ENOUGH:
        none = AdaptEvidence(kind="none", questions=len(questions.held_out))
        return _unmeasured(covered if questions.asked else 0.0, fixed), none
    shares = sorted({0.0, *(SHARES if fixed is None else (fixed,))})
    values = {share: _values(fitted.blended(share)(vectors), questions, passages, ids) for share in shares}
    clusters = number([one.cluster for one in questions.held_out])
    decides = np.ones(len(clusters), bool)

    def against_frozen(share: float) -> Difference:
        a, b = values[share][decides, None], values[0.0][decides, None]
        return compare(a, b, clusters[decides], rng=np.random.default_rng(seed))[0]

    if fixed is not None:
        share = fixed
    elif questions.kind == "written":
        first = largest_weight(covered) if questions.asked else WRITTEN
        tried = sorted((one for one in SHARES if 0 < one <= first), reverse=True)
        share = next((one for one in tried if against_frozen(one).ci95[1] >= 0), tried[-1])
    else:
        chooses = _halves(questions.held_out)
        share, decides = _best({one: value[chooses] for one, value in values.items()}), ~chooses
    found = against_frozen(share)
    evidence = AdaptEvidence(
        kind=questions.kind,
        questions=found.queries,
        delta=found.delta,
        ci95=found.ci95,
        tried={f"{one:g}": float(value.mean()) for one, value in values.items()},
    )
    return _measured(share, found, questions.kind, fixed=fixed is not None), evidence


def _unmeasured(covered: float, fixed: float | None) -> AdaptDecision:
    none = "no question with a known answer was held out to choose it by"
    if fixed is not None:
        return AdaptDecision(ship=fixed > 0, share=fixed, why=f"weight {fixed:g} was named: {none}.")
    share = largest_weight(covered)
    words = f"a passage covers {covered:.0%} of a question that people asked, on average" if covered else "nobody asked"
    return AdaptDecision(ship=True, share=share, why=f"weight {share:g}: {none}; {words}.")


def _measured(share: float, found: Difference, kind: str, *, fixed: bool) -> AdaptDecision:
    low, high = (100 * bound for bound in found.ci95)
    said = (
        f"{100 * found.delta:+.1f} points of nDCG@10, 95% CI [{low:+.1f}, {high:+.1f}], on {found.queries} held-out "
        f"questions ({kind})"
    )
    if share == 0:
        why = "keep the frozen vectors as they are: no weight of the map is better on the held-out questions."
        return AdaptDecision(ship=False, share=0.0, why=why)
    if fixed:
        return AdaptDecision(ship=True, share=share, why=f"weight {share:g} was named: {said}.")
    if high < 0:
        why = f"keep the frozen vectors as they are: the map is surely worse, {said}."
        return AdaptDecision(ship=False, share=share, why=why)
    return AdaptDecision(ship=True, share=share, why=f"weight {share:g}: {said}.")


def _best(values: Mapping[float, Doubles]) -> float:
    """The largest weight whose mean is within SAME_SCORE of the best."""
    means = {share: float(value.mean()) for share, value in values.items()}
    level = max(means.values()) - SAME_SCORE
    return max(share for share, mean in means.items() if mean >= level)


def _halves(held_out: Sequence[HeldOut]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """The questions that choose: (E,). Questions of one cluster stay together, and the halves are equally large."""
    numbers = number([one.cluster for one in held_out])
    sizes = np.bincount(numbers)
    first = np.cumsum(sizes) - sizes < len(numbers) / 2
    result: np.ndarray[tuple[int], np.dtype[np.bool_]] = first[numbers]
    return result


def _values(vectors: Vectors, questions: Questions, passages: Vectors, ids: Sequence[str]) -> Doubles:
    """nDCG@10 of each held-out question. With grades, passages without one are left out of the ranking."""
    found, _ = top_k(vectors, passages, _DEPTH if questions.kind != "graded" else _LISTED)
    rankings = [[ids[place] for place in row] for row in found.tolist()]
    if questions.kind == "graded":
        return np.array(
            [metric.ndcg(row, one.gains, _DEPTH) for row, one in zip(rankings, questions.held_out, strict=True)]
        )
    return ndcg(judge(rankings, [frozenset(one.gains) for one in questions.held_out]), _DEPTH)
