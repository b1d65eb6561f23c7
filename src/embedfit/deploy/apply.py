"""Carry out a plan: adopt resources that are there, make the others, record each step, undo on failure."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedfit.deploy.account import sagemaker
from embedfit.deploy.account.calls import Aws, Clock, aws_errors, explain
from embedfit.deploy.account.found import ResourceFound
from embedfit.deploy.account.logs import log_tail
from embedfit.deploy.account.waiting import EndpointFailed, wait_gone, wait_in_service
from embedfit.deploy.destroy import remove, teardown_order
from embedfit.deploy.endpoint.plan import DeployPlan
from embedfit.deploy.options import slug
from embedfit.deploy.plan import Call, Plan, Step
from embedfit.deploy.state import Deployment, Kind, Resource, StateFile, Status
from embedfit.errors import DeployError, EmbedfitError
from embedfit.network.aws import Client, Parameters, aws_exceptions, error_code, is_already_there, is_expired
from embedfit.progress import Reporter
from embedfit.runtime import Runtime

#: A new role is not known everywhere at once: how often, and after how many seconds, making the model is tried again.
_ROLE_TRIES = 12
_ROLE_SECONDS = 5.0
#: Lines of the container's log that are shown; more are kept beside the state.
_SHOWN_LINES = 30


def apply(plan: DeployPlan, aws: Aws, runtime: Runtime, *, clock: Clock | None = None) -> Deployment:
    """Bring a plan's endpoint up and return its record.

    Asks runtime.confirm first. A resource that is there already under the same name and with the same content is
    adopted. After a failure or Ctrl-C everything that this call made is deleted again; a resource that can't be deleted
    stays in the state file, for destroy. Raises DeployError.
    """
    clock = clock or Clock()
    agree(plan, question(plan), runtime)
    state = StateFile(plan.state_folder, clock.now)
    with state.lock():
        return make(plan, aws, state, clock=clock, report=runtime.report)


def agree(plan: Plan, asked: str, runtime: Runtime) -> None:
    """Ask the user for consent to a plan. Raises DeployError without it, and for a plan that can't be applied."""
    if plan.blockers or plan.account is None:
        raise DeployError(
            "This plan can't be applied: " + "; ".join(f"{one.check}: {one.detail}" for one in plan.blockers),
            remedy=next((one.fix for one in plan.blockers if one.fix), None),
        )
    if not runtime.confirm(asked):
        raise DeployError("Nothing was made: you did not agree.", remedy="Answer y, or give --yes.")


def make(plan: Plan, aws: Aws, state: StateFile, *, clock: Clock, report: Reporter) -> Deployment:
    """Make the calls of a plan to which the user agreed. The caller holds the state's lock."""
    before = state.read().named(plan.name)
    return _Worker(plan=plan, aws=aws, state=state, clock=clock, report=report, made=[], before=before).run()


