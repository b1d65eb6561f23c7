"""The commands `deploy sagemaker …`: parse, call, print."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import platformdirs
import typer
from rich.table import Table

from embedfit.cli.cloud import print_findings
from embedfit.cli.options import AsJson, with_options
from embedfit.cli.results import DeploymentsDeleted, Printed, prints, say_result
from embedfit.deploy.account.calls import Aws
from embedfit.deploy.account.images import device_of
from embedfit.deploy.account.prices import load_prices
from embedfit.deploy.artefact import model_folder_of, query_tower, resolve_artefact, run_label, state_folder_of
from embedfit.deploy.endpoint.plan import DeployPlan, make_plan
from embedfit.deploy.options import Options, refuse_serverless
from embedfit.deploy.state import Deployment, StateFile
from embedfit.display import terminal
from embedfit.display.terminal import say, say_json, shown
from embedfit.errors import DeployError, MissingDependency, UsageError
from embedfit.progress import Silent, reporter_for
from embedfit.runtime import Runtime

app = typer.Typer(help="Deploy a model to a managed endpoint, and delete it again.", no_args_is_help=True)
sagemaker = typer.Typer(help="Plan, make, test and delete a SageMaker endpoint.", no_args_is_help=True)
app.add_typer(sagemaker, name="sagemaker")

Model = Annotated[
    str, typer.Argument(help="Run folder, model folder, s3://bucket/prefix/, hub id or alias.", show_default=False)
]
MaybeModel = Annotated[
    str | None, typer.Argument(help="What was deployed. Not needed with --name or --run-label.", show_default=False)
]
Region = Annotated[str | None, typer.Option(help="AWS region; default: the environment's.", show_default=False)]
Profile = Annotated[str | None, typer.Option(help="AWS profile; default: the environment's.", show_default=False)]
Name = Annotated[
    str | None, typer.Option(help="Name of the endpoint; default: from run and content.", show_default=False)
]
Run = Annotated[
    str | None,
    typer.Option(
        "--run-label", help="Label of several deployments; default: the run folder's name.", show_default=False
    ),
]
Bucket = Annotated[
    str | None, typer.Option(help="Bucket for the model; default: sagemaker-REGION-ACCOUNT.", show_default=False)
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]


Policies = Annotated[
    Path | None,
    typer.Option(
        "--write-policies",
        metavar="FOLDER",
        help="Write trust.json, execution.json and deployer.json there.",
        show_default=False,
    ),
]
Prices = Annotated[
    Path | None, typer.Option(help="Your own price table (JSON).", show_default=False, rich_help_panel="Size and cost")
]
Serverless = Annotated[bool, typer.Option("--serverless", hidden=True)]


@sagemaker.command()
@prints("embedfit.deploy.endpoint.plan:DeployPlan")
@with_options(Options)
def plan(
    model: Model,
    region: Region = None,
    profile: Profile = None,
    prices: Prices = None,
    policies_to: Policies = None,
    serverless: Serverless = False,
    as_json: AsJson = False,
    *,
    given: Mapping[str, object],
) -> None:
    """List the calls of apply, their cost and the permissions they need. Changes nothing; needs no credentials."""
    aws = _aws(region, profile)
    made = _planned(model, aws, region, prices, serverless, given)
    if policies_to is not None:
        _write_policies(made, policies_to)
    if as_json:
        say_json(made.as_json())
    else:
        _print_plan(made)


@sagemaker.command()
@prints("embedfit.deploy.state:Deployment")
@with_options(Options)
def apply(
    model: Model,
    region: Region = None,
    profile: Profile = None,
    prices: Prices = None,
    serverless: Serverless = False,
    yes: Yes = False,
    as_json: AsJson = False,
    *,
    given: Mapping[str, object],
) -> None:
    """Make the endpoint. Asks first; undoes everything on failure or Ctrl-C."""
    from embedfit.deploy.apply import apply as make  # with what it needs

    aws = _aws(region, profile)
    made = _planned(model, aws, region, prices, serverless, given)
    if aws is None:
        raise MissingDependency("boto3", extra="aws", needed_for="Deploying")
    if not as_json:
        _print_plan(made, calls=False)
    deployment = make(made, aws, _runtime(yes, as_json))
    if as_json:
        say_json(asdict(deployment))
        return
    where = f"{shlex.quote(made.model)} --name {deployment.name} --region {made.region}"
    say(f"\n{deployment.name} is in service. Next:")
    say(f"  embedfit deploy sagemaker test {where}")
    say(f"  embedfit deploy sagemaker destroy {where}")


def _planned(
    model: str,
    aws: Aws | None,
    region: str | None,
    prices: Path | None,
    serverless: bool,
    given: Mapping[str, object],
) -> DeployPlan:
    if serverless:
        refuse_serverless()
    found = aws.region if aws else region
    if not found:
        raise UsageError("No AWS region is known.", remedy="Give --region, for example --region us-east-1")
    options = Options.model_validate({**given, "model": model, "region": found})
    device = device_of(options.instance_type)
    artefact = resolve_artefact(model, aliases=_aliases(), user_folder=_user_folder(), device=device)
    return make_plan(options, artefact, aws=aws, prices=load_prices(prices), now=datetime.now(timezone.utc))


@sagemaker.command()
@prints(Printed("embedfit.deploy.status:DeploymentStatus", many=True))
def status(
    model: MaybeModel = None,
    region: Region = None,
    profile: Profile = None,
    name: Name = None,
    as_json: AsJson = False,
) -> None:
    """List the deployments that are up, their cost so far, and when they expire."""
    from embedfit.deploy.status import status as look

    found = [
        one
        for folder in _state_folders(model)
        if _recorded_region(folder, name)
        for one in look(Aws.open(region or _recorded_region(folder, name), profile), folder, name=name)
    ]
    if as_json:
        say_json([asdict(one) for one in found])
        return
    if not found:
        say("Nothing is recorded as deployed.")
    for one in found:
        price = (
            "price not known"
            if one.usd_per_hour is None
            else f"${one.usd_per_hour:.2f}/h, ${one.usd_so_far:.2f} so far"
        )
        ends = f", expires {one.expires}{' (over: run sweep)' if one.expired else ''}" if one.expires else ""
        say(f"{one.name} ({one.region}): {one.endpoint}, {one.instances} × {one.instance_type}, {price}{ends}")
        for resource in one.resources:
            say(f"  {'there' if resource.there else 'gone '}  {resource.kind} {resource.name}")


@sagemaker.command()
@prints("embedfit.deploy.probe:ProbeResult")
def test(
    model: Annotated[
        str, typer.Argument(help="The model that was deployed: a folder, an alias or a hub id.", show_default=False)
    ],
    region: Region = None,
    profile: Profile = None,
    name: Name = None,
    requests: Annotated[int, typer.Option(min=1, help="Single-query requests to time.")] = 100,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at the same time, for the rate.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Compare the endpoint's vectors with the local model's, and time its answers."""
    from embedfit.deploy.probe import probe, texts_of  # torch

    folder = state_folder_of(model, _user_folder())
    endpoint = name or _only_deployment(folder)
    known = next((one for one in _deployments(folder) if one.name == endpoint), None)
    aws = Aws.open(region or (known.region if known else None), profile)
    local = _local_model(model)
    result = probe(
        aws,
        endpoint,
        local,
        texts_of(local),
        requests=requests,
        concurrency=concurrency,
        rows=known.max_client_batch if known else 32,
        report=Silent() if as_json else reporter_for(sys.stderr),
    )
    if as_json:
        say_json(asdict(result))
    else:
        terminal.console().print(result_table(asdict(result)))
    if not result.agrees:
        raise DeployError(
            f"The endpoint's vectors differ from the local model's: lowest cosine {result.lowest_cosine:.6f}"
            + ("" if result.same_ten is None else f", {result.same_ten:.0%} of the ten best passages the same")
            + ("." if result.golden is None else f", {result.golden:.0%} of the index' golden answers found."),
            remedy="Is it the same model? Compare embedfit deploy sagemaker plan's files with what the endpoint loads.",
        )


