"""An endpoint's whole life against moto, through real boto3 clients."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from embedfit.deploy.apply import apply
from embedfit.deploy.destroy import destroy, sweep
from embedfit.deploy.state import StateFile
from embedfit.errors import DeployError
from embedfit.runtime import Runtime
from tests.deploy.fake_account import ACCOUNT, BUCKET, REGION, make_model_folder


def up(deployer, account, yes, time, **changes):
    plan = deployer.plan(**changes)
    return plan, apply(plan, account.aws(), yes, clock=time.clock)


def down(deployer, account, yes, time, **arguments):
    return destroy(account.aws(), yes, state_folder=deployer.state_folder, clock=time.clock, **arguments)


def test_apply_makes_what_the_plan_says_and_destroy_leaves_nothing(deployer, account, yes, time):
    plan, deployment = up(deployer, account, yes, time)

    there = account.everything()
    assert there["endpoints"] == there["configs"] == there["models"] == there["policies"] == [plan.name]
    assert there["targets"] == [f"endpoint/{plan.name}/variant/AllTraffic"]
    assert f"embedfit/{plan.name}/model/model.safetensors" in there["objects"]
    assert {resource.status for resource in deployment.resources} == {"created"}
    assert all(resource.id for resource in deployment.resources)
    model = account.plain("sagemaker").describe_model(ModelName=plan.name)
    assert model["PrimaryContainer"]["Environment"]["HF_MODEL_ID"] == "/opt/ml/model"
    assert not {"API_KEY", "EMBEDFIT_API_KEY"} & set(model["PrimaryContainer"]["Environment"])
    source = model["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]
    assert source == {
        "S3Uri": f"s3://{BUCKET}/embedfit/{plan.name}/model/",
        "S3DataType": "S3Prefix",
        "CompressionType": "None",
    }

    assert down(deployer, account, yes, time) == (plan.name,)
    assert account.everything() == {}
    assert StateFile(deployer.state_folder, time.clock.now).read().deployments == ()


def test_the_calls_are_literally_those_of_the_plan(deployer, account, yes, time):
    plan = deployer.plan()
    seen = len(account.faults.calls)
    apply(plan, account.aws(), yes, clock=time.clock)
    reading = ("Describe", "List", "Get", "Head")
    made = [call for call in account.faults.calls[seen:] if not call.split(".")[1].startswith(reading)]
    planned = []
    for step in plan.steps:
        for call in step.calls:
            operation = (
                "PutObject" if call.operation == "upload_file" else "".join(map(str.title, call.operation.split("_")))
            )
            planned.append(f"{call.service}.{operation}")
    assert made == planned


def test_plan_changes_nothing(deployer, account):
    deployer.plan()
    assert account.everything() == {}
    assert all(call.split(".")[1].startswith(("Describe", "List", "Get", "Head")) for call in account.faults.calls)
    assert not deployer.state_folder.exists()


def test_every_taggable_resource_carries_project_run_ttl_and_owner(deployer, account, yes, time):
    plan, deployment = up(deployer, account, yes, time, ttl="1h", tags={"team": "search"})
    client = account.plain("sagemaker")
    for resource in deployment.resources:
        if resource.kind in ("model", "endpoint_config", "endpoint"):
            tags = {tag["Key"]: tag["Value"] for tag in client.list_tags(ResourceArn=resource.id)["Tags"]}
            assert tags["embedfit:project"] == "embedfit"
            assert tags["embedfit:run"] == "em"
            assert tags["embedfit:owner"] == f"arn:aws:sts::{ACCOUNT}:user/moto"
            assert tags["embedfit:ttl"] == "2026-07-01T13:00:00+00:00"
            assert tags["team"] == "search"
    marker = account.plain("s3").get_object(Bucket=BUCKET, Key=f"embedfit/{plan.name}/artefact.json")
    assert json.loads(marker["Body"].read())["tags"]["embedfit:run"] == "em"


def test_a_second_apply_adopts_everything_and_makes_nothing(deployer, account, yes, time):
    first, _ = up(deployer, account, yes, time)
    seen = len(account.faults.calls)
    second, deployment = up(deployer, account, yes, time)
    assert second.name == first.name
    changing = ("Create", "Put", "Register", "Delete", "Add")
    assert [call for call in account.faults.calls[seen:] if call.split(".")[1].startswith(changing)] == []
    assert {resource.status for resource in deployment.resources} == {"created"}  # made by this folder, if earlier


def test_an_apply_without_the_state_adopts_and_says_so(deployer, account, yes, time, lines):
    up(deployer, account, yes, time)
    (deployer.state_folder / "state.json").unlink()
    _, deployment = up(deployer, account, yes, time)
    assert {one.status for one in deployment.resources if one.kind != "log_group"} == {"adopted"}
    assert "there already" in lines.text
    down(deployer, account, yes, time)
    assert account.everything() == {}


def test_something_foreign_of_the_same_name_is_not_touched(deployer, account, yes, time):
    client = account.plain("sagemaker")
    client.create_model(ModelName="search", ExecutionRoleArn="arn:aws:iam::123456789012:role/endpoint")
    with pytest.raises(DeployError, match="embedfit did not make it"):
        up(deployer, account, yes, time, name="search")
    assert account.everything() == {"models": ["search"]}
    assert down(deployer, account, yes, time, name="search") == ()
    assert account.everything() == {"models": ["search"]}


def test_another_model_under_the_same_name_is_refused(deployer, account, yes, time, tmp_path):
    up(deployer, account, yes, time, name="search")
    other = make_model_folder(tmp_path / "other" / "merged", weights=b"other weights")
    before = account.everything()
    with pytest.raises(DeployError, match="another model or other settings") as caught:
        up(deployer, account, yes, time, name="search", folder=other)
    assert account.everything() == before
    assert "apply again with --name search-" in str(caught.value)
    assert f"embedfit deploy sagemaker destroy {other} --name search --region us-east-1" in str(caught.value)


def test_another_instance_type_under_the_same_name_is_refused_and_the_record_stays(deployer, account, yes, time):
    _, first = up(deployer, account, yes, time, name="search", ttl="1h")
    before = account.everything()
    with pytest.raises(DeployError, match="not changed in place"):
        up(deployer, account, yes, time, name="search", instance_type="ml.m5.2xlarge", ttl="2h")
    assert account.everything() == before
    (recorded,) = StateFile(deployer.state_folder, time.clock.now).read().deployments
    assert (recorded.instance_type, recorded.usd_per_instance_hour, recorded.expires) == (
        first.instance_type,
        first.usd_per_instance_hour,
        first.expires,
    )
    assert down(deployer, account, yes, time) == ("search",)
    assert account.everything() == {}


def test_a_second_endpoint_of_a_run_is_announced_with_the_way_to_replace_the_first(deployer, account, yes, time):
    first, _ = up(deployer, account, yes, time)
    assert not any("second endpoint" in note for note in deployer.plan().notes)  # the same again
    larger = deployer.plan(instance_type="ml.m5.2xlarge")
    (note,) = [note for note in larger.notes if "second endpoint" in note]
    assert f"{first.name} on ml.m5.xlarge is recorded" in note
    assert f"embedfit deploy sagemaker destroy {deployer.folder} --name {first.name} --region us-east-1" in note


def test_another_model_gets_another_name(deployer, account, tmp_path):
    other = make_model_folder(tmp_path / "again" / "merged", weights=b"other weights")
    assert deployer.plan().name == deployer.plan().name
    assert deployer.plan(run="em", folder=other).name != deployer.plan().name
    assert deployer.plan(instance_type="ml.g4dn.xlarge").name != deployer.plan().name
    assert (
        deployer.plan(min_instances=None, max_instances=None, target_invocations=None, ttl="1m").name
        == deployer.plan().name
    )


def test_scaling_limits_change_in_place_and_can_be_turned_off(deployer, account, yes, time):
    up(deployer, account, yes, time)
    plan, _ = up(deployer, account, yes, time, min_instances=1, max_instances=5, target_invocations=100.0)
    scaling = account.plain("application-autoscaling")
    target = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"][0]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 5)
    policy = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"][0]
    assert policy["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] == 100.0

    _, deployment = up(deployer, account, yes, time, min_instances=None, max_instances=None, target_invocations=None)
    assert "policies" not in account.everything() and "targets" not in account.everything()
    assert account.everything()["endpoints"] == [plan.name]
    assert {resource.kind for resource in deployment.resources} >= {"endpoint", "model"}
    assert not {resource.kind for resource in deployment.resources} & {"scaling_policy", "scalable_target"}


def test_failing_to_change_scaling_keeps_the_scaling_that_was_there(deployer, account, yes, time):
    up(deployer, account, yes, time)
    plan = deployer.plan(min_instances=1, max_instances=5, target_invocations=100.0)
    account.faults.refuse = lambda call, _: ("X", "no") if call.endswith("PutScalingPolicy") else None
    with pytest.raises(DeployError):
        apply(plan, account.aws(), yes, clock=time.clock)
    assert account.everything()["targets"] and account.everything()["policies"]


def test_destroy_is_idempotent(deployer, account, yes, time, lines):
    up(deployer, account, yes, time)
    down(deployer, account, yes, time)
    assert down(deployer, account, yes, time, run="em") == ()
    assert lines.lines[-1] == "There is nothing to delete."


def test_destroy_needs_no_state_file(deployer, account, yes, time):
    plan, _ = up(deployer, account, yes, time)
    (deployer.state_folder / "state.json").unlink()
    assert destroy(account.aws(), yes, run="em", clock=time.clock) == (plan.name,)
    assert account.everything() == {}


def test_destroy_by_tag_deletes_nothing_of_another_run_or_person(deployer, account, yes, time, lines):
    plan, _ = up(deployer, account, yes, time)
    (deployer.state_folder / "state.json").unlink()
    assert destroy(account.aws(), yes, run="other", clock=time.clock) == ()
    account.faults.canned["sts.GetCallerIdentity"] = {"Account": ACCOUNT, "Arn": "arn:aws:sts::123456789012:user/eve"}
    assert destroy(account.aws(), yes, run="em", clock=time.clock) == ()
    assert "--any-owner" in lines.text
    assert account.everything()["endpoints"] == [plan.name]
    assert destroy(account.aws(), yes, run="em", any_owner=True, clock=time.clock) == (plan.name,)
    assert account.everything() == {}


def test_destroy_finds_what_the_state_does_not_know(deployer, account, yes, time):
    """A process killed between a call and its record."""
    plan, _ = up(deployer, account, yes, time)
    path = deployer.state_folder / "state.json"
    state = json.loads(path.read_text())
    state["deployments"][0]["resources"] = []
    path.write_text(json.dumps(state))
    assert down(deployer, account, yes, time) == (plan.name,)
    assert account.everything() == {}


def test_destroy_refuses_the_wrong_account(deployer, account, yes, time):
    """There, everything would look deleted."""
    up(deployer, account, yes, time)
    account.faults.canned["sts.GetCallerIdentity"] = {"Account": "999999999999", "Arn": "arn:aws:sts::9:user/moto"}
    with pytest.raises(DeployError, match="credentials are of 999999999999"):
        down(deployer, account, yes, time)


def test_old_versions_and_torn_uploads_are_deleted_too(deployer, account, yes, time):
    s3 = account.plain("s3")
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    plan, _ = up(deployer, account, yes, time)
    key = f"embedfit/{plan.name}/model/config.json"
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"{ }")
    s3.delete_object(Bucket=BUCKET, Key=key)
    s3.create_multipart_upload(Bucket=BUCKET, Key=f"embedfit/{plan.name}/model/onnx/model.onnx")
    s3.put_object(Bucket=BUCKET, Key="someone/else", Body=b"x")
    down(deployer, account, yes, time)
    assert account.everything() == {"objects": ["someone/else"]}
    assert s3.list_object_versions(Bucket=BUCKET).get("DeleteMarkers", []) == []


def test_the_log_group_goes_with_the_endpoint(deployer, account, yes, time):
    plan, _ = up(deployer, account, yes, time)
    logs = account.plain("logs")
    logs.create_log_group(logGroupName=f"/aws/sagemaker/Endpoints/{plan.name}")
    logs.create_log_group(logGroupName=f"/aws/sagemaker/Endpoints/{plan.name}-of-someone-else")
    down(deployer, account, yes, time)
    assert account.everything() == {"logs": [f"/aws/sagemaker/Endpoints/{plan.name}-of-someone-else"]}


def test_a_role_is_made_with_the_plans_policies_and_deleted_again(deployer, account, yes, time):
    plan, _ = up(deployer, account, yes, time, role_arn=None, create_role=True)
    iam = account.plain("iam")
    assert iam.get_role(RoleName=plan.name)["Role"]["AssumeRolePolicyDocument"] == plan.policies.trust
    document = iam.get_role_policy(RoleName=plan.name, PolicyName="embedfit")["PolicyDocument"]
    assert document == plan.policies.execution
    model = account.plain("sagemaker").describe_model(ModelName=plan.name)
    assert model["ExecutionRoleArn"] == iam.get_role(RoleName=plan.name)["Role"]["Arn"]
    (deployer.state_folder / "state.json").unlink()
    destroy(account.aws(), yes, run="em", clock=time.clock)
    assert account.everything() == {}


def test_a_new_role_is_waited_for(deployer, account, yes, time):
    tries = []

    def not_yet(call, parameters):
        if call == "sagemaker.CreateModel":
            tries.append(call)
            if len(tries) < 3:
                return "ValidationException", "Could not assume role arn:aws:iam::…"
        return None

    account.faults.refuse = not_yet
    up(deployer, account, yes, time, role_arn=None, create_role=True)
    assert len(tries) == 3 and sum(time.slept) == 10.0


def test_saying_no_makes_and_deletes_nothing(deployer, account, yes, time):
    no = Runtime(confirm=lambda question: False)
    with pytest.raises(DeployError, match="did not agree"):
        apply(deployer.plan(), account.aws(), no, clock=time.clock)
    assert account.everything() == {}
    up(deployer, account, yes, time)
    with pytest.raises(DeployError, match="did not agree"):
        destroy(account.aws(), no, state_folder=deployer.state_folder, clock=time.clock)
    assert account.everything()["endpoints"]


def test_the_question_names_what_it_costs(deployer, account, time):
    asked = []
    runtime = Runtime(confirm=lambda question: bool(asked.append(question)))
    with pytest.raises(DeployError):
        apply(deployer.plan(), account.aws(), runtime, clock=time.clock)
    assert "$0.23 an hour (up to $0.69 with all instances)" in asked[0]


def test_a_plan_with_something_missing_is_not_applied(deployer, account, yes, time):
    with pytest.raises(DeployError, match="no execution role was named"):
        up(deployer, account, yes, time, role_arn=None)
    with pytest.raises(DeployError, match="there is no bucket nowhere"):
        up(deployer, account, yes, time, bucket="nowhere")
    with pytest.raises(DeployError, match="there is no role missing"):
        up(deployer, account, yes, time, role_arn="arn:aws:iam::123456789012:role/missing")
    assert account.everything() == {}


def test_sweep_deletes_what_has_outlived_its_ttl_and_nothing_else(deployer, account, yes, time, tmp_path):
    short, _ = up(deployer, account, yes, time, ttl="1h")
    long = make_model_folder(tmp_path / "long" / "merged")
    longer, _ = up(deployer, account, yes, time, ttl="1d", folder=long)
    forever = make_model_folder(tmp_path / "forever" / "merged")
    kept, _ = up(deployer, account, yes, time, folder=forever)
    assert sweep(account.aws(), yes, clock=time.clock) == ()
    time.time += timedelta(hours=2)
    assert sweep(account.aws(), yes, dry_run=True, clock=time.clock) == (short.name,)
    assert len(account.everything()["endpoints"]) == 3
    assert sweep(account.aws(), yes, clock=time.clock) == (short.name,)
    assert sorted(account.everything()["endpoints"]) == sorted([longer.name, kept.name])
    # the state file of the swept run does not stand in the way
    assert down(deployer, account, yes, time) == (short.name,)


def test_a_second_apply_prolongs_the_ttl(deployer, account, yes, time):
    up(deployer, account, yes, time, ttl="1h")
    time.time += timedelta(minutes=50)
    up(deployer, account, yes, time, ttl="1h")
    time.time += timedelta(minutes=30)
    assert sweep(account.aws(), yes, clock=time.clock) == ()


def test_a_model_in_s3_is_used_in_place_and_left_alone(deployer, account, yes, time, tmp_path):
    account.plain("s3").put_object(Bucket=BUCKET, Key="models/mine/config.json", Body=b"{}")
    plan, _ = up(deployer, account, yes, time, folder=f"s3://{BUCKET}/models/mine")
    model = account.plain("sagemaker").describe_model(ModelName=plan.name)
    source = model["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]
    assert source["S3Uri"] == f"s3://{BUCKET}/models/mine/"
    destroy(account.aws(), yes, state_folder=plan.state_folder, clock=time.clock)
    assert account.everything() == {"objects": ["models/mine/config.json"]}


def test_a_hub_model_is_named_to_the_container(deployer, account, yes, time):
    plan, _ = up(deployer, account, yes, time, folder="BAAI/bge-base-en-v1.5")
    container = account.plain("sagemaker").describe_model(ModelName=plan.name)["PrimaryContainer"]
    assert container["Environment"]["HF_MODEL_ID"] == "BAAI/bge-base-en-v1.5"
    assert "ModelDataSource" not in container
    destroy(account.aws(), yes, state_folder=plan.state_folder, clock=time.clock)
    assert account.everything() == {}


def test_other_regions_are_deleted_where_they_are(deployer, account, yes, time):
    account.plain("s3").create_bucket(Bucket="eu-bucket", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    from embedfit.deploy.account.prices import load_prices
    from embedfit.deploy.endpoint.plan import make_plan
    from tests.deploy.fake_account import artefact_of, options_for

    aws = account.aws("eu-west-1")
    plan = make_plan(
        options_for(deployer.folder, region="eu-west-1", bucket="eu-bucket"),
        artefact_of(deployer.folder, deployer.tmp_path),
        aws=aws,
        prices=load_prices(),
        now=time.time,
    )
    apply(plan, aws, yes, clock=time.clock)
    assert account.everything("eu-west-1")["endpoints"] == [plan.name]
    destroy(account.aws(REGION), yes, state_folder=deployer.state_folder, clock=time.clock)
    assert account.everything("eu-west-1") == {}


def test_no_secret_is_written_or_said(deployer, account, yes, time, lines):
    """The session's keys are nowhere but in the signatures of the requests."""
    plan, _ = up(deployer, account, yes, time)
    credentials = account.session.get_credentials()
    state = (deployer.state_folder / "state.json").read_text()
    for secret in (credentials.access_key, credentials.secret_key):
        assert secret not in state + lines.text + json.dumps(plan.as_json())
