"""Endpoints that take their time, fail, or are deleted meanwhile: scripted, as moto's are in service at once."""

from __future__ import annotations

from time import time as wall_time

import pytest
from moto.sagemaker.models import FakeEndpoint

from embedfit.deploy.apply import apply
from embedfit.deploy.destroy import destroy
from embedfit.errors import DeployError

SECRET = "hf_abcdefghijklmnopqrstuv"


@pytest.fixture
def script(monkeypatch, time, account):
    """Statuses that each new endpoint goes through, one more at every sleep."""
    statuses = ["Creating"]
    plain_init = FakeEndpoint.__init__

    def new(self, *arguments, **named):
        plain_init(self, *arguments, **named)
        self.endpoint_status = statuses[0]

    def sleep(seconds):
        time.slept.append(seconds)
        if len(statuses) > 1:
            statuses.pop(0)
        from tests.deploy.backends import sagemaker_backends

        for endpoint in sagemaker_backends["123456789012"]["us-east-1"].endpoints.values():
            endpoint.endpoint_status = statuses[0]
            if statuses[0] == "Failed":
                endpoint.failure_reason = "The primary container did not pass the ping health check."
        from datetime import timedelta

        time.time += timedelta(seconds=seconds)

    monkeypatch.setattr(FakeEndpoint, "__init__", new)
    monkeypatch.setattr(time, "sleep", sleep)
    return statuses


def write_log(account, name, lines):
    logs = account.plain("logs")
    group = f"/aws/sagemaker/Endpoints/{name}"
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName="AllTraffic/i-1")
    events = [{"timestamp": int(wall_time() * 1000) + index, "message": line} for index, line in enumerate(lines)]
    logs.put_log_events(logGroupName=group, logStreamName="AllTraffic/i-1", logEvents=events)


def test_apply_waits_until_the_endpoint_is_in_service(script, deployer, account, yes, time):
    script[:] = ["Creating", "Creating", "Creating", "InService"]
    apply(deployer.plan(), account.aws(), yes, clock=time.clock)
    assert len(time.slept) == 3
    assert account.everything()["policies"]  # autoscaling only once it is in service


def test_a_failed_endpoint_shows_reason_and_log_tail_and_is_deleted(script, deployer, account, yes, time, lines):
    script[:] = ["Creating", "Failed"]
    plan = deployer.plan()
    log = [f"line {number}" for number in range(40)] + [
        f'Args {{ hf_token: Some("{SECRET}") }}',
        "Error: no tokenizer.json",
    ]
    write_log(account, plan.name, log)
    with pytest.raises(DeployError, match="did not pass the ping health check") as caught:
        apply(plan, account.aws(), yes, clock=time.clock)
    assert "log" in str(caught.value.remedy)
    assert "  Error: no tokenizer.json" in lines.lines
    assert "  line 39" in lines.lines and "  line 0" not in lines.lines
    assert account.everything() == {}
    kept = (deployer.state_folder / f"{plan.name}.log").read_text()
    assert kept.startswith("line 0\n")
    assert SECRET not in kept + lines.text


def test_a_failed_endpoint_without_log(script, deployer, account, yes, time, lines):
    script[:] = ["Creating", "Failed"]
    with pytest.raises(DeployError):
        apply(deployer.plan(), account.aws(), yes, clock=time.clock)
    assert "The container wrote no log: it was never started." in lines.lines
    assert account.everything() == {}


def test_a_log_that_may_not_be_read_hides_no_failure(script, deployer, account, yes, time, lines):
    script[:] = ["Creating", "Failed"]
    account.faults.refuse = lambda call, _: ("AccessDenied", "no") if call == "logs.DescribeLogStreams" else None
    with pytest.raises(DeployError, match="ping health check"):
        apply(deployer.plan(), account.aws(), yes, clock=time.clock)
    assert "The container's log can't be read" in lines.text


def test_waiting_ends(script, deployer, account, yes, time):
    with pytest.raises(DeployError, match="still Creating after 45 min"):
        apply(deployer.plan(), account.aws(), yes, clock=time.clock)
    # moto deletes an endpoint in any status, as SageMaker does once it has settled
    assert account.everything() == {}


def test_an_endpoint_that_sagemaker_is_at_work_on_is_deleted_later(script, deployer, account, yes, time):
    """DeleteEndpoint is refused while an endpoint is being made."""
    script[:] = ["InService"]
    apply(deployer.plan(), account.aws(), yes, clock=time.clock)
    from tests.deploy.backends import sagemaker_backends

    endpoint = next(iter(sagemaker_backends["123456789012"]["us-east-1"].endpoints.values()))
    endpoint.endpoint_status = "Updating"
    script[:] = ["Updating", "Updating", "InService"]

    def busy(call, parameters):
        if call == "sagemaker.DeleteEndpoint" and endpoint.endpoint_status == "Updating":
            return "ValidationException", "Cannot delete in-progress endpoint"
        return None

    account.faults.refuse = busy
    destroy(account.aws(), yes, state_folder=deployer.state_folder, clock=time.clock)
    assert len(time.slept) == 2
    assert account.everything() == {}


def test_ctrl_c_while_waiting_rolls_back(script, deployer, account, yes, time, monkeypatch):
    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        apply(deployer.plan(), account.aws(), yes, clock=time.clock)
    assert account.everything() == {}


def test_an_endpoint_that_is_being_deleted_is_waited_for_and_made_anew(script, deployer, account, yes, time):
    script[:] = ["InService"]
    plan = deployer.plan()
    apply(plan, account.aws(), yes, clock=time.clock)
    from tests.deploy.backends import sagemaker_backends

    endpoints = sagemaker_backends["123456789012"]["us-east-1"].endpoints
    endpoints[plan.name].endpoint_status = "Deleting"

    def gone(seconds):
        endpoints.pop(plan.name, None)

    time.sleep = gone
    apply(plan, account.aws(), yes, clock=time.clock)
    assert endpoints[plan.name].endpoint_status == "InService"
