"""Delete the resources of a deployment, and prove that none is left."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from embedfit.deploy import checks
from embedfit.deploy.account import sagemaker
from embedfit.deploy.account.calls import Aws, Clock, aws_errors, explain
from embedfit.deploy.account.sagemaker import BUSY, Discovered
from embedfit.deploy.account.waiting import wait_ended, wait_gone, wait_not_busy
from embedfit.deploy.checks import CallerIdentity
from embedfit.deploy.plan import DEFAULT_PREFIX, default_bucket
from embedfit.deploy.state import KINDS, Deployment, Resource, StateFile
from embedfit.errors import DeployError, EmbedfitError
from embedfit.network.aws import aws_exceptions, error_code, is_expired
from embedfit.progress import Reporter
from embedfit.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Doomed:
    """A deployment that is to be deleted, in one region."""

    name: str
    region: str
    owner: str
    resources: tuple[Resource, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A resource that could not be deleted, with the reason and the command to delete it by hand."""

    resource: Resource
    reason: str
    command: str


def destroy(
    aws: Aws,
    runtime: Runtime,
    *,
    state_folder: Path | None = None,
    name: str | None = None,
    run: str | None = None,
    buckets: tuple[str, ...] = (),
    any_owner: bool = False,
    clock: Clock | None = None,
) -> tuple[str, ...]:
    """Delete the deployments of a state file or, if that has none, those with the run's or deployment's tag.

    Returns the names of the deleted deployments. Asks runtime.confirm first. any_owner: a search by tag also takes
    other people's deployments. Raises DeployError if anything is left, naming each resource and the command for it.
    """
    clock = clock or Clock()
    who = _who(aws)
    state = StateFile(state_folder, clock.now) if state_folder is not None and state_folder.is_dir() else None
    buckets = (*buckets, default_bucket(aws.region, who.account))
    doomed = _from_state(aws, state, who, name=name, buckets=buckets, report=runtime.report) if state else ()
    if not doomed:
        doomed = _from_tags(aws, who, name=name, run=run, buckets=buckets, any_owner=any_owner, report=runtime.report)
    if not doomed:
        runtime.report.log("There is nothing to delete.")
        return ()
    if not runtime.confirm(_question(doomed)):
        raise DeployError("Nothing was deleted: you did not agree.", remedy="Answer y, or give --yes.")
    return _delete_all(aws, state, doomed, buckets, clock, runtime.report)


def destroy_recorded(aws: Aws, state: StateFile, recorded: Deployment, *, clock: Clock, report: Reporter) -> None:
    """Delete everything of one recorded deployment, and verify it. The caller holds the state's lock.

    Raises DeployError as destroy() does.
    """
    buckets = tuple(
        one.name.removeprefix("s3://").partition("/")[0] for one in recorded.resources if one.kind == "artefact"
    )
    doomed = Doomed(name=recorded.name, region=recorded.region, owner=recorded.owner, resources=recorded.resources)
    _raise_if_left(_delete_one(aws.at(recorded.region), state, doomed, buckets, clock, report))
    report.log("Verified: nothing is left.")


def sweep(
    aws: Aws,
    runtime: Runtime,
    *,
    buckets: tuple[str, ...] = (),
    dry_run: bool = False,
    clock: Clock | None = None,
) -> tuple[str, ...]:
    """Delete every deployment in the region whose time to live is over. Returns their names."""
    clock = clock or Clock()
    who = _who(aws)
    buckets = (*buckets, default_bucket(aws.region, who.account))
    with aws_errors("looking for deployments"):
        found = sagemaker.discover(aws, buckets=buckets, warn=runtime.report.log)
    doomed = tuple(_doomed(one, aws.region) for one in found if is_over(one.tags.get("embedfit:ttl", ""), clock.now()))
    if not doomed:
        runtime.report.log(f"No deployment in {aws.region} has outlived its --ttl ({len(found)} looked at).")
        return ()
    if dry_run:
        for one in doomed:
            runtime.report.log(f"{one.name} has outlived its --ttl.")
        return tuple(one.name for one in doomed)
    if not runtime.confirm(_question(doomed)):
        raise DeployError("Nothing was deleted: you did not agree.", remedy="Answer y, or give --yes.")
    return _delete_all(aws, None, doomed, buckets, clock, runtime.report)


def is_over(ttl: str, now: datetime) -> bool:
    """Whether the instant of an embedfit:ttl tag has passed. "none", an empty and an unreadable tag never do."""
    try:
        expires = datetime.fromisoformat(ttl)
    except ValueError:
        return False
    return expires.tzinfo is not None and expires <= now


