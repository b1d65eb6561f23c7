"""Shows the results of commands: tables for people, and the records that --json prints."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.table import Table

from embedfit.display import terminal
from embedfit.display.terminal import say, say_json, shown
from embedfit.evaluation.tables import systems_view
from embedfit.path.artefacts import Cost, System
from embedfit.path.freshness import State

if TYPE_CHECKING:
    from embedfit.commands.demo import DemoResult
    from embedfit.commands.runs import RunResult


Command = TypeVar("Command", bound=Callable[..., None])


@dataclass(frozen=True, slots=True)
class Printed:
    """The form of what a command prints with --json: the record at place, "module:Name", or a list of such records.

    when: the arguments with which it is printed, if the command has several forms.
    """

    place: str
    many: bool = False
    when: str = ""


def prints(*forms: str | Printed) -> Callable[[Command], Command]:
    """Say what a command prints with --json, for the reference and for the test that holds it to that."""

    def decorate(command: Command) -> Command:
        command.prints = tuple(Printed(one) if isinstance(one, str) else one for one in forms)  # type: ignore[attr-defined]
        return command

    return decorate


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDone:
    """A stage that is up to date. seconds, finished: of when it was done last, which may have been before."""

    run: str
    stage: str
    seconds: float
    finished: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """The state of each stage of a run. why: the reason for each that is not fresh. next: a sentence with a command."""

    stages: Mapping[str, State]
    why: Mapping[str, str]
    next: str
    seconds: Mapping[str, float]
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesWritten:
    """Files and folders that a command has written."""

    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexBuilt:
    """An index. to: the place that it was handed over to, without a password; empty if to none."""

    folder: str
    passages: int
    to: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorsWritten:
    """Vectors in a file. windows: the file with the passage and the text of each, empty without --windows."""

    file: str
    vectors: int
    dimensions: int
    windows: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsMixed:
    """A mixture of models, with the weight of each by its folder."""

    folder: str
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsExported:
    """The calls of the ledger in a file."""

    file: str
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheCleaned:
    """The bytes that were deleted."""

    deleted_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPushed:
    """The address of an uploaded model."""

    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentsDeleted:
    """The names of deployments that were deleted, or with --dry-run would be."""

    deployments: tuple[str, ...]


Record = (
    CacheCleaned
    | CallsExported
    | DeploymentsDeleted
    | FilesWritten
    | IndexBuilt
    | ModelPushed
    | ModelsMixed
    | StageDone
    | VectorsWritten
)


def say_result(record: Record, *text: str, as_json: bool) -> None:
    """Print a record as JSON, or the lines that say the same to people."""
    if as_json:
        say_json(asdict(record))
        return
    for line in text:
        say(line)


def files_written(*files: Path, as_json: bool) -> None:
    """Print the paths of files that were written."""
    paths = tuple(str(one) for one in files)
    say_result(FilesWritten(files=paths), *paths, as_json=as_json)


def print_systems(systems: Mapping[str, System]) -> None:
    """The table of systems with nDCG@10 and its interval first. It fits a terminal of 80 columns."""
    terminal.console().print(systems_view(systems))


def show_result(result: RunResult, *, as_json: bool) -> None:
    """Print the systems of a finished run, the decision with its reason, and the paths of report and model."""
    if as_json:
        say_json(result.summary)
        return
    from embedfit.reporting.wording import lead_lines  # imports the embedders, and with them torch

    print_systems(result.results.systems)
    say("")
    for line in lead_lines(result.results, str(result.folder)):
        terminal.console().print(shown(line), highlight=False)  # broken between words
    say(f"Report: {result.report}\nModel:  {result.model}")


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
    both = Table("question", "plain vector search finds first", "the winner finds first: the answer", show_lines=True)
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