@sagemaker.command()
@prints("embedfit.cli.results:DeploymentsDeleted")
def destroy(
    model: MaybeModel = None,
    region: Region = None,
    profile: Profile = None,
    name: Name = None,
    run_label_option: Run = None,
    bucket: Bucket = None,
    any_owner: Annotated[bool, typer.Option("--any-owner", help="Include other people's, found by tag.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete everything that apply made, by the state file or by tags, and verify that nothing is left."""
    from embedfit.deploy.destroy import destroy as delete

    if model is None and name is None and run_label_option is None:
        raise UsageError("What is to be deleted?", remedy="Name the model or its run folder, --name or --run-label.")
    runtime = _runtime(yes, quiet=False)
    folders = [folder for folder in _state_folders(model) if model or name]
    recorded = [folder for folder in folders if _recorded_region(folder, name)]
    folder = recorded[0] if recorded else None
    run = run_label_option or (run_label(model) if model else None)
    aws = Aws.open(region or (_recorded_region(folder, name) if folder else None), profile)
    buckets = (bucket,) if bucket else ()
    gone = delete(aws, runtime, state_folder=folder, name=name, run=run, buckets=buckets, any_owner=any_owner)
    say_result(DeploymentsDeleted(deployments=gone), as_json=as_json)


@sagemaker.command()
@prints("embedfit.cli.results:DeploymentsDeleted")
def sweep(
    region: Region = None,
    profile: Profile = None,
    bucket: Bucket = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what has outlived its --ttl.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete every deployment in the region that has outlived its --ttl."""
    from embedfit.deploy.destroy import sweep as delete_expired

    buckets = (bucket,) if bucket else ()
    gone = delete_expired(Aws.open(region, profile), _runtime(yes, quiet=False), buckets=buckets, dry_run=dry_run)
    say_result(DeploymentsDeleted(deployments=gone), as_json=as_json)


# --- parsing


def _aliases() -> dict[str, str]:
    from embedfit.models.sources import EMBEDDERS  # only here: status and destroy need no models

    return {alias: model.hub_id for alias, model in EMBEDDERS.items()}


def _local_model(model: str) -> Path:
    """The local folder of the model, or of the tower, that an endpoint is compared with."""
    if model.startswith("s3://"):
        raise UsageError(
            "An endpoint is compared with a model on this disk.",
            remedy="Give the folder that was copied to S3, and the endpoint's --name.",
        )
    if Path(model).is_dir():
        return query_tower(model_folder_of(Path(model)))
    from embedfit.models.sources import resolve_model  # for an alias or a hub id

    return resolve_model(model)


def _user_folder() -> Path:
    return Path(platformdirs.user_data_dir("embedfit"))


def _aws(region: str | None, profile: str | None) -> Aws | None:
    """The AWS account, None if boto3 is not installed."""
    try:
        return Aws.open(region, profile)
    except MissingDependency:
        return None


def _state_folders(model: str | None) -> list[Path]:
    if model is not None:
        return [state_folder_of(model, _user_folder())]
    shared = _user_folder() / "deploy"
    return sorted(path for path in shared.iterdir() if path.is_dir()) if shared.is_dir() else []


def _recorded_region(folder: Path, name: str | None) -> str | None:
    return next((str(one.region) for one in _deployments(folder) if name in (None, one.name)), None)


def _only_deployment(folder: Path) -> str:
    names = [one.name for one in _deployments(folder) if not one.job]
    if len(names) != 1:
        known = ", ".join(names) or "none"
        raise UsageError(f"Which endpoint? {folder} knows: {known}.", remedy="Give --name.")
    return str(names[0])


def _deployments(folder: Path) -> tuple[Deployment, ...]:
    if not folder.is_dir():
        return ()
    return StateFile(folder, lambda: datetime.now(timezone.utc)).read().deployments


def _runtime(yes: bool, quiet: bool) -> Runtime:
    def confirm(question: str) -> bool:
        if yes:
            return True
        return sys.stdin.isatty() and typer.confirm(question, err=True)

    return Runtime(report=Silent() if quiet else reporter_for(sys.stderr), confirm=confirm)


# --- printing


def _write_policies(plan: DeployPlan, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in asdict(plan.policies).items():
        (folder / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n", "utf-8")


def _print_plan(plan: DeployPlan, *, calls: bool = True) -> None:
    console = terminal.console(unbroken=True, highlight=False)
    cost = plan.cost
    console.print(f"[bold]{shown(plan.name)}[/] in {plan.region}, account {plan.account or 'not known'}")
    console.print(f"  model     {shown(plan.model)}")
    console.print(f"  image     {shown(plan.image)}")
    console.print(f"  instance  {plan.instance_type}")
    console.print(f"  cost      {_cost_words(plan)}  [dim]{shown(cost.basis)}[/]")
    console.print(f"  expires   {plan.expires or 'never'}")
    if calls:
        console.print("\nCalls, in this order:")
        for step in plan.steps:
            for call in step.calls:
                parameters = json.dumps({key: value for key, value in call.parameters.items() if key != "Tags"})
                listed = parameters if len(parameters) <= 300 else parameters[:297] + "…"
                console.print(f"  {call.service}.{call.operation} [dim]{shown(listed)}[/]")
        console.print("  [dim]Tags of each, whole parameters and the IAM policies: --json[/]")
    print_findings(plan, console)


def _cost_words(plan: DeployPlan) -> str:
    cost = plan.cost
    if cost.low_usd_per_hour is None or cost.low_usd_per_month is None:
        return "not known"
    words = f"${cost.low_usd_per_hour:.2f}/h, ${cost.low_usd_per_month:,.0f}/month"
    if cost.high_usd_per_hour != cost.low_usd_per_hour:
        words += f"; with all instances ${cost.high_usd_per_hour:.2f}/h, ${cost.high_usd_per_month:,.0f}/month"
    return words


def result_table(result: dict[str, object]) -> Table:
    """The table of the results of `deploy sagemaker test`."""
    table = Table("", "", box=None, pad_edge=False, show_header=False)
    for key, value in result.items():
        listed = f"{value:.4f}" if isinstance(value, float) else str(value)
        table.add_row(key.replace("_", " "), shown(listed))
    return table
