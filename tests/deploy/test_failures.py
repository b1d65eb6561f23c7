"""A failure at every single call of apply and of destroy, one test each.

Afterwards either everything is up and recorded, or destroy leaves nothing.
"""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from embedfit.deploy.apply import apply
from embedfit.deploy.destroy import destroy
from embedfit.deploy.state import StateFile
from embedfit.errors import DeployError
from embedfit.runtime import Runtime
from tests.deploy.fake_account import Account, Deployer, FakeTime
from tests.said import Said

#: What plan and apply call, in order. test_the_lists_are_complete keeps it true.
APPLY = (
    "sts.GetCallerIdentity", "iam.GetRole", "s3.HeadBucket", "service-quotas.ListServiceQuotas",
    "s3.ListObjectsV2", *["s3.PutObject"] * 6,
    "sagemaker.DescribeModel", "sagemaker.CreateModel",
    "sagemaker.DescribeEndpointConfig", "sagemaker.CreateEndpointConfig",
    "sagemaker.DescribeEndpoint", "sagemaker.CreateEndpoint", "sagemaker.DescribeEndpoint",
    "application-autoscaling.DescribeScalableTargets", "application-autoscaling.RegisterScalableTarget",
    "application-autoscaling.DescribeScalingPolicies", "application-autoscaling.PutScalingPolicy",
    "s3.ListObjectsV2", "s3.GetObject",
    "sagemaker.DescribeModel", "sagemaker.ListTags",
    "sagemaker.DescribeEndpointConfig", "sagemaker.ListTags",
    "sagemaker.DescribeEndpoint", "sagemaker.ListTags",
    "application-autoscaling.DescribeScalableTargets", "application-autoscaling.DescribeScalingPolicies",
)  # fmt: skip
_DISCOVER = (
    "sagemaker.ListEndpoints", "sagemaker.ListTags", "sagemaker.ListEndpointConfigs", "sagemaker.ListTags",
    "sagemaker.ListModels", "sagemaker.ListTags", "iam.ListRoles",
    "sagemaker.ListTrainingJobs", "sagemaker.ListTrainingJobs",
    "s3.ListObjectsV2", "s3.ListObjectsV2", "s3.GetObject",
    "application-autoscaling.DescribeScalableTargets", "logs.DescribeLogGroups",
    "application-autoscaling.DescribeScalingPolicies", "logs.DescribeLogStreams",
)  # fmt: skip
DESTROY = (
    "sts.GetCallerIdentity", *_DISCOVER,
    "application-autoscaling.DeleteScalingPolicy", "application-autoscaling.DeregisterScalableTarget",
    "sagemaker.DeleteEndpoint", "sagemaker.DescribeEndpoint", "logs.DeleteLogGroup",
    "sagemaker.DeleteEndpointConfig", "sagemaker.DeleteModel",
    "s3.ListMultipartUploads", "s3.ListObjectVersions", "s3.DeleteObjects",
    "application-autoscaling.DescribeScalingPolicies", "application-autoscaling.DescribeScalableTargets",
    "sagemaker.DescribeEndpoint", "logs.DescribeLogGroups", "sagemaker.DescribeEndpointConfig",
    "sagemaker.DescribeModel", "s3.ListObjectsV2",
    "sagemaker.ListEndpoints", "sagemaker.ListEndpointConfigs", "sagemaker.ListModels", "iam.ListRoles",
    "sagemaker.ListTrainingJobs", "sagemaker.ListTrainingJobs",
    "s3.ListObjectsV2", "application-autoscaling.DescribeScalableTargets", "logs.DescribeLogGroups",
    "logs.DescribeLogStreams",
)  # fmt: skip
MODES = ("refused", "lost", "interrupted", "expired", "dead")


def _speed(call, mode):
    """Calls that change something are tried in every `make test`, all others and all other ways to fail in test-all."""
    reads = call.split(".")[1].startswith(("Describe", "List", "Get", "Head"))
    return () if mode == "refused" and not reads else pytest.mark.slow


