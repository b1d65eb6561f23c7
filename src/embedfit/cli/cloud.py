"""The part of `run` that another computer does (--on): parse, call, print."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table

from embedfit.cli.results import show_result
from embedfit.commands.cloud.run import CloudRun
from embedfit.commands.runs import RunResult
from embedfit.deploy.jobs.plan import JobPlan
from embedfit.deploy.plan import Plan
from embedfit.display import terminal
from embedfit.display.terminal import say_json, shown

#: Uploads that a plan lists one by one; --json has them all.
_SHOWN_UPLOADS = 8


def run_there(cloud: CloudRun, *, plan_only: bool, as_json: bool) -> RunResult | None:
    """Show a job's plan, or run the job and show the result. Returns it, None for a plan."""
    if plan_only:
        plan = cloud.plan()
        if as_json:
            say_json(plan.as_json())
        else:
            _print(plan)
        return None
    if not as_json:
        _print(cloud.plan(), calls=False)
    result = cloud.run()
    show_result(result, as_json=as_json)
    return result


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
    console.print("  then: s3.download_file of each result, and the deletion of everything above")
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
