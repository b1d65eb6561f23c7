"""The command `run … --on sagemaker:INSTANCE`: plan it, run it, or go on with it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlsplit

from embedfit import plugins
from embedfit.commands.cloud.inputs import job_inputs, keep_replies
from embedfit.commands.runs import RunResult
from embedfit.config import RECORDED, Config, GenerateConfig, save, with_generator
from embedfit.deploy.account.calls import Aws, Clock
from embedfit.deploy.account.prices import load_prices
from embedfit.deploy.checks import AccountFinding
from embedfit.deploy.destroy import destroy_recorded
from embedfit.deploy.jobs.job import Ended, recorded_job, run_job
from embedfit.deploy.jobs.options import JobOptions, instance_of
from embedfit.deploy.jobs.plan import JobInputs, JobPlan, deployment_name, plan_job
from embedfit.deploy.state import StateFile
from embedfit.embedders import registry
from embedfit.errors import DeployError, MissingDependency, UsageError
from embedfit.generators import GROUP, generator
from embedfit.llm.providers.bedrock import DEFAULT_FAMILY
from embedfit.network.addresses import is_private_host
from embedfit.path.freshness import all_freshness
from embedfit.path.systems import parse
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime

#: Generators whose calls the job's role must be allowed.
_ON_BEDROCK = ("bedrock",)
_TITAN = "amazon.titan-embed-text-v2:0"
#: The region of a plan that names none.
_SHOWN_REGION = "us-east-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a job is to run. options: of JobOptions, as the command line gives them. aws: a stand-in, in tests."""

    target: str
    region: str | None = None
    profile: str | None = None
    prices: Path | None = None
    options: Mapping[str, object] | None = None
    aws: Aws | None = None

    def open(self) -> tuple[Aws | None, str, tuple[AccountFinding, ...]]:
        """The account (None without boto3), the region, and what is missing for them."""
        try:
            account = self.aws or Aws.open(self.region, self.profile)
            return account, account.region, ()
        except MissingDependency:
            account = None
        except UsageError:
            if self.region is not None:
                raise
            account = Aws.open(_SHOWN_REGION, self.profile)
        missing = AccountFinding(
            check="region",
            status="missing",
            detail=f"no AWS region is known; the plan is for {_SHOWN_REGION}",
            fix="Give --region, for example --region us-east-1",
        )
        return account, self.region or _SHOWN_REGION, () if self.region else (missing,)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudRun:
    """A run that another computer does. config: its resolved settings. force: it begins anew."""

    workspace: Workspace
    config: Config
    place: Place
    runtime: Runtime
    workers: str = "inline"
    force: bool = False

    def plan(self) -> JobPlan:
        """The plan. Changes nothing, and needs no credentials."""
        return self._plan()[0]

    def run(self, clock: Clock | None = None) -> RunResult:
        """Run the job, or go on with the one that this command began, and fetch its results. Raises EmbedfitError."""
        clock = clock or Clock()
        plan, aws = self._plan()
        if aws is None:
            raise MissingDependency("boto3", extra="aws", needed_for="A job on SageMaker")
        with self.workspace.lock():
            state = StateFile(plan.state_folder, clock.now)
            recorded = recorded_job(state, plan.name)
            if not (recorded and recorded.job) and not self.force and self._is_fresh():
                self.runtime.report.log("Everything is up to date; no job is needed.")
                if recorded is not None and not plan.keep:
                    with state.lock():
                        destroy_recorded(aws, state, recorded, clock=clock, report=self.runtime.report)
                return RunResult(self.workspace)
            save(self.config, self.workspace.path("embedfit.toml"))
            ended = run_job(plan, aws, self.runtime, take=lambda path: self._take(path, plan), clock=clock)
        self._tell(ended, plan)
        return RunResult(self.workspace)

    def _plan(self) -> tuple[JobPlan, Aws | None]:
        aws, region, missing = self.place.open()
        given = {"instance_type": instance_of(self.place.target), "region": region, **(self.place.options or {})}
        options = JobOptions.model_validate(given)
        arguments = ("--nproc", str(self.runtime.processes)) if self.runtime.processes > 1 else ()
        inputs = job_inputs(
            self.workspace,
            self.config,
            ledger=self.runtime.ledger,
            arguments=(*arguments, *(("--workers", self.workers) if self.workers != "inline" else ())),
            secrets=options.secrets,
            force=self.force,
        )
        found = (*missing, *_money(self.config), *_out_of_reach(self.config, options))
        inputs = replace(inputs, models=_models(self.config), findings=found)
        plan = plan_job(
            options,
            inputs,
            aws=aws,
            prices=load_prices(self.place.prices),
            now=datetime.now(timezone.utc),
            attempt=self._attempt(options, inputs),
        )
        return plan, aws

    def _attempt(self, options: JobOptions, inputs: JobInputs) -> str:
        """The attempt of the job that this command began, or a new one."""
        name, new = deployment_name(options, inputs), uuid.uuid4().hex[:6]
        if not inputs.state_folder.is_dir():
            return new
        known = StateFile(inputs.state_folder, lambda: datetime.now(timezone.utc)).read().named(name)
        return known.job.rpartition("-")[2] if known is not None and known.job else new

    def _is_fresh(self) -> bool:
        if not self.workspace.path("embedfit.toml").exists():
            return False
        return all(one.state == "fresh" for one in all_freshness(self.workspace, self.config).values())

    def _take(self, ledger: Path, plan: JobPlan) -> None:
        new = keep_replies(ledger, self.runtime.ledger, self.workspace, plan.place)
        if new:
            self.runtime.report.log(f"{new:,} replies of language models are in {self.runtime.ledger} now")

    def _tell(self, ended: Ended, plan: JobPlan) -> None:
        billed = "" if ended.billed is None else f", {ended.billed:,} s billed"
        price = "" if ended.usd is None else f": about ${ended.usd:.2f} ({plan.cost.basis})"
        self.runtime.report.log(f"{ended.job}: {ended.status}{billed}{price}")
        if ended.status == "Completed" and not ended.brought.code:
            return
        raise DeployError(
            f"The job {ended.job} ended as {ended.status}: {ended.reason or 'SageMaker gives no reason'}",
            remedy=f"What it finished is in {plan.model}, its log in {plan.state_folder / ended.job}.log. The same "
            "command goes on from there.",
        )


