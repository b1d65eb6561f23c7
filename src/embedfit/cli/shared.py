"""Options that several commands share, and the runtime made from them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from embedfit.commands import runs
from embedfit.errors import UsageError
from embedfit.progress import reporter_for
from embedfit.runtime import Runtime
from embedfit.scale.executor import Executor, open_executor
from embedfit.tracking import TRACKERS, tracking_for

INLINE = "inline"
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON; progress stays on stderr.")]
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
Nodes = Annotated[
    str,
    typer.Option("--nodes", metavar="COUNT@HOST:PORT", help="Train on several machines; HOST is this one's address."),
]
Processes = Annotated[int, typer.Option("--nproc", help="Processes that train.")]
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
) -> Runtime:
    """The runtime of a command. Progress goes to standard error; questions are asked only if somebody can answer."""
    confirm = typer.confirm if sys.stdin.isatty() else None
    runtime = runs.make_runtime(reporter_for(sys.stderr), ledger=ledger, confirm=confirm, processes=processes)
    return replace(runtime, executor=executor_for(workers, ray), tracking=tracking_for(track), nodes=nodes)


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
