"""The commands `deploy sagemaker …`: parse, call, print."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import platformdirs
import typer
from rich.table import Table

from embedfit.deploy.account.images import device_of
from embedfit.deploy.account.prices import load_prices
from embedfit.deploy.artefact import model_folder_of, resolve_artefact, run_label, state_folder_of
from embedfit.deploy.options import Autoscaling, Options, default_target, parse_ttl, refuse_serverless
from embedfit.deploy.plan import Plan, make_plan
from embedfit.display import terminal
from embedfit.display.terminal import say, say_json, shown
from embedfit.errors import DeployError, MissingDependency, UsageError
from embedfit.progress import Silent, reporter_for
from embedfit.runtime import Runtime

app = typer.Typer(help="The model behind a managed endpoint, and away again.", no_args_is_help=True)
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
    typer.Option("--run-label", help="What groups deployments; default: the run folder's name.", show_default=False),
]
Bucket = Annotated[
    str | None, typer.Option(help="Bucket for the model; default: sagemaker-REGION-ACCOUNT.", show_default=False)
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON; progress stays on stderr.")]


def _cost(text: str, *flags: str) -> Any:  # noqa: ANN401 - what typer.Option returns
    return typer.Option(*flags, help=text, show_default=False, rich_help_panel="Size and cost")


def _security(text: str, *flags: str) -> Any:  # noqa: ANN401
    return typer.Option(*flags, help=text, show_default=False, rich_help_panel="Security")


def _with_options(run: Callable[[Plan, _Common], None], *, without: tuple[str, ...] = ()) -> Callable[..., None]:
    """The command function of plan or apply: both take the same options, less those named."""

    def command(
        model: Model,
        region: Region = None,
        profile: Profile = None,
        name: Name = None,
        run_label: Run = None,
        bucket: Bucket = None,
        tag: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A further tag.")] = None,
        image_uri: Annotated[str | None, typer.Option(help="Another container image.", show_default=False)] = None,
        max_client_batch: Annotated[
            int | None, typer.Option(min=1, help="Texts in a request. [32 on CPU, 256 on GPU]", show_default=False)
        ] = None,
        max_batch_tokens: Annotated[
            int | None, typer.Option(min=1, help="Tokens in a batch. [TEI's 16384]", show_default=False)
        ] = None,
        instance_type: Annotated[str, typer.Option(rich_help_panel="Size and cost")] = "ml.c6i.2xlarge",
        instance_count: Annotated[int, typer.Option(rich_help_panel="Size and cost")] = 1,
        max_instances: Annotated[int | None, _cost("Scale up to so many. [no autoscaling]")] = None,
        min_instances: Annotated[int | None, _cost("Scale down to so many. [--instance-count]")] = None,
        target_invocations: Annotated[
            float | None, _cost("Requests a minute and instance to aim at. [200 on CPU, 5000 on GPU]")
        ] = None,
        serverless: Annotated[bool, typer.Option("--serverless", hidden=True)] = False,
        ttl: Annotated[str | None, _cost("`sweep` may delete it after 90m, 8h, 3d. [never]")] = None,
        prices: Annotated[Path | None, _cost("Your own price table (JSON).")] = None,
        role: Annotated[str | None, _security("ARN of the execution role.")] = None,
        create_role: Annotated[
            bool,
            typer.Option(
                "--create-role", rich_help_panel="Security", help="Make a role with exactly the rights it needs."
            ),
        ] = False,
        subnet: Annotated[list[str] | None, _security("Subnet of your VPC; may be given several times.")] = None,
        security_group: Annotated[list[str] | None, _security("May be given several times.")] = None,
        kms_key: Annotated[str | None, _security("KMS key for the model in S3 and the instances' storage.")] = None,
        network_isolation: Annotated[
            bool, typer.Option("--network-isolation", rich_help_panel="Security", help="No network for the container.")
        ] = False,
        inference_ami: Annotated[str | None, _security("Version of the host's AMI (driver of the GPU).")] = None,
        policies_to: Annotated[
            Path | None,
            typer.Option(
                "--write-policies",
                metavar="FOLDER",
                help="Write trust.json, execution.json and deployer.json there.",
                show_default=False,
            ),
        ] = None,
        yes: Yes = False,
        as_json: AsJson = False,
    ) -> None:
        if serverless:
            refuse_serverless()
        aws = _aws(region, profile, optional=True)
        found_region = aws.region if aws else region
        if not found_region:
            raise UsageError("No AWS region is known.", remedy="Give --region, for example --region us-east-1")
        options = Options(
            model=model,
            region=found_region,
            name=name,
            run=run_label,
            ttl_seconds=parse_ttl(ttl) if ttl else None,
            instance_type=instance_type,
            instance_count=instance_count,
            autoscaling=_autoscaling(instance_type, instance_count, min_instances, max_instances, target_invocations),
            image_uri=image_uri,
            inference_ami=inference_ami,
            subnets=tuple(subnet or ()),
            security_groups=tuple(security_group or ()),
            kms_key=kms_key,
            network_isolation=network_isolation,
            role_arn=role,
            create_role=create_role,
            bucket=bucket,
            tags=_tags(tag or []),
            max_client_batch=max_client_batch,
            max_batch_tokens=max_batch_tokens,
        )
        artefact = resolve_artefact(
            model, aliases=_aliases(), user_folder=_user_folder(), device=device_of(instance_type)
        )
        plan = make_plan(options, artefact, aws=aws, prices=load_prices(prices), now=datetime.now(timezone.utc))
        run(plan, _Common(aws=aws, yes=yes, as_json=as_json, policies_to=policies_to))

    signature = inspect.signature(command, eval_str=True)
    kept = [parameter for key, parameter in signature.parameters.items() if key not in without]
    command.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return command


class _Common:
    """What plan and apply do with a plan depends on."""

    def __init__(self, *, aws: Any, yes: bool, as_json: bool, policies_to: Path | None) -> None:  # noqa: ANN401
        self.aws, self.yes, self.as_json, self.policies_to = aws, yes, as_json, policies_to


def _plan(plan: Plan, common: _Common) -> None:
    if common.policies_to is not None:
        _write_policies(plan, common.policies_to)
    if common.as_json:
        say_json(plan.as_json())
    else:
        _print_plan(plan)


def _apply(plan: Plan, common: _Common) -> None:
    from embedfit.deploy.apply import apply  # with what it needs

    if common.aws is None:
        raise MissingDependency("boto3", extra="aws", needed_for="Deploying")
    if not common.as_json:
        _print_plan(plan, calls=False)
    deployment = apply(plan, common.aws, _runtime(common.yes, common.as_json))
    if common.as_json:
        say_json(asdict(deployment))
    else:
        where = f"--region {plan.region}"
        say(f"\n{deployment.name} is in service. Next:")
        say(f"  embedfit deploy sagemaker test {plan.model} --name {deployment.name} {where}")
        say(f"  embedfit deploy sagemaker destroy {plan.model} --name {deployment.name} {where}")


sagemaker.command("plan", help="What apply would do, cost and need. Changes nothing, and needs no credentials.")(
    _with_options(_plan, without=("yes",))
)
sagemaker.command("apply", help="Make the endpoint. Asks first; undoes everything on failure or Ctrl-C.")(
    _with_options(_apply, without=("policies_to",))
)


@sagemaker.command()
def status(
    model: MaybeModel = None,
    region: Region = None,
    profile: Profile = None,
    name: Name = None,
    as_json: AsJson = False,
) -> None:
    """What is up, what it has cost, and until when."""
    from embedfit.deploy.status import status as look

    found = [
        one
        for folder in _state_folders(model)
        if _recorded_region(folder, name)
        for one in look(_need_aws(region or _recorded_region(folder, name), profile), folder, name=name)
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
    aws = _need_aws(region or (known.region if known else None), profile)
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
            f"The endpoint's vectors differ from the local model's: lowest cosine {result.lowest_cosine:.6f}.",
            remedy="Is it the same model? Compare embedfit deploy sagemaker plan's files with what the endpoint loads.",
        )


@sagemaker.command()
def destroy(
    model: MaybeModel = None,
    region: Region = None,
    profile: Profile = None,
    name: Name = None,
    run_label_option: Run = None,
    bucket: Bucket = None,
    any_owner: Annotated[bool, typer.Option("--any-owner", help="By tag also what other people deployed.")] = False,
    yes: Yes = False,
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
    aws = _need_aws(region or (_recorded_region(folder, name) if folder else None), profile)
    buckets = (bucket,) if bucket else ()
    delete(aws, runtime, state_folder=folder, name=name, run=run, buckets=buckets, any_owner=any_owner)


@sagemaker.command()
def sweep(
    region: Region = None,
    profile: Profile = None,
    bucket: Bucket = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what has outlived its --ttl.")] = False,
    yes: Yes = False,
) -> None:
    """Delete every deployment in the region that has outlived its --ttl."""
    from embedfit.deploy.destroy import sweep as delete_expired

    buckets = (bucket,) if bucket else ()
    delete_expired(_need_aws(region, profile), _runtime(yes, quiet=False), buckets=buckets, dry_run=dry_run)


# --- parsing


def _autoscaling(
    instance_type: str, count: int, minimum: int | None, maximum: int | None, target: float | None
) -> Autoscaling | None:
    if maximum is None:
        if minimum is not None or target is not None:
            raise UsageError("Autoscaling needs a limit.", remedy="Give --max-instances too.")
        return None
    return Autoscaling(
        minimum=count if minimum is None else minimum,
        maximum=maximum,
        target=default_target(instance_type) if target is None else target,
    )


def _tags(assignments: list[str]) -> dict[str, str]:
    tags = {}
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator or not key:
            raise UsageError(f"--tag {assignment!r} is not KEY=VALUE.", remedy="For example: --tag team=search")
        tags[key] = value
    return tags


def _aliases() -> dict[str, str]:
    from embedfit.models.sources import EMBEDDERS  # only here: status and destroy need no models

    return {alias: model.hub_id for alias, model in EMBEDDERS.items()}


def _local_model(model: str) -> Path:
    """The folder to compare an endpoint with."""
    if model.startswith("s3://"):
        raise UsageError(
            "An endpoint is compared with a model on this disk.",
            remedy="Give the folder that was copied to S3, and the endpoint's --name.",
        )
    if Path(model).is_dir():
        return model_folder_of(Path(model))
    from embedfit.models.sources import resolve_model  # for an alias or a hub id

    return resolve_model(model)


def _user_folder() -> Path:
    return Path(platformdirs.user_data_dir("embedfit"))


def _aws(region: str | None, profile: str | None, *, optional: bool) -> Any:  # noqa: ANN401 - Aws, or None
    from embedfit.deploy.account.calls import Aws

    try:
        return Aws.open(region, profile)
    except MissingDependency:
        if optional:
            return None
        raise


def _need_aws(region: str | None, profile: str | None) -> Any:  # noqa: ANN401 - Aws
    return _aws(region, profile, optional=False)


def _state_folders(model: str | None) -> list[Path]:
    if model is not None:
        return [state_folder_of(model, _user_folder())]
    shared = _user_folder() / "deploy"
    return sorted(path for path in shared.iterdir() if path.is_dir()) if shared.is_dir() else []


def _recorded_region(folder: Path, name: str | None) -> str | None:
    return next((str(one.region) for one in _deployments(folder) if name in (None, one.name)), None)


def _only_deployment(folder: Path) -> str:
    names = [one.name for one in _deployments(folder)]
    if len(names) != 1:
        known = ", ".join(names) or "none"
        raise UsageError(f"Which endpoint? {folder} knows: {known}.", remedy="Give --name.")
    return str(names[0])


def _deployments(folder: Path) -> tuple[Any, ...]:
    from embedfit.deploy.state import StateFile

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


def _write_policies(plan: Plan, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in asdict(plan.policies).items():
        (folder / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n", "utf-8")


def _print_plan(plan: Plan, *, calls: bool = True) -> None:
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
    table = Table("", "check", "found", "fix", box=None, pad_edge=False)
    marks = {"ok": "[green]ok[/]", "missing": "[red]no[/]", "unknown": "[yellow]?[/]"}
    for finding in plan.findings:
        table.add_row(marks[finding.status], finding.check, shown(finding.detail), shown(finding.fix))
    console.print()
    console.print(table)
    for note in plan.notes:
        console.print(f"[dim]Note: {shown(note)}[/]")


def _cost_words(plan: Plan) -> str:
    cost = plan.cost
    if cost.low_usd_per_hour is None or cost.low_usd_per_month is None:
        return "not known"
    words = f"${cost.low_usd_per_hour:.2f}/h, ${cost.low_usd_per_month:,.0f}/month"
    if cost.high_usd_per_hour != cost.low_usd_per_hour:
        words += f"; with all instances ${cost.high_usd_per_hour:.2f}/h, ${cost.high_usd_per_month:,.0f}/month"
    return words


def result_table(result: dict[str, Any]) -> Table:
    """The result of `test` as a table."""
    table = Table("", "", box=None, pad_edge=False, show_header=False)
    for key, value in result.items():
        listed = f"{value:.4f}" if isinstance(value, float) else str(value)
        table.add_row(key.replace("_", " "), shown(listed))
    return table