def _each_call(calls, *modes):
    return [
        pytest.param(index, mode, id=f"{mode}-{index:02}-{call}", marks=_speed(call, mode))
        for mode in modes
        for index, call in enumerate(calls)
    ]


def _apply(deployer: Deployer, account: Account, yes: Runtime, time: FakeTime) -> None:
    apply(deployer.plan(), account.aws(), yes, clock=time.clock)


def _destroy(deployer: Deployer, account: Account, yes: Runtime, time: FakeTime, *, state: bool = True) -> None:
    folder = deployer.state_folder if state else None
    destroy(account.aws(), yes, state_folder=folder, run="em", clock=time.clock)


def _recorded(deployer: Deployer, time: FakeTime) -> list[str]:
    state = StateFile(deployer.state_folder, time.clock.now).read()
    return [resource.kind for deployment in state.deployments for resource in deployment.resources]


def test_the_lists_are_complete(deployer, account, yes, time):
    _apply(deployer, account, yes, time)
    assert tuple(account.faults.calls) == APPLY
    account.faults.calls.clear()
    _destroy(deployer, account, yes, time)
    assert tuple(account.faults.calls) == DESTROY


@pytest.mark.parametrize(("index", "mode"), _each_call(APPLY, *MODES))
def test_apply(index, mode, deployer, account, yes, time):
    account.faults.fail_at, account.faults.mode = index, mode
    try:
        _apply(deployer, account, yes, time)
        failed = False
    except (DeployError, KeyboardInterrupt) as error:
        assert isinstance(error, KeyboardInterrupt) == (mode == "interrupted")
        failed = True
    there = account.everything()
    if not failed:
        assert set(there) == {"endpoints", "configs", "models", "targets", "policies", "objects"}
        assert set(_recorded(deployer, time)) >= {"endpoint", "endpoint_config", "model", "artefact", "scaling_policy"}
    elif mode in ("refused", "lost", "interrupted"):
        assert there == {}, "apply should have rolled back by itself"
        assert _recorded(deployer, time) == []
    account.faults.fail_at = None
    # Without its state file every other time: then the tags must do.
    _destroy(deployer, account, yes, time, state=mode != "expired")
    assert account.everything() == {}


@pytest.mark.parametrize(("index", "mode"), _each_call(DESTROY, *MODES))
def test_destroy(index, mode, deployer, account, yes, time):
    _apply(deployer, account, yes, time)
    account.faults.calls.clear()
    account.faults.fail_at, account.faults.mode = index, mode
    try:
        _destroy(deployer, account, yes, time)
        failed = False
    except (DeployError, KeyboardInterrupt) as error:
        assert isinstance(error, KeyboardInterrupt) == (mode == "interrupted")
        failed = True
    if not failed:
        assert account.everything() == {}, "destroy said that nothing is left"
        return
    account.faults.fail_at = None
    _destroy(deployer, account, yes, time, state=mode != "expired")
    assert account.everything() == {}


def test_what_could_not_be_deleted_is_named_with_its_command(deployer, account, yes, time):
    plan = deployer.plan()
    apply(plan, account.aws(), yes, clock=time.clock)
    account.faults.refuse = lambda call, _: ("AccessDenied", "no") if call.endswith("DeleteEndpoint") else None
    with pytest.raises(DeployError) as caught:
        _destroy(deployer, account, yes, time)
    assert f"aws sagemaker delete-endpoint --endpoint-name {plan.name} --region us-east-1" in str(caught.value)
    assert caught.value.exit_code != 0
    # what the endpoint still uses is not taken from under it
    assert account.everything()["models"] == account.everything()["configs"] == [plan.name]
    assert "endpoint" in _recorded(deployer, time) and "scaling_policy" not in _recorded(deployer, time)


