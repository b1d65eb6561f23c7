from __future__ import annotations

import json
from fnmatch import fnmatchcase

import pytest

from embedfit.deploy.account.prices import load_prices
from embedfit.deploy.apply import apply
from embedfit.deploy.destroy import destroy
from embedfit.deploy.endpoint.plan import make_plan
from embedfit.deploy.options import Options, parse_ttl, refuse_serverless
from embedfit.errors import InputError, ModelError, UsageError
from embedfit.testing.tiny_model import make_tiny_bert
from tests.deploy.fake_account import BUCKET, ROLE, artefact_of, options_for
from tests.models.tiny_towers import SHAPES


def call_of(plan, operation):
    return next(call.parameters for step in plan.steps for call in step.calls if call.operation == operation)


def test_without_credentials_it_is_still_a_plan_and_says_what_is_not_known(model_folder, tmp_path, time):
    plan = make_plan(
        options_for(model_folder, instance_type="ml.g5.xlarge"),
        artefact_of(model_folder, tmp_path),
        aws=None,
        prices=load_prices(),
        now=time.time,
    )
    assert plan.account is None
    assert {finding.check: finding.status for finding in plan.findings} == {
        "identity": "missing",
        "role": "unknown",
        "bucket": "unknown",
        "quota": "unknown",
    }
    assert plan.cost.low_usd_per_hour == 1.408
    assert plan.cost.low_usd_per_month == pytest.approx(1.408 * 730)
    assert plan.cost.high_usd_per_hour == pytest.approx(3 * 1.408)
    json.dumps(plan.as_json(), allow_nan=False)


def test_no_credentials_in_the_environment(model_folder, tmp_path, time, monkeypatch):
    import boto3

    from embedfit.deploy.account.calls import Aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    aws = Aws(session=boto3.Session(region_name="us-east-1"), region="us-east-1")
    plan = make_plan(
        options_for(model_folder), artefact_of(model_folder, tmp_path), aws=aws, prices=load_prices(), now=time.time
    )
    assert plan.findings[0].detail == "there are no AWS credentials" and plan.findings[0].fix == "aws configure sso"


def test_parameters_are_valid_for_botocore(deployer):
    """Every planned call passes the service's own model, with all options in use."""
    from botocore.session import get_session
    from botocore.validate import ParamValidator

    plan = deployer.plan(
        role_arn=None,
        create_role=True,
        subnets=("subnet-1",),
        security_groups=("sg-1",),
        kms_key="1234abcd",
        network_isolation=True,
        inference_ami="al2-ami-sagemaker-inference-gpu-2",
        max_batch_tokens=8192,
        tags={"team": "search"},
    )
    session = get_session()
    for step in plan.steps:
        for call in step.calls:
            if call.operation == "upload_file":
                assert set(call.parameters) <= {"Filename", "Bucket", "Key", "ExtraArgs"}
                continue
            model = session.get_service_model(call.service)
            name = next(one for one in model.operation_names if one.lower() == call.operation.replace("_", ""))
            report = ParamValidator().validate(call.parameters, model.operation_model(name).input_shape)
            assert not report.has_errors(), report.generate_report()


