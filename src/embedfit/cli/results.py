"""Shows the results of a run or a benchmark on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console

from embedfit.display import terminal
from embedfit.display.terminal import say_json, shown
from embedfit.evaluation.tables import systems_view
from embedfit.path.artefacts import System

if TYPE_CHECKING:
    from embedfit.commands.runs import RunResult


def print_systems(systems: Mapping[str, System], console: Console | None = None) -> None:
    """The table of systems with nDCG@10 and its interval first. It fits a terminal of 80 columns."""
    (console or terminal.console()).print(systems_view(systems))


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