def teardown_order(resources: Iterable[Resource]) -> list[Resource]:
    """The resources in the reverse of the order in which they were made; a log follows the endpoint that writes it."""
    return sorted(resources, key=lambda one: KINDS.index(one.kind), reverse=True)


def remove(
    aws: Aws, state: StateFile | None, deployment: str, resource: Resource, *, clock: Clock, report: Reporter
) -> None:
    """Delete one resource and wait until it is gone. One that is gone already is no error. Raises DeployError."""
    known = state is not None and state.read().named(deployment) is not None
    if state is not None and known:
        # A full disk, which the record meets, must not keep an endpoint alive.
        with suppress(EmbedfitError, OSError):
            state.mark(deployment, replace(resource, status="deleting"))
    words = f"the {resource.kind.replace('_', ' ')} {resource.name}"
    with aws_errors(f"deleting {words}"):
        if resource.kind == "endpoint":
            _remove_endpoint(aws, resource.name, clock=clock, report=report)
        else:
            sagemaker.delete(aws, resource.kind, resource.name)
            if resource.kind == "training_job":
                wait_ended(aws, resource.name, clock=clock, report=report)
    if state is not None and known:
        state.unmark(deployment, resource)
    report.log(f"{words}: {'ended' if resource.kind == 'training_job' else 'deleted'}")


def _remove_endpoint(aws: Aws, name: str, *, clock: Clock, report: Reporter) -> None:
    try:
        sagemaker.delete(aws, "endpoint", name)
    except aws_exceptions():
        found = sagemaker.describe_endpoint(aws, name)
        if found is None:
            return
        if found.status in BUSY:  # SageMaker deletes no endpoint that it is at work on
            wait_not_busy(aws, name, clock=clock, report=report)
            sagemaker.delete(aws, "endpoint", name)
        elif found.status != "Deleting":
            raise
    wait_gone(aws, name, clock=clock, report=report)


def _who(aws: Aws) -> CallerIdentity:
    who, finding = checks.identity(aws)
    if who is None:
        raise DeployError(
            "There are no AWS credentials, so nothing can be looked for or deleted.", remedy=f"Run: {finding.fix}"
        )
    return who


# --- what is to be deleted


def _from_state(
    aws: Aws, state: StateFile, who: CallerIdentity, *, name: str | None, buckets: tuple[str, ...], report: Reporter
) -> tuple[Doomed, ...]:
    doomed = []
    for deployment in state.read().deployments:
        if name not in (None, deployment.name):
            continue
        if deployment.account and deployment.account != who.account:
            raise DeployError(
                f"{deployment.name} is in the account {deployment.account}; the credentials are of {who.account}.",
                remedy="Log in to that account (AWS_PROFILE) and repeat the command.",
            )
        doomed.append(_with_tagged(aws.at(deployment.region), deployment, buckets, report))
    return tuple(doomed)


def _with_tagged(aws: Aws, deployment: Deployment, buckets: tuple[str, ...], report: Reporter) -> Doomed:
    """A recorded deployment, with the further resources that carry its tags."""
    with aws_errors(f"looking for what belongs to {deployment.name}"):
        found = sagemaker.discover(aws, buckets=buckets, name=deployment.name, warn=report.log)
    known = {(one.kind, one.name): one for one in deployment.resources}
    for one in found:
        for resource in one.resources:
            known.setdefault((resource.kind, resource.name), resource)
    return Doomed(
        name=deployment.name, region=deployment.region, owner=deployment.owner, resources=tuple(known.values())
    )


def _from_tags(
    aws: Aws,
    who: CallerIdentity,
    *,
    name: str | None,
    run: str | None,
    buckets: tuple[str, ...],
    any_owner: bool,
    report: Reporter,
) -> tuple[Doomed, ...]:
    if name is None and run is None:
        return ()
    unseen: list[str] = []
    with aws_errors("looking for deployments"):
        found = sagemaker.discover(aws, buckets=buckets, name=name, warn=unseen.append)
    for line in unseen:
        report.log(line)
    if unseen and not found:
        raise DeployError(
            "Nothing was found, but not everything could be looked at.",
            remedy="The rights that are needed: embedfit deploy sagemaker plan MODEL --json (policies.deployer).",
        )
    doomed = []
    for one in found:
        if name is None and not _is_of_run(one, run or ""):
            continue
        owner = one.tags.get("embedfit:owner", "")
        if owner and not any_owner and owner != who.arn[:256]:
            report.log(f"{one.name} was deployed by {owner}; it is left alone without --any-owner.")
            continue
        doomed.append(_doomed(one, aws.region))
    return tuple(doomed)


def _is_of_run(found: Discovered, run: str) -> bool:
    tagged = found.tags.get("embedfit:run")
    return tagged == run if tagged else found.name.startswith(f"{DEFAULT_PREFIX}{run}-")