def test_expired_credentials_in_the_middle_say_how_to_go_on(deployer, account, time, lines):
    account.faults.fail_at, account.faults.mode = APPLY.index("sagemaker.CreateEndpoint"), "expired"
    runtime = Runtime(report=lines, confirm=lambda question: True)
    with pytest.raises(DeployError) as caught:
        _apply(deployer, account, runtime, time)
    assert "aws sso login" in str(caught.value) and f"destroy {deployer.folder} --name" in str(caught.value)
    assert "Not deleted: " in lines.text
    before = len(account.faults.calls)
    assert before - 1 == APPLY.index("sagemaker.CreateEndpoint")  # no hopeless calls after that
    account.faults.fail_at = None
    _apply(deployer, account, runtime, time)  # going on works too
    assert account.everything()["endpoints"]


def test_throttling_on_every_call_is_waited_out(deployer, account, yes, time):
    account.forget_clients()  # a client that failed often before has used up its quota of retries
    account.faults.throttle_first = 3
    _apply(deployer, account, yes, time)
    assert account.everything()["endpoints"]
    _destroy(deployer, account, yes, time)
    assert account.everything() == {}


@pytest.mark.parametrize("call", [pytest.param(call, marks=_speed(call, "refused")) for call in sorted(set(APPLY))])
def test_throttling_without_end_is_an_error_that_leaves_nothing(call, deployer, account, yes, time):

    def throttled(name, _):
        return ("ThrottlingException", "Rate exceeded") if name == call else None

    account.faults.refuse = throttled
    try:
        _apply(deployer, account, yes, time)
    except DeployError as error:
        assert "thrott" in str(error).lower() or "not be deleted" in str(error)
    account.faults.refuse = None
    _destroy(deployer, account, yes, time)
    assert account.everything() == {}


def test_two_applies_of_one_run_folder_exclude_each_other(deployer, account, yes, time):
    plan = deployer.plan()
    with StateFile(deployer.state_folder, time.clock.now).lock(), pytest.raises(Exception, match="at work"):
        apply(plan, account.aws(), yes, clock=time.clock)
    assert account.everything() == {}


