"""A job's whole life: upload, start, follow, fetch the results, leave nothing behind.

The state file says at every instant what stands: `deploy/state.json` in the run folder, which the commands
`embedfit deploy sagemaker status` and `destroy` read too. A deployment there whose `job` is named has results that are
not here yet, so the same command goes on with that job instead of starting another.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from embedfit.deploy.account.calls import Aws, Clock
from embedfit.deploy.account.found import ResourceFound
from embedfit.deploy.account.training import describe_job, stop_job
from embedfit.deploy.account.waiting import wait_ended
from embedfit.deploy.apply import agree, make
from embedfit.deploy.destroy import destroy_recorded
from embedfit.deploy.jobs.bring import Brought, Results
from embedfit.deploy.jobs.follow import follow
from embedfit.deploy.jobs.plan import JobPlan
from embedfit.deploy.state import Deployment, StateFile
from embedfit.errors import DeployError
from embedfit.runtime import Runtime

#: Fetched results on their way into the run folder, and files on their way to S3, beside the state.
_STAGING = "brought"
_UPLOAD = "upload"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a job ended. reason: SageMaker's, of a failure. billed: seconds, None if SageMaker does not say."""

    job: str
    status: str
    reason: str
    billed: int | None
    usd: float | None
    brought: Brought


def recorded_job(state: StateFile, name: str) -> Deployment | None:
    """The record of that name. Raises DeployError if another command's job has results that are not here yet."""
    for one in state.read().deployments:
        if one.job and one.name != name:
            raise DeployError(
                f"The job {one.job} of this run folder has other documents, settings or another instance, and its "
                "results are not here yet.",
                remedy="Give the command of that job again, or delete it: embedfit deploy sagemaker destroy "
                f"{state.folder.parent} --name {one.name} --region {one.region}",
            )
    return state.read().named(name)


def question(plan: JobPlan) -> str:
    """The question to the user before anything is made or uploaded."""
    cost = plan.cost
    price = "at a price that is not known"
    if cost.usd_per_hour is not None:
        price = f"at about ${cost.usd_per_hour:.2f} an hour and at most ${cost.most_usd:.2f} ({cost.basis})"
    return (
        f"Upload {plan.upload_bytes / 1e6:,.1f} MB to s3://{plan.bucket} and run on {plan.instance_type} in "
        f"{plan.region} for at most {plan.run_seconds / 3600:g} hours, {price}?"
    )


def run_job(
    plan: JobPlan,
    aws: Aws,
    runtime: Runtime,
    *,
    take: Callable[[Path], object],
    clock: Clock | None = None,
) -> Ended:
    """Run a plan's job to its end, or go on with it. The caller holds the run folder's lock.

    take: keeps the replies of a ledger's file. Asks runtime.confirm before a new job. Ctrl-C stops the job, and what it
    has made so far is fetched. Raises DeployError; the same command then goes on.
    """
    clock = clock or Clock()
    state = StateFile(plan.state_folder, clock.now)
    with state.lock():
        recorded = recorded_job(state, plan.name)
        if recorded is not None and not recorded.job:
            destroy_recorded(aws, state, recorded, clock=clock, report=runtime.report)  # left by a killed clean-up
            recorded = None
        if recorded is None or describe_job(aws, plan.job) is None:
            agree(plan, question(plan), runtime)
            _write_uploads(plan)
            make(plan, aws, state, clock=clock, report=runtime.report)
            shutil.rmtree(plan.state_folder / _UPLOAD, ignore_errors=True)
            runtime.report.log(f"If this process ends, the job {plan.job} goes on; the same command finds it again.")
        ended = _until_its_end(plan, aws, runtime, clock)
        brought = _fetch(plan, aws, runtime, take)
        _clean_up(plan, aws, state, runtime, clock)
    if isinstance(ended, KeyboardInterrupt):
        raise ended
    billed = ended.settings.get("billed")
    price = plan.usd_per_instance_hour
    return Ended(
        job=plan.job,
        status=ended.status,
        reason=ended.reason,
        billed=billed,
        usd=None if billed is None or price is None else round(billed / 3600 * price, 2),
        brought=brought,
    )


def _until_its_end(plan: JobPlan, aws: Aws, runtime: Runtime, clock: Clock) -> ResourceFound | KeyboardInterrupt:
    """Follow the job. Ctrl-C stops it."""
    log = plan.state_folder / f"{plan.job}.log"
    try:
        return follow(
            aws, plan.job, log=log, seconds=max(plan.run_seconds, plan.wait_seconds), clock=clock, report=runtime.report
        )
    except KeyboardInterrupt as error:
        runtime.report.log(f"Stopping the job {plan.job}, to fetch what it has made so far …")
        stop_job(aws, plan.job)
        wait_ended(aws, plan.job, clock=clock, report=runtime.report)
        return error
    except DeployError as error:
        where = f"{plan.model} --name {plan.name} --region {plan.region}"
        again = f"The job goes on. Give the same command again, or delete it: embedfit deploy sagemaker destroy {where}"
        error.remedy = f"{error.remedy} {again}" if error.remedy else again
        raise


def _fetch(plan: JobPlan, aws: Aws, runtime: Runtime, take: Callable[[Path], object]) -> Brought:
    results = Results(aws=aws, bucket=str(plan.bucket), prefix=plan.checkpoints, place=plan.place)
    staging = plan.state_folder / _STAGING
    brought = results.bring(Path(plan.model), staging, runtime.report)
    if brought.ledger is not None:
        take(brought.ledger)
    shutil.rmtree(staging, ignore_errors=True)
    return brought


def _clean_up(plan: JobPlan, aws: Aws, state: StateFile, runtime: Runtime, clock: Clock) -> None:
    """Note that the results are here, then delete everything that the job had in AWS."""
    recorded = state.read().named(plan.name)
    if recorded is None:
        return
    recorded = replace(recorded, job="")
    state.put(recorded)
    if plan.keep:
        runtime.report.log(
            f"Left in AWS, as --keep asks: {', '.join(one.name for one in recorded.resources)}. To delete it: "
            f"embedfit deploy sagemaker destroy {plan.model} --name {plan.name} --region {plan.region}"
        )
        return
    destroy_recorded(aws, state, recorded, clock=clock, report=runtime.report)


def _write_uploads(plan: JobPlan) -> None:
    """Make the files that exist for the job alone."""
    for key, content in plan.written.items():
        path = plan.state_folder / _UPLOAD / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