def test_options_reach_the_calls(deployer):
    plan = deployer.plan(
        subnets=("subnet-1", "subnet-2"),
        security_groups=("sg-1",),
        kms_key="1234abcd",
        network_isolation=True,
        instance_count=2,
        image_uri="123456789012.dkr.ecr.us-east-1.amazonaws.com/mine:1",
    )
    model, config = call_of(plan, "create_model"), call_of(plan, "create_endpoint_config")
    assert model["VpcConfig"] == {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]}
    assert model["EnableNetworkIsolation"] is True
    assert model["ExecutionRoleArn"] == ROLE
    assert model["PrimaryContainer"]["Image"].endswith("/mine:1")
    assert config["KmsKeyId"] == "1234abcd"
    variant = config["ProductionVariants"][0]
    assert variant["InitialInstanceCount"] == 2
    assert variant["RoutingConfig"] == {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"}
    assert call_of(plan, "upload_file")["ExtraArgs"] == {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "1234abcd"}
    assert call_of(plan, "register_scalable_target")["MaxCapacity"] == 3
    policy = call_of(plan, "put_scaling_policy")["TargetTrackingScalingPolicyConfiguration"]
    assert policy["TargetValue"] == 200.0
    assert policy["PredefinedMetricSpecification"] == {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}


def test_the_environment_is_teis_and_holds_no_key(deployer):
    container = call_of(deployer.plan(max_batch_tokens=4096), "create_model")["PrimaryContainer"]
    assert container["Environment"] == {
        "HF_MODEL_ID": "/opt/ml/model",
        "AUTO_TRUNCATE": "true",
        "MAX_CLIENT_BATCH_SIZE": "32",
        "PAYLOAD_LIMIT": "6291456",
        "MAX_BATCH_TOKENS": "4096",
    }


def test_a_local_disk_gets_no_kms_key_and_a_note(deployer):
    plan = deployer.plan(instance_type="ml.g5.xlarge", kms_key="1234abcd")
    assert "KmsKeyId" not in call_of(plan, "create_endpoint_config")
    assert call_of(plan, "upload_file")["ExtraArgs"]["SSEKMSKeyId"] == "1234abcd"
    assert any("local disk" in note for note in plan.notes)


def test_names_are_stable_and_short(deployer):
    assert deployer.plan().name == deployer.plan().name
    assert len(deployer.plan(run="x" * 200).name) <= 63
    assert deployer.plan(name="search").name == "search"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_instances": 0, "max_instances": 2, "target_invocations": 1}, "can't scale to zero"),
        ({"min_instances": 2, "max_instances": 3, "target_invocations": 1}, "not between 2 and 3"),
        ({"min_instances": 1, "max_instances": 3, "target_invocations": 0}, "above 0"),
        ({"instance_count": 0}, "at least one instance"),
        ({"name": "under_score"}, "can't name an endpoint"),
        ({"name": "x" * 64}, "can't name an endpoint"),
        ({"subnets": ("a",)}, "both subnets and security groups"),
        ({"create_role": True}, "exclude each other"),
        ({"role_arn": "endpoint"}, "is not the ARN of a role"),
        ({"tags": {"embedfit:run": "x"}}, "is reserved"),
        ({"instance_type": "ml.inf2.xlarge"}, "no Neuron build"),
        ({"instance_type": "ml.c7g.xlarge"}, "Graviton"),
        ({"instance_type": "ml.p3.2xlarge"}, "too old"),
        ({"instance_type": "g5.xlarge"}, "is not a SageMaker instance type"),
    ],
)
def test_what_can_not_work_is_refused_with_a_remedy(changes, message, tmp_path):
    with pytest.raises(UsageError, match=message) as caught:
        options_for(tmp_path, **changes)
    assert caught.value.remedy


def test_serverless_is_refused_with_the_reason():
    with pytest.raises(UsageError, match="no GPU and at most 6 GB"):
        refuse_serverless()


def test_network_isolation_and_the_hub_exclude_each_other(deployer):
    with pytest.raises(UsageError, match="can't download"):
        deployer.plan(folder="BAAI/bge-base-en-v1.5", network_isolation=True)


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("8h", 28800), ("3d", 259200), ("0.5h", 1800)])
def test_ttl(text, seconds):
    assert parse_ttl(text) == seconds


@pytest.mark.parametrize("text", ["", "8", "h", "8 hours", "0h", "-1h"])
def test_bad_ttl(text):
    with pytest.raises(UsageError, match="time to live"):
        parse_ttl(text)


def test_prices_can_be_overridden(tmp_path, deployer):
    table = tmp_path / "prices.json"
    table.write_text('{"instances": {"ml.m5.xlarge": 9.0}, "region": "eu-west-1", "as_of": "2026-07"}')
    prices = load_prices(table)
    assert prices.instances == {"ml.m5.xlarge": 9.0} and prices.region == "eu-west-1"
    table.write_text('{"instances": {"ml.m5.xlarge": "nine"}}')
    with pytest.raises(InputError, match="is not a price table"):
        load_prices(table)
    with pytest.raises(InputError, match="is missing"):
        load_prices(tmp_path / "none.json")


def test_an_unknown_price_is_said_not_guessed(deployer):
    cost = deployer.plan(instance_type="ml.m7i.48xlarge").cost
    assert cost.low_usd_per_hour is None and "not in the price table" in cost.basis


def test_prices_of_another_region_are_marked():
    from embedfit.deploy.account.prices import cost_of

    assert "prices in eu-west-1 differ" in cost_of(load_prices(), "ml.m5.xlarge", 1, 1, "eu-west-1").basis


