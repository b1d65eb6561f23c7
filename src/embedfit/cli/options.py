"""The options of commands: those that several share, and those that are made from the fields of a record."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.markup import escape

from embedfit.commands import runs
from embedfit.display.options import CommandOption, option_of
from embedfit.errors import UsageError
from embedfit.progress import reporter_for
from embedfit.runtime import Runtime, default_ledger
from embedfit.scale.executor import Executor, open_executor
from embedfit.tracking import TRACKERS, tracking_for

INLINE = "inline"
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON; progress stays on stderr.")]
Documents = Annotated[list[Path] | None, typer.Argument(help="Files, folders, or a BEIR corpus.jsonl.")]
EvalBeir = Annotated[Path | None, typer.Option("--eval-beir", help="Evaluate on human queries in BEIR layout.")]
EvalDocs = Annotated[list[Path] | None, typer.Option("--eval-docs", help="Evaluate on these documents.")]
FollowLinks = Annotated[
    bool | None, typer.Option("--follow-links", help="Follow links that lead out of the documents' folders.")
]
Force = Annotated[bool, typer.Option("--force", help="Run it again even if it is up to date.")]
Generator = Annotated[
    str | None,
    typer.Option(help="bedrock, bedrock-batch, openai, local, recorded:FILE or a plug-in's; NAME:MODEL."),
]
JudgeSpec = Annotated[
    str | None,
    typer.Option(
        "--judge",
        help="Who grades what the candidate retrievers find: bedrock:MODEL, openai:URL#MODEL or recorded:FILE.",
    ),
]
LedgerPath = Annotated[
    Path | None, typer.Option("--ledger", help="Another file for the ledger of language-model calls.")
]
MaxCost = Annotated[float | None, typer.Option("--max-cost", help="USD, never exceeded.")]
Preset = Annotated[str | None, typer.Option(help="default, offline or aws-blog; a run keeps its own.")]
Model = Annotated[str | None, typer.Option(help="bge-small, bge-base, bge-large, minilm, a hub id or a folder.")]
Nodes = Annotated[
    str,
    typer.Option("--nodes", metavar="COUNT@HOST:PORT", help="Train on several machines; HOST is this one's address."),
]
People = Annotated[
    list[Path] | None, typer.Option("--queries", help="Questions that people asked, one a line or JSONL.")
]
Processes = Annotated[int, typer.Option("--nproc", help="Processes that train; with --ray on its cluster.")]
RayCluster = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="local|auto|ADDRESS", help="Work on a Ray cluster; --workers is the number of its workers."
    ),
]
RunFolder = Annotated[Path, typer.Option("--run", help="The run folder.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as train.epochs=2.")]
SettingsFile = Annotated[Path | None, typer.Option("--config", help="A TOML file of settings.")]
Track = Annotated[
    str | None,
    typer.Option(
        "--track",
        metavar="NAME[:PROJECT]",
        help=f"Send losses, scores and the report to {', '.join(TRACKERS)}.",
    ),
]
Workers = Annotated[
    str,
    typer.Option(
        "--workers", help="Processes that read and encode; or an executor, such as processes:4 or a plug-in's."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Go on with paid calls without asking.")]


def runtime_for(
    *,
    ledger: Path | None = None,
    processes: int = 1,
    nodes: str = "",
    workers: str = INLINE,
    ray: str | None = None,
    track: str | None = None,
    yes: bool = False,
) -> Runtime:
    """The runtime of a command. Progress goes to standard error; questions are asked only if somebody can answer."""
    if ray is not None and nodes:
        raise UsageError(
            "--ray and --nodes are two ways to train on several machines.",
            remedy="Leave --nodes out: with --ray, --nproc is the number of processes that train on the cluster.",
        )
    runtime = Runtime(
        report=reporter_for(sys.stderr),
        ledger=ledger or default_ledger(),
        processes=processes,
        executor=executor_for(workers, ray),
        tracking=tracking_for(track),
        nodes=nodes,
    )
    return runs.with_consent(replace(runtime, confirm=typer.confirm) if sys.stdin.isatty() else runtime, yes)


def executor_for(workers: str, ray: str | None) -> Executor:
    """The executor that --workers and --ray name."""
    if ray is None:
        return open_executor(workers)
    if workers != INLINE and not workers.isdecimal():
        raise UsageError(
            f"--workers {workers} and --ray {ray} are two places to work in.",
            remedy="With --ray, --workers is a number, or is left out: then the cluster is filled.",
        )
    return open_executor(f"ray:{ray}" if workers == INLINE else f"ray:{ray},{workers}")


def stated(**settings: object) -> dict[str, object]:
    """The settings that the user named, nested as in embedfit.toml: without None, and without empty sections."""
    inner = {name: stated(**value) if isinstance(value, dict) else value for name, value in settings.items()}
    return {name: value for name, value in inner.items() if value is not None and value != {}}


def with_options(*records: type[BaseModel]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of the records that has a CommandOption.

    The command gets the options that the user gave as `given`, by the names of fields, and no others.
    """

    def decorate(run: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(run, eval_str=True)
        own = [one for one in signature.parameters.values() if one.name != "given"]
        made = [
            _parameter(name, field, option)
            for record in records
            for name, field in record.model_fields.items()
            if (option := option_of(field.metadata)) is not None
        ]

        @wraps(run)
        def command(**values: object) -> None:
            given = {one.name: value for one in made if (value := values.pop(one.name)) not in (None, [])}
            run(**values, given=given)

        command.__signature__ = signature.replace(parameters=[*own, *made])  # type: ignore[attr-defined]
        return command

    return decorate


def _parameter(name: str, field: FieldInfo, option: CommandOption) -> inspect.Parameter:
    shown = _shown(field.default) if option.shown is None else option.shown
    made = typer.Option(
        *option.flags,
        help=f"{option.help} {escape(f'[{shown}]') if shown else ''}".rstrip(),
        rich_help_panel=option.panel,
        show_default=False,
        hidden=option.hidden,
    )
    kind = Annotated[Union[_kind(field.annotation), None], made]  # type: ignore[valid-type]  # noqa: UP007 - a value
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


def _kind(annotation: object) -> object:
    """The type that the command line reads for a field of this type. The record checks the value."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return _kind(next(one for one in get_args(annotation) if one is not NoneType))
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin in (tuple, list, dict):
        return list[str]
    return str if origin is Literal else annotation


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "yes" if default else ""
    return f"{default:g}" if isinstance(default, float) else str(default or "")