def _doomed(found: Discovered, region: str) -> Doomed:
    return Doomed(name=found.name, region=region, owner=found.tags.get("embedfit:owner", ""), resources=found.resources)


def _question(doomed: tuple[Doomed, ...]) -> str:
    lines = []
    for one in doomed:
        lines.append(f"{one.name} in {one.region}" + (f", deployed by {one.owner}" if one.owner else ""))
        lines += [f"  {resource.kind} {resource.name}" for resource in teardown_order(one.resources)]
    if any(resource.kind == "training_job" for one in doomed for resource in one.resources):
        lines.append("A job's results that are still in S3 are lost; the job's own command, given again, fetches them.")
    return "\n".join(lines) + "\nDelete them all?"


# --- deleting


def _delete_all(
    aws: Aws,
    state: StateFile | None,
    doomed: tuple[Doomed, ...],
    buckets: tuple[str, ...],
    clock: Clock,
    report: Reporter,
) -> tuple[str, ...]:
    left: list[Left] = []
    for one in doomed:
        if state is None:
            left += _delete_one(aws.at(one.region), None, one, buckets, clock, report)
        else:
            with state.lock():
                left += _delete_one(aws.at(one.region), state, one, buckets, clock, report)
    _raise_if_left(left)
    report.log("Verified: nothing is left.")
    return tuple(one.name for one in doomed)


def _raise_if_left(left: list[Left]) -> None:
    if left:
        listing = "\n".join(
            f"  {one.resource.kind} {one.resource.name}: {one.reason}\n    {one.command}" for one in left
        )
        raise DeployError(
            f"Not everything was deleted, and what is left may cost money:\n{listing}",
            remedy="Run the same command again, or the commands above.",
        )


def _delete_one(
    aws: Aws, state: StateFile | None, doomed: Doomed, buckets: tuple[str, ...], clock: Clock, report: Reporter
) -> list[Left]:
    reasons: dict[tuple[str, str], str] = {}
    endpoint_left = False
    hopeless = ""
    for resource in teardown_order(doomed.resources):
        key = (resource.kind, resource.name)
        if hopeless:
            reasons[key] = hopeless
            continue
        if endpoint_left and resource.kind in ("model", "endpoint_config", "role", "artefact"):
            reasons[key] = "what uses it could not be deleted"
            continue
        try:
            remove(aws, state, doomed.name, resource, clock=clock, report=report)
        except EmbedfitError as error:
            reasons[key] = error.message
            report.log(error.message)
            endpoint_left = endpoint_left or resource.kind in ("endpoint", "training_job")
            if error.__cause__ is not None and is_expired(error.__cause__):
                hopeless = f"the credentials are no longer valid ({error_code(error.__cause__)})"
    left = _verify(aws, doomed, reasons, buckets, report, hopeless)
    if not left and state is not None:
        state.drop(doomed.name)
    return left


def _verify(
    aws: Aws,
    doomed: Doomed,
    reasons: dict[tuple[str, str], str],
    buckets: tuple[str, ...],
    report: Reporter,
    hopeless: str,
) -> list[Left]:
    """Look again at every resource: one that is still there, or can't be seen, counts as left."""
    left = []
    for resource in teardown_order(doomed.resources):
        reason = reasons.get((resource.kind, resource.name), "")
        there = True if hopeless else _still_there(aws, resource)
        if there is None:
            left.append((resource, reason or "it could not be verified that it is gone"))
        elif there:
            left.append((resource, reason or "it is still there"))
    if not hopeless:
        left += _unexpected(aws, doomed, buckets, report, {(one.kind, one.name) for one, _ in left})
    return [
        Left(resource=one, reason=reason, command=sagemaker.manual_command(one, aws.region)) for one, reason in left
    ]


def _still_there(aws: Aws, resource: Resource) -> bool | None:
    """Whether a resource is still there; None if that can't be found out."""
    try:
        return sagemaker.is_left(aws, resource.kind, resource.name)
    except aws_exceptions():
        return None


def _unexpected(
    aws: Aws, doomed: Doomed, buckets: tuple[str, ...], report: Reporter, known: set[tuple[str, str]]
) -> list[tuple[Resource, str]]:
    """The resources that carry the deployment's tag but were on no list."""
    try:
        found = sagemaker.discover(aws, buckets=buckets, name=doomed.name, warn=report.log)
    except aws_exceptions() as error:
        marker = Resource(kind="endpoint", name=doomed.name)
        return [(marker, f"looking for leftovers by tag failed: {explain(error, 'listing').message}")]
    rest = [resource for one in found for resource in one.resources if (resource.kind, resource.name) not in known]
    return [(resource, "it appeared while the others were deleted") for resource in rest]