#: What each API operation is called in IAM, where that is not simply service:Operation.
_ACTIONS = {
    "s3.ListObjectsV2": "s3:ListBucket",
    "s3.HeadBucket": "s3:ListBucket",
    "s3.DeleteObjects": "s3:DeleteObject",
    "s3.ListObjectVersions": "s3:ListBucketVersions",
    "s3.ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "service-quotas.ListServiceQuotas": "servicequotas:ListServiceQuotas",
}


def test_the_deployers_policy_allows_every_call_that_is_made_and_little_else(deployer, account, yes, time):
    plan = deployer.plan(role_arn=None, create_role=True)
    account.faults.calls.clear()
    deployer.plan(role_arn=None, create_role=True)
    apply(plan, account.aws(), yes, clock=time.clock)
    destroy(account.aws(), yes, state_folder=deployer.state_folder, clock=time.clock)
    needed = {_ACTIONS.get(call, call.replace(".", ":", 1)) for call in account.faults.calls}
    allowed = {action for statement in plan.policies.deployer["Statement"] for action in statement["Action"]}
    assert needed <= allowed
    assert not [action for action in allowed if "*" in action]


def test_changing_rights_are_limited_to_the_deployments_own_resources(deployer):
    plan = deployer.plan()
    for statement in (*plan.policies.deployer["Statement"], *plan.policies.execution["Statement"]):
        changing = [a for a in statement["Action"] if a.split(":")[1].startswith(("Create", "Delete", "Put"))]
        if changing and "Condition" not in statement:
            assert "*" not in statement["Resource"], statement


def test_the_execution_policy_reads_this_model_only(deployer):
    plan = deployer.plan()
    statements = {one["Sid"]: one for one in plan.policies.execution["Statement"]}
    (pattern,) = statements["ReadModel"]["Resource"]
    assert fnmatchcase(f"arn:aws:s3:::{BUCKET}/embedfit/{plan.name}/model/config.json", pattern)
    assert not fnmatchcase(f"arn:aws:s3:::{BUCKET}/embedfit/other/model/config.json", pattern)
    assert statements["PullImage"]["Resource"] == ["arn:aws:ecr:us-east-1:683313688378:repository/tei-cpu"]
    assert plan.policies.trust["Statement"][0]["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


def test_other_partitions(model_folder, tmp_path, time):
    options = Options(model="x", region="cn-north-1", instance_type="ml.m5.xlarge", create_role=True)
    plan = make_plan(options, artefact_of(model_folder, tmp_path), aws=None, prices=load_prices(), now=time.time)
    assert plan.image.startswith("450853457545.dkr.ecr.cn-north-1.amazonaws.com.cn/tei-cpu:")
    text = json.dumps(plan.as_json()["policies"])
    assert "arn:aws-cn:" in text and "arn:aws:" not in text


@pytest.mark.parametrize(
    ("tag", "refused"),
    [
        (None, True),
        ("2.0.1-tei1.8.2-cpu-py310-ubuntu22.04", True),
        ("2.0.1-tei1.7.0-gpu", True),
        ("2.0.1-tei1.8.3-cpu-py310-ubuntu22.04", False),
        ("2.0.1-tei1.10.0-gpu", False),
        ("mine", False),
    ],
)
def test_an_image_that_would_leave_out_the_map_is_refused(tmp_path, time, tag, refused):
    """TEI reads the Dense modules of a folder on its disk from 1.8.3 on; the images of the table are older."""
    merged = SHAPES["map"](make_tiny_bert(tmp_path / "base"), tmp_path)
    image = None if tag is None else f"123456789012.dkr.ecr.us-east-1.amazonaws.com/tei:{tag}"

    def planned(folder):
        options = options_for(folder, image_uri=image)
        return make_plan(options, artefact_of(folder, tmp_path), aws=None, prices=load_prices(), now=time.time)

    if refused:
        with pytest.raises(ModelError, match="would leave out the model's Dense"):
            planned(merged)
    else:
        assert planned(merged).model == str(merged / "query")
    assert planned(merged / "document").model == str(merged / "document")


def test_the_plan_of_two_towers_says_which_is_which(tmp_path, time):
    merged = SHAPES["query"](make_tiny_bert(tmp_path / "base"), tmp_path)
    options = options_for(merged)
    plan = make_plan(options, artefact_of(merged, tmp_path), aws=None, prices=load_prices(), now=time.time)
    assert plan.model == str(merged / "query")
    assert any(str(merged / "document") in note for note in plan.as_json()["notes"])