def test_two_applies_from_two_machines_end_with_one_endpoint(account, deployer, tmp_path):
    """Same model, same name, no shared disk: each adopts what the other was faster to make."""
    from dataclasses import replace

    plans = [replace(deployer.plan(), state_folder=tmp_path / f"machine-{number}") for number in range(2)]
    outcomes: dict[int, object] = {}

    def work(number: int) -> None:
        runtime = Runtime(report=Said(), confirm=lambda question: True)
        try:
            outcomes[number] = apply(plans[number], account.aws(), runtime, clock=FakeTime().clock)
        except DeployError as error:
            outcomes[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not [outcome for outcome in outcomes.values() if isinstance(outcome, Exception)]
    assert account.everything()["endpoints"] == [plans[0].name]
    yes = Runtime(confirm=lambda question: True)
    destroy(account.aws(), yes, state_folder=plans[1].state_folder, clock=FakeTime().clock)
    assert account.everything() == {}
    destroy(account.aws(), yes, state_folder=plans[0].state_folder, clock=FakeTime().clock)


def test_losing_the_race_adopts_and_a_later_failure_leaves_the_winners_things(deployer, account, yes, time):
    """The other machine makes the model between our look and our call; then our next step fails."""
    plan = deployer.plan(attempt="ours")
    theirs = {call.operation: call for step in deployer.plan(attempt="theirs").steps for call in step.calls}
    strict = account.faults.refuse

    def race(call, parameters):
        if call == "sagemaker.CreateModel":
            account.plain("sagemaker").create_model(**theirs["create_model"].parameters)
        if call == "sagemaker.CreateEndpointConfig":
            return "AccessDenied", "no"
        return strict(call, parameters)

    account.faults.refuse = race
    with pytest.raises(DeployError):
        apply(plan, account.aws(), yes, clock=time.clock)
    assert account.everything() == {"models": [plan.name]}


def test_a_killed_apply_is_taken_up_by_the_next(deployer, account, yes, time, monkeypatch):
    plan = deployer.plan()
    account.faults.calls.clear()
    monkeypatch.setattr("embedfit.deploy.apply._Worker._fail", lambda self, error: (_ for _ in ()).throw(error))
    account.faults.fail_at, account.faults.mode = APPLY.index("sagemaker.CreateEndpoint"), "interrupted"
    with pytest.raises(KeyboardInterrupt):
        _apply(deployer, account, yes, time)
    monkeypatch.undo()
    account.faults.fail_at = None
    assert account.everything()["endpoints"] == [plan.name]
    state = StateFile(deployer.state_folder, time.clock.now).read()
    assert {one.kind: one.status for one in state.deployments[0].resources}["endpoint"] == "creating"
    _apply(deployer, account, yes, time)
    _destroy(deployer, account, yes, time)
    assert account.everything() == {}


ROLE_CALLS = ("iam.CreateRole", "iam.PutRolePolicy")
ROLE_DELETIONS = ("iam.DeleteRolePolicy", "iam.DeleteRole")


def _named(calls, *modes):
    return [
        pytest.param(call, mode, id=f"{mode}-{call}", marks=() if mode == "refused" else pytest.mark.slow)
        for mode in modes
        for call in calls
    ]


@pytest.mark.parametrize(("call", "mode"), _named(ROLE_CALLS, *MODES))
def test_apply_that_makes_a_role(call, mode, deployer, account, yes, time):
    role = {"role_arn": None, "create_role": True}
    apply(deployer.plan(**role), account.aws(), yes, clock=time.clock)
    index = account.faults.calls.index(call)
    _destroy(deployer, account, yes, time)
    account.faults.calls.clear()
    account.faults.fail_at, account.faults.mode = index, mode
    with suppress(DeployError, KeyboardInterrupt):
        apply(deployer.plan(**role), account.aws(), yes, clock=time.clock)
    there = account.everything()
    assert "endpoints" in there or mode in ("expired", "dead") or there == {}
    account.faults.fail_at = None
    _destroy(deployer, account, yes, time, state=mode != "expired")
    assert account.everything() == {}


@pytest.mark.parametrize(("call", "mode"), _named(ROLE_DELETIONS, *MODES))
def test_destroy_that_deletes_a_role(call, mode, deployer, account, yes, time):
    def up_and_down(fail_at=None):
        account.faults.fail_at = None
        apply(deployer.plan(role_arn=None, create_role=True), account.aws(), yes, clock=time.clock)
        account.faults.calls.clear()
        account.faults.fail_at, account.faults.mode = fail_at, mode
        _destroy(deployer, account, yes, time)

    up_and_down()
    with suppress(DeployError, KeyboardInterrupt):
        up_and_down(account.faults.calls.index(call))
        assert account.everything() == {}, "destroy said that nothing is left"
    account.faults.fail_at = None
    _destroy(deployer, account, yes, time, state=mode != "expired")
    assert account.everything() == {}


@pytest.mark.parametrize("call", ["s3.CreateMultipartUpload", "s3.UploadPart", "s3.CompleteMultipartUpload"])
def test_a_large_upload_that_breaks_off_leaves_no_part(call, deployer, account, yes, time):
    """Over 8 MB boto3 uploads in parts from threads of its own; parts that stay are paid for and never listed."""
    (deployer.folder / "model.safetensors").write_bytes(bytes(9 << 20))
    account.faults.refuse = lambda name, _: ("AccessDenied", "no") if name == call else None
    with pytest.raises(DeployError, match=r"AccessDenied|not allowed|denied"):
        _apply(deployer, account, yes, time)
    assert account.everything() == {}
    account.faults.refuse = None
    _apply(deployer, account, yes, time)
    assert f"embedfit/{deployer.plan().name}/model/model.safetensors" in account.everything()["objects"]
    _destroy(deployer, account, yes, time)
    assert account.everything() == {}
