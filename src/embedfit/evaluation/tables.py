"""The tables of systems and of their differences, as a terminal shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from embedfit.display.terminal import shown
from embedfit.path.artefacts import METRIC, Comparison, System


def systems_view(systems: Mapping[str, System]) -> Table:
    """The table of systems with nDCG@10 and its interval first. It fits a terminal of 80 columns."""
    metrics = ("hit@1", "hit@5", "mrr@10", "recall@100")
    table = Table(box=None, pad_edge=False)
    table.add_column("system", overflow="fold")
    for heading in ("nDCG@10", "95% CI", "hit@1", "hit@5", "MRR@10", "R@100"):
        table.add_column(heading, no_wrap=True, justify="right")
    for name, system in systems.items():
        low, high = system.ci95[METRIC]
        values = [f"{system.metrics[metric]:.3f}" for metric in metrics]
        table.add_row(shown(name), f"{system.metrics[METRIC]:.3f}", f"{low:.3f}–{high:.3f}", *values)
    return table


def differences_view(pairs: Sequence[Comparison], corrected: Sequence[float | None]) -> Table:
    """The table of differences in points, with intervals. corrected: each p-value after Holm's correction."""
    table = Table(box=None, pad_edge=False)
    table.add_column("difference", overflow="fold")
    for heading in ("points", "95% CI", "p", "p, Holm", "detectable", ""):
        table.add_column(heading, no_wrap=True, justify="right")
    for one, holm in zip(pairs, corrected, strict=True):
        low, high = one.ci95 or (-1.0, 1.0)
        p, detectable = one.p_value, one.minimum_detectable
        table.add_row(
            shown(f"{one.a} − {one.b}"),
            f"{100 * one.delta:+.1f}",
            f"[{100 * low:+.1f}, {100 * high:+.1f}]",
            "" if p is None else f"{p:.4f}",
            "" if holm is None else f"{holm:.4f}",
            "" if detectable is None else f"{100 * detectable:.1f}",
            {"better": "better", "worse": "worse", "unsure": ""}[one.verdict],
        )
    return table
