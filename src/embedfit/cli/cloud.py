"""The part of `run` that another computer does (--on): parse, call, print."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.table import Table

from embedfit.config import Config
from embedfit.deploy.jobs.options import Cloud
from embedfit.display import terminal
from embedfit.display.options import CommandRecord
from embedfit.display.terminal import say_json, shown
from embedfit.errors import UsageError
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime

if TYPE_CHECKING:
    from embedfit.commands.runs import RunResult
    from embedfit.deploy.jobs.plan import JobPlan
    from embedfit.deploy.plan import Plan

#: Uploads that a plan lists one by one; --json has them all.
_SHOWN_UPLOADS = 8


class Elsewhere(CommandRecord):
    """Where `run` works, if not here."""

    on: Annotated[str | None, Cloud("Run it there: sagemaker:ml.g5.2xlarge.", ("--on",))] = None
    plan: Annotated[bool, Cloud("List calls, cost and rights; do nothing.", ("--plan",))] = False
    region: Annotated[str | None, Cloud("AWS region.")] = None
    profile: Annotated[str | None, Cloud("AWS profile.")] = None
    prices: Annotated[Path | None, Cloud("Your own price table (JSON).")] = None


def elsewhere(given: Mapping[str, object], *, apart: bool) -> bool:
    """Whether another computer does the run. apart: only this computer has an option that was given.

    Raises UsageError if the options don't go together.
    """
    there = "on" in given
    if given and not there:
        raise UsageError(
            "--plan and what belongs to a job need --on.", remedy="For example: --on sagemaker:ml.g5.2xlarge"
        )
    if there and apart:
        raise UsageError("--ray, --nodes and --track do not go together with --on.", remedy="Leave one of them out.")
    return there


def run_there(
    given: Mapping[str, object],
    workspace: Workspace,
    config: Config,
    runtime: Runtime,
    *,
    workers: str,
    force: bool,
    as_json: bool,
) -> RunResult | None:
    """Show a job's plan and return None, or run the job. given: the fields of Elsewhere and of JobOptions."""
    from embedfit.commands.cloud.run import CloudRun, Place  # with what it needs

    where = Elsewhere.model_validate({name: value for name, value in given.items() if name in Elsewhere.model_fields})
    place = Place(
        target=str(where.on),
        region=where.region,
        profile=where.profile,
        prices=where.prices,
        options={name: value for name, value in given.items() if name not in Elsewhere.model_fields},
    )
    cloud = CloudRun(workspace=workspace, config=config, place=place, runtime=runtime, workers=workers, force=force)
    if where.plan and as_json:
        say_json(cloud.plan().as_json())
    elif where.plan or not as_json:
        _print(cloud.plan(), calls=where.plan)
    return None if where.plan else cloud.run()


def _print(plan: JobPlan, *, calls: bool = True) -> None:
    console = terminal.console(unbroken=True, highlight=False)
    cost = plan.cost
    console.print(f"[bold]{shown(plan.job)}[/] in {plan.region}, account {plan.account or 'not known'}")
    console.print(f"  run       {shown(plan.model)}")
    console.print(f"  image     {shown(plan.image)}")
    console.print(f"  instance  {plan.instance_type}{', spare capacity' if plan.spot else ''}")
    price = "not known" if cost.usd_per_hour is None else f"${cost.usd_per_hour:.2f}/h, at most ${cost.most_usd:.2f}"
    console.print(f"  cost      {price} in {cost.max_hours:g} h  [dim]{shown(cost.basis)}[/]")
    console.print(f"  upload    {plan.upload_bytes / 1e6:,.1f} MB to s3://{plan.bucket}/{plan.prefix}")
    if calls:
        _print_calls(plan, console)
    print_findings(plan, console)


def _print_calls(plan: JobPlan, console: Console) -> None:
    console.print("\nCalls, in this order:")
    uploads = 0
    for call in (call for step in plan.steps for call in step.calls):
        uploads += call.operation == "upload_file"
        if call.operation == "upload_file" and uploads > _SHOWN_UPLOADS:
            continue
        parameters = json.dumps({key: value for key, value in call.parameters.items() if key != "Tags"})
        listed = parameters if len(parameters) <= 300 else parameters[:297] + "…"
        console.print(f"  {call.service}.{call.operation} [dim]{shown(listed)}[/]")
    if uploads > _SHOWN_UPLOADS:
        console.print(f"  [dim]and {uploads - _SHOWN_UPLOADS:,} more uploads[/]")
    console.print("  then, until it has ended: sagemaker.describe_training_job, logs.get_log_events")
    console.print("  then: s3.get_object of each result, and the deletion of everything above")
    console.print("  [dim]Tags, whole parameters and the IAM policies: --json[/]")


def print_findings(plan: Plan, console: Console) -> None:
    """The table of what is there and what is missing for a plan, and its notes."""
    table = Table("", "check", "found", "fix", box=None, pad_edge=False)
    marks = {"ok": "[green]ok[/]", "missing": "[red]no[/]", "unknown": "[yellow]?[/]"}
    for finding in plan.findings:
        table.add_row(marks[finding.status], finding.check, shown(finding.detail), shown(finding.fix))
    console.print()
    console.print(table)
    for note in plan.notes:
        console.print(f"[dim]Note: {shown(note)}[/]")
