"""Shows the results of a run or a benchmark on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from embedfit.display import terminal
from embedfit.display.terminal import say_json, shown
from embedfit.path.artefacts import METRIC, System

if TYPE_CHECKING:
    from embedfit.commands.runs import RunResult


def print_systems(systems: Mapping[str, System], console: Console | None = None) -> None:
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
    (console or terminal.console()).print(table)


def show_result(result: RunResult, *, as_json: bool) -> None:
    """Print the systems of a finished run, the decision with its reason, and the paths of report and model."""
    if as_json:
        say_json(result.summary)
        return
    from embedfit.reporting.wording import lead_lines  # imports the embedders, and with them torch

    console = terminal.console()
    print_systems(result.results.systems, console)
    console.print()
    for line in lead_lines(result.results, str(result.folder)):
        console.print(shown(line), highlight=False)
    console.print(f"Report: {shown(str(result.report))}", highlight=False, soft_wrap=True)
    console.print(f"Model:  {shown(str(result.model))}", highlight=False, soft_wrap=True)