# --- what the settings mean for a job


def _models(config: Config) -> tuple[str, ...]:
    """The models of Bedrock that the run may ask: ids without a region's prefix."""
    found: list[str] = []
    for one in _writers(config):
        if one.generator in _ON_BEDROCK:
            named = one.llm or ""
            found += [named if named.count(".") < 2 else named.partition(".")[2]] if named else DEFAULT_FAMILY
    if any(name.startswith("titan") for name in _embedders(config)):
        found.append(_TITAN)
    return tuple(dict.fromkeys(found))


def _writers(config: Config) -> list[GenerateConfig]:
    """The language models that the run asks: the writer of queries, and the judge."""
    judge = config.choose.judge
    named = [with_generator(config.generate, judge)] if judge and not judge.startswith(RECORDED) else []
    return [config.generate, *named]


def _embedders(config: Config) -> list[str]:
    return [system.embedder for system in map(parse, config.evaluate.systems) if system.kind != "bm25"]


def _money(config: Config) -> tuple[AccountFinding, ...]:
    """A job can't ask before it pays, so a limit must be named."""
    billing = [one.generator for one in _writers(config) if generator(one.generator).bills(one)]
    billing += [name for name in _embedders(config) if registry.bills(name)]
    if not billing or config.generate.max_cost is not None:
        return ()
    return (
        AccountFinding(
            check="money",
            status="missing",
            detail=f"{' and '.join(dict.fromkeys(billing))} may cost money, and a job can't ask before it pays",
            fix="Give --max-cost USD",
        ),
    )


def _out_of_reach(config: Config, options: JobOptions) -> tuple[AccountFinding, ...]:
    """What the run asks and a job can't have."""
    found: list[tuple[str, str]] = []
    for one in _writers(config):
        name = one.generator
        if not plugins.places(GROUP)[name].startswith("embedfit.") and not options.image_uri:
            found.append(
                (f"{name} is of another package, which the job does not have", "--image-uri of an image with it")
            )
        if name == "bedrock-batch":
            found.append(("bedrock-batch hands its work to jobs of its own", "Give --generator bedrock"))
        if name == "openai":
            found += _openai(one, options)
    found += [
        (f"evaluate.systems names the folder {name}, which is not uploaded", "Leave it out, and evaluate it here")
        for name in _embedders(config)
        if Path(name).exists()
    ]
    return tuple(AccountFinding(check="reach", status="missing", detail=what, fix=fix) for what, fix in found)


def _openai(settings: GenerateConfig, options: JobOptions) -> Sequence[tuple[str, str]]:
    host = urlsplit(settings.base_url or "https://api.openai.com").hostname or ""
    if is_private_host(host) and not options.subnets:
        return [
            (f"the server {host} is in your network", "Give --subnet and --security-group of a VPC that reaches it")
        ]
    if "OPENAI_API_KEY" not in options.secrets and not is_private_host(host):
        fix = "aws secretsmanager create-secret, then give --secret OPENAI_API_KEY=ARN; or use --generator bedrock"
        return [("the job gets no API key of yours", fix)]
    return []
