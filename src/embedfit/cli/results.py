"""Shows the results of a run or a benchmark on the terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from embedfit.display import terminal
from embedfit.display.terminal import say_json, shown
from embedfit.evaluation.tables import systems_view
from embedfit.path.artefacts import System

if TYPE_CHECKING:
    from embedfit.commands.demo import DemoResult
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


def show_demo(result: DemoResult, *, as_json: bool) -> None:
    """Print what the demo found: a few rows, the verdict, questions side by side, the cost, what comes next."""
    if as_json:
        say_json(result.as_dict())
        return
    from embedfit.commands.demo.telling import next_steps, story  # imports the embedders, and with them torch

    console = terminal.console(highlight=False)
    told = story(result)
    console.print()
    rows = Table(
        f"{result.questions:,} questions that people asked",
        "nDCG@10",
        "95% interval",
        "hit@5",
        box=None,
        pad_edge=False,
    )
    for row in told.rows:
        rows.add_row(*map(shown, row))
    console.print(rows)
    console.print()
    for sentence in told.verdict:
        console.print(shown(sentence))
    console.print(f"\n{shown(told.beside)}")
    both = Table(
        "question", "one vector of the base finds first", "the winner finds first: the answer", show_lines=True
    )
    for one in result.compared.shown:
        both.add_row(shown(one.question), shown(one.found), shown(one.answer))
    if result.compared.shown:
        console.print(both)
    for name, text in told.facts:
        console.print(f"{name:8}{shown(text)}", soft_wrap=True)
    console.print("\nYour documents:")
    for command, what in next_steps(program()):
        console.print(f"  {shown(command)}\n      {shown(what)}", soft_wrap=True)


def program() -> str:
    """What to type to run embedfit again: its name, or its path if the shell does not find the name."""
    called = Path(sys.argv[0])
    if called.name != "embedfit":
        return "embedfit"
    found = shutil.which("embedfit")
    if found is not None and Path(found).resolve() == called.resolve():
        return "embedfit"
    return str(called)
