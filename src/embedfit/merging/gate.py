"""The decision which mixture of base and fine-tuned model ships, if any. Only dev queries decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from embedfit.numerics.arrays import Doubles
from embedfit.retrieval.significance import Difference, compare

#: A mean dev nDCG@10 that is this near to the best counts as equal to it.
SAME_SCORE = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """One α with its measurements.

    dev: (Q,) nDCG@10 of each dev query. retention: nDCG@10 on text outside the corpus.
    """

    alpha: float
    dev: Doubles
    retention: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDecision:
    """The model that ships, and why. comparison: the chosen mixture against the base on dev."""

    ship: Literal["merged", "finetuned", "base"]
    alpha: float
    why: str
    comparison: Difference


def decide(
    mixtures: Sequence[Mixture],
    clusters: npt.NDArray[np.int64],
    *,
    max_retention_loss: float,
    max_dev_loss: float,
    rng: np.random.Generator,
    max_alpha: float = 1.0,
    must_gain: bool = True,
) -> GateDecision:
    """The mixture with the best dev score whose retention holds, if it is better than the base and surely not worse.

    must_gain: False for mixtures whose gain written dev queries can't show, such as maps on query vectors
    (docs/recipe.md). Then dev only forbids: the largest α ships whose 95% interval is not wholly below the base.

    "Surely not worse" means that the 95% interval rules out a loss of more than max_dev_loss. A gate that asked for a
    sure gain would keep most gains from users, because dev queries are few, and written ones show less of a gain than
    people's (docs/recipe.md).

    mixtures: by rising α; the first is the base (α = 0). clusters: (Q,) passage or document of each dev query.
    max_alpha: a mixture with a larger α is only shown, never chosen, because dev queries don't show everything that a
    large α loses. If several mixtures are within half a point of the best, the one farthest from the base is chosen,
    because dev queries are too few to tell neighbours apart.
    """
    base = mixtures[0]
    comparisons = [
        compare(mixture.dev[:, None], base.dev[:, None], clusters, rng=rng)[0] if mixture.alpha else None
        for mixture in mixtures
    ]
    candidates = [number for number, mixture in enumerate(mixtures) if 0 < mixture.alpha <= max_alpha]
    allowed = [number for number in candidates if base.retention - mixtures[number].retention <= max_retention_loss]
    if not candidates:
        nothing = Difference(delta=0.0, ci95=(0.0, 0.0), p_value=1.0, queries=len(base.dev), clusters=0, detectable=1.0)
        return _keep_base("No mixture other than the base was tried.", nothing)
    if not allowed:
        best = max(candidates, key=lambda number: mixtures[number].dev.mean())
        return _keep_base(_all_lose(mixtures[best], base, max_retention_loss), _known(comparisons[best]))
    passing = [n for n in allowed if _passes(_known(comparisons[n]), max_dev_loss, must_gain)] or allowed
    level = max(mixtures[number].dev.mean() for number in passing) - SAME_SCORE
    chosen = max(number for number in passing if mixtures[number].dev.mean() >= level or not must_gain)
    comparison = _known(comparisons[chosen])
    low, high = (100 * bound for bound in comparison.ci95)
    points = f"{100 * comparison.delta:+.1f} points of nDCG@10, 95% CI [{low:+.1f}, {high:+.1f}]"
    gain = f"{points}, on {comparison.queries} dev queries"
    best_try = f"The best mixture (α = {mixtures[chosen].alpha:g})"
    if must_gain and comparison.delta <= 0:
        return _keep_base(f"{best_try} is not better than the base: {gain}.", comparison)
    if not _passes(comparison, max_dev_loss, must_gain):
        may_lose = f"may be worse than the base by {100 * max_dev_loss:.1f} points or more"
        return _keep_base(
            f"{best_try} {may_lose if must_gain else 'is surely worse than the base'}: {gain}.", comparison
        )
    alpha = mixtures[chosen].alpha
    return GateDecision(
        ship="finetuned" if alpha == 1 else "merged",
        alpha=alpha,
        why=f"α = {alpha:g}: {gain}; general text {100 * (mixtures[chosen].retention - base.retention):+.1f} points.",
        comparison=comparison,
    )


def ship_anyway(mixtures: Sequence[Mixture], decision: GateDecision, highest: float) -> GateDecision:
    """A decision for the best mixture on dev, with the gate's reason beside. The gate's own if no mixture was tried."""
    best = max((m for m in mixtures if 0 < m.alpha <= highest), key=lambda m: m.dev.mean(), default=None)
    if best is None:
        return decision
    return GateDecision(
        ship="finetuned" if best.alpha == 1 else "merged",
        alpha=best.alpha,
        why=f"α = {best.alpha:g} ships because merge.always_ship is set; the gate says: {decision.why}",
        comparison=decision.comparison,
    )


def _passes(comparison: Difference, max_dev_loss: float, must_gain: bool) -> bool:
    if not must_gain:
        return comparison.ci95[1] >= 0
    return comparison.delta > 0 and comparison.ci95[0] > -max_dev_loss


def _all_lose(best: Mixture, base: Mixture, most: float) -> str:
    return (
        f"Every mixture loses more than {100 * most:.1f} points on general text "
        f"(the best on dev, α = {best.alpha:g}, loses {100 * (base.retention - best.retention):.1f})."
    )


def _keep_base(why: str, comparison: Difference) -> GateDecision:
    return GateDecision(ship="base", alpha=0.0, why=why, comparison=comparison)


def _known(comparison: Difference | None) -> Difference:
    if comparison is None:
        raise ValueError("only the base has no comparison")
    return comparison