def question(plan: DeployPlan) -> str:
    """The question to the user before anything is made."""
    cost = plan.cost
    price = (
        "at a price that is not known" if cost.low_usd_per_hour is None else f"at ${cost.low_usd_per_hour:.2f} an hour"
    )
    if cost.low_usd_per_hour is not None and cost.high_usd_per_hour != cost.low_usd_per_hour:
        price += f" (up to ${cost.high_usd_per_hour:.2f} with all instances)"
    return f"Make the endpoint {plan.name} on {plan.instance_type} in {plan.region}, {price}?"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worker:
    """One apply. made: the resources that it made, in order. before: the name's record until now."""

    plan: Plan
    aws: Aws
    state: StateFile
    clock: Clock
    report: Reporter
    made: list[Resource]
    before: Deployment | None

    def run(self) -> Deployment:
        self._record_deployment()
        try:
            for step in self.plan.steps:
                self._step(step)
            self._drop_what_the_plan_no_longer_has()
            self._verify()
        except BaseException as error:
            self._fail(error)
        deployment = self.state.read().named(self.plan.name)
        if deployment is None:
            raise DeployError(f"{self.state.path} was changed while apply ran.", remedy="Run apply again.")
        return deployment

    def _record_deployment(self) -> None:
        plan = self.plan
        known = self.before
        now = self.clock.now().isoformat(timespec="seconds")
        self.state.put(
            Deployment(
                name=plan.name,
                region=plan.region,
                account=plan.account or "",
                run=plan.run,
                owner=plan.owner or "",
                created=known.created if known else now,
                expires=plan.expires,
                instance_type=plan.instance_type,
                usd_per_instance_hour=plan.usd_per_instance_hour,
                max_client_batch=plan.client_batch,
                job=plan.job,
                resources=known.resources if known else (),
            )
        )

    # --- one resource

    def _step(self, step: Step) -> None:
        what = _words(step)
        with aws_errors(f"looking for {what}"):
            found = sagemaker.find(self.aws, step.kind, step.name)
        if found is not None and self._is_usable(step, found):
            self._adopt(step, found)
        else:
            # Scaling that is there only gets new limits, so a later failure must not delete it.
            self._make(step, undo=found is None or step.kind not in ("scalable_target", "scaling_policy"))
        if step.kind == "endpoint":
            self._wait(step.name)

    def _is_usable(self, step: Step, found: ResourceFound) -> bool:
        """Whether the resource found equals the step's. Raises DeployError if it belongs to someone else."""
        if step.kind == "scalable_target":
            wanted = step.calls[0].parameters
            return all(found.settings[key] == wanted[key] for key in ("MinCapacity", "MaxCapacity"))
        if step.kind == "scaling_policy":
            wanted = step.calls[0].parameters["TargetTrackingScalingPolicyConfiguration"]
            return all(found.settings.get(key) == value for key, value in wanted.items())
        if found.tags.get("embedfit:deployment") != self.plan.name:
            raise DeployError(
                f"There is already {_words(step)}, and embedfit did not make it.", remedy="Choose another --name."
            )
        if found.tags.get("embedfit:hash") != self.plan.tags["embedfit:hash"]:
            raise DeployError(
                f"There is already {_words(step)} with another model or other settings, and what an endpoint is made "
                "of is not changed in place.",
                remedy=self._replacing(),
            )
        if step.kind == "artefact":
            return bool(found.settings["complete"])
        if step.kind == "endpoint" and found.status == "Deleting":
            wait_gone(self.aws, step.name, clock=self.clock, report=self.report)
            return False
        return True

    def _replacing(self) -> str:
        """The commands that bring another model or instance type under a name that is taken."""
        plan = self.plan
        model, where = shlex.quote(plan.model), f"--region {plan.region}"
        destroy = f"embedfit deploy sagemaker destroy {model} --name {plan.name} {where}"
        beside = slug(f"{plan.name[:54]}-{plan.tags['embedfit:hash'][:8]}", 63)
        return (
            f"Without a pause: apply again with --name {beside}, let your callers use that one, then destroy this one. "
            f"With a pause: destroy this one, then apply again. To destroy it: {destroy}"
        )

    def _adopt(self, step: Step, found: ResourceFound) -> None:
        known = self.state.read().named(self.plan.name)
        before = next((one for one in known.resources if _is(one, step)), None) if known else None
        status: Status = "created" if before is not None and before.status != "adopted" else "adopted"
        if step.kind == "endpoint":
            self._retag(found)
        self._mark_log(step)
        self.state.mark(self.plan.name, Resource(kind=step.kind, name=step.name, id=found.id, status=status))
        self.report.log(f"{_words(step)}: there already")

    def _retag(self, found: ResourceFound) -> None:
        """Update the time to live of an endpoint that is there."""
        wanted = self.plan.tags["embedfit:ttl"]
        if found.tags.get("embedfit:ttl") != wanted:
            with aws_errors(f"tagging {found.id}"):
                self.aws.client("sagemaker").add_tags(
                    ResourceArn=found.id, Tags=[{"Key": "embedfit:ttl", "Value": wanted}]
                )

    def _make(self, step: Step, *, undo: bool) -> None:
        resource = Resource(kind=step.kind, name=step.name, status="creating")
        self.state.mark(self.plan.name, resource)
        self._mark_log(step)
        if undo:
            self.made.append(resource)
        try:
            replies = [self._call(call, step) for call in step.calls]
        except aws_exceptions() as error:
            if not is_already_there(error):
                raise explain(error, f"making {_words(step)}") from error
            # Another apply was faster, or the reply to our own call was lost and botocore repeated the call.
            self._adopt_race(step, error)
            return
        self._made(step, _arn(replies), word="made" if undo else "changed")

    def _adopt_race(self, step: Step, error: Exception) -> None:
        with aws_errors(f"looking for {_words(step)}"):
            found = sagemaker.find(self.aws, step.kind, step.name)
        if found is None or not self._is_usable(step, found):
            raise explain(error, f"making {_words(step)}") from error
        if found.tags.get("embedfit:attempt") == self.plan.attempt:
            self._made(step, found.id)
        else:
            self.made[:] = [one for one in self.made if not _is(one, step)]
            self._adopt(step, found)

    def _made(self, step: Step, resource_id: str = "", word: str = "made") -> None:
        self.state.mark(
            self.plan.name, Resource(kind=step.kind, name=step.name, id=resource_id or step.name, status="created")
        )
        self.report.log(f"{_words(step)}: {word}")

    def _mark_log(self, step: Step) -> None:
        log = _log_of(step.kind, step.name)
        if log is not None:
            self.state.mark(self.plan.name, log)

    def _call(self, call: Call, step: Step) -> Parameters | None:
        client = self.aws.client(call.service)
        if call.operation == "upload_file":
            self._upload(client, call)
            return None
        operation: Callable[..., Parameters] = getattr(client, call.operation)
        if step.kind not in ("model", "training_job") or self.plan.steps[0].kind != "role":
            return operation(**call.parameters)
        for remaining in range(_ROLE_TRIES - 1, -1, -1):
            try:
                return operation(**call.parameters)
            except aws_exceptions() as error:
                if not remaining or "assume role" not in str(error).lower():
                    raise
                self.clock.sleep(_ROLE_SECONDS)
        return None

    def _upload(self, client: Client, call: Call) -> None:
        from boto3.s3.transfer import TransferConfig  # boto3 is an optional package

        size = Path(call.parameters["Filename"]).stat().st_size
        # Small files are sent in one request from this thread, so that Ctrl-C arrives here.
        config = TransferConfig(use_threads=size > 8 << 20)  # type: ignore[no-untyped-call]
        name = call.parameters["Key"].rsplit("/", 1)[-1]
        with self.report.task(f"uploading {name}", max(size, 1) / 1e6, "MB") as task:
            client.upload_file(**call.parameters, Config=config, Callback=lambda sent: task.advance(sent / 1e6))

    # --- the end

    def _wait(self, endpoint: str) -> None:
        try:
            found = wait_in_service(self.aws, endpoint, clock=self.clock, report=self.report)
        except EndpointFailed:
            self._show_log(endpoint)
            raise
        self.state.mark(self.plan.name, dataclasses.replace(self._recorded("endpoint", endpoint), id=found.id))

    def _recorded(self, kind: str, name: str) -> Resource:
        known = self.state.read().named(self.plan.name)
        resources = known.resources if known else ()
        return next(one for one in resources if (one.kind, one.name) == (kind, name))

    def _show_log(self, endpoint: str) -> None:
        try:
            lines = log_tail(self.aws, endpoint)
        except aws_exceptions() as error:
            self.report.log(f"The container's log can't be read: {explain(error, 'reading the log').message}")
            return
        if not lines:
            self.report.log("The container wrote no log: it was never started.")
            return
        path = self.state.folder / f"{endpoint}.log"
        path.write_text("\n".join(lines) + "\n", "utf-8")
        self.report.log(f"The last lines of the container's log (more in {path}):")
        for line in lines[-_SHOWN_LINES:]:
            self.report.log(f"  {line}")

    def _drop_what_the_plan_no_longer_has(self) -> None:
        """Delete autoscaling that was on and is off in the plan."""
        known = self.state.read().named(self.plan.name)
        planned = {(step.kind, step.name) for step in self.plan.steps}
        dropped = [
            one
            for one in (known.resources if known else ())
            if one.kind in ("scaling_policy", "scalable_target") and (one.kind, one.name) not in planned
        ]
        for resource in teardown_order(dropped):
            remove(self.aws, self.state, self.plan.name, resource, clock=self.clock, report=self.report)

    def _verify(self) -> None:
        """Look again at every resource: someone else's destroy may have deleted one that an earlier step found."""
        for step in self.plan.steps:
            with aws_errors(f"looking for {_words(step)}"):
                found = sagemaker.find(self.aws, step.kind, step.name)
            if found is None:
                raise DeployError(f"{_words(step)} has gone again while apply ran.", remedy="Run apply again.")

    def _fail(self, error: BaseException) -> None:
        """Undo, then raise. A resource that can't be deleted stays in the state file."""
        interrupted = not isinstance(error, Exception)
        self.report.log(f"{'Interrupted' if interrupted else 'Failed'}: deleting what was made …")
        left = self._roll_back(error)
        plan = self.plan
        where = f"{shlex.quote(plan.model)} --name {plan.name} --region {plan.region}"
        again = f"Run: embedfit deploy sagemaker destroy {where}"
        if left:
            self.report.log(f"Not deleted: {_names(left)}. {again}")
            if isinstance(error, DeployError):
                error.remedy = f"{error.remedy} Then: {again.removeprefix('Run: ')}" if error.remedy else again
        else:
            self.report.log("Nothing that this apply made is left.")
            known = self.state.read().named(self.plan.name)
            if known is not None:
                if self.before is not None:  # the earlier endpoint is still up, at its own price
                    self.state.put(dataclasses.replace(self.before, resources=known.resources))
                self.report.log(f"Still there from before: {_names(list(known.resources))}. {again}")
        if isinstance(error, aws_exceptions()):
            raise explain(error, "deploying") from error
        raise error

    def _roll_back(self, error: BaseException) -> list[Resource]:
        logs = [log for one in self.made if (log := _log_of(one.kind, one.name)) is not None]
        mine = [*self.made, *logs]
        left: list[Resource] = []
        hopeless = is_expired(error.__cause__ or error)
        failures: tuple[type[BaseException], ...] = (EmbedfitError, OSError, KeyboardInterrupt, *aws_exceptions())
        for resource in teardown_order(mine):
            if hopeless or (left and resource.kind in ("model", "endpoint_config") and _has(left, "endpoint")):
                left.append(resource)
                continue
            try:
                if self._is_mine(resource):
                    remove(self.aws, self.state, self.plan.name, resource, clock=self.clock, report=self.report)
                else:
                    self.state.unmark(self.plan.name, resource)
            except failures as failure:
                cause = failure.__cause__ or failure
                self.report.log(f"{resource.kind} {resource.name} could not be deleted: {error_code(cause)}")
                hopeless = is_expired(cause) or isinstance(failure, KeyboardInterrupt)
                left.append(resource)
        if not left:
            self._forget()
        return left

    def _is_mine(self, resource: Resource) -> bool:
        """Whether this very call made a resource; the reply to a call may have been lost after it worked."""
        if resource.kind in ("scalable_target", "scaling_policy", "log_group", "job_log"):
            return True
        found = sagemaker.find(self.aws, resource.kind, resource.name)
        return found is not None and found.tags.get("embedfit:attempt", self.plan.attempt) == self.plan.attempt

    def _forget(self) -> None:
        known = self.state.read().named(self.plan.name)
        if known is not None and not known.resources:
            self.state.drop(self.plan.name)


def _log_of(kind: Kind, name: str) -> Resource | None:
    """The log of a resource that is about to print one; None for other resources."""
    if kind == "endpoint":
        group = sagemaker.log_group_of(name)
        return Resource(kind="log_group", name=group, id=group, status="created")
    if kind == "training_job":
        return Resource(kind="job_log", name=name, id=name, status="created")
    return None


def _arn(replies: Sequence[Parameters | None]) -> str:
    """The ARN that the reply to a create call holds, or nothing."""
    for reply in replies:
        values = reply.get("Role", reply) if isinstance(reply, dict) else {}
        for key, value in values.items():
            if key.lower().endswith("arn") and isinstance(value, str):
                return value
    return ""


def _names(resources: list[Resource]) -> str:
    return ", ".join(f"{one.kind} {one.name}" for one in resources)


def _words(step: Step) -> str:
    return f"the {step.kind.replace('_', ' ')} {step.name}"


def _is(resource: Resource, step: Step) -> bool:
    return (resource.kind, resource.name) == (step.kind, step.name)


def _has(resources: list[Resource], kind: str) -> bool:
    return any(one.kind == kind for one in resources)
