"""The plan of a job without an account: money, rights, what can't be reached, instances, paths."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from embedfit.cli.main import app
from embedfit.commands.cloud import inputs
from embedfit.commands.cloud.run import CloudRun, Place, _out_of_reach
from embedfit.config import resolve
from embedfit.deploy.jobs.layout import CHECKPOINTS, ROOT, mirrored, run_place
from embedfit.deploy.jobs.options import JobOptions, device_of, instance_of
from embedfit.deploy.jobs.plan import JobPlan
from embedfit.errors import UsageError
from embedfit.files.places import located
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime
from tests.json_forms import printed

ARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:openai-AbCdEf"


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # The real wheel takes a second to pack; test_wheel.py packs it.
    monkeypatch.setattr(inputs, "own_wheel", lambda: ("embedfit-0.1.0-py3-none-any.whl", b"wheel"))


def plan(folder: Path, settings: dict[str, object], **options: object) -> JobPlan:
    (folder / "docs").mkdir(exist_ok=True)
    (folder / "docs" / "a.md").write_text("# Sound\n\nPress the button to mute the sound.\n")
    cloud = CloudRun(
        workspace=Workspace(folder / "run"),
        config=resolve(overrides={"docs": [str(folder / "docs")], **settings}),
        place=Place(target="sagemaker:ml.g5.2xlarge", region="eu-west-1", options=options),
        runtime=Runtime(ledger=folder / "ledger.sqlite"),
    )
    return cloud.plan()


def missing(made: JobPlan) -> set[str]:
    return {one.check for one in made.blockers}


def actions(document: dict[str, object]) -> dict[str, list[str]]:
    return {str(one["Sid"]): one["Resource"] for one in document["Statement"]}  # type: ignore[attr-defined]


def test_the_command_line_plans_without_credentials_and_region(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# Sound\n\nPress the button to mute the sound.\n")
    words = ["run", str(tmp_path / "docs"), "--run", str(tmp_path / "run"), "--on", "sagemaker:ml.g5.2xlarge", "--plan"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    made = printed("embedfit run", done.stdout)
    assert [call["operation"] for step in made["steps"] for call in step["calls"]][-1] == "create_training_job"
    assert made["cost"]["usd_per_hour"] == 1.515 and made["cost"]["most_usd"] == 12.12
    assert re.search(r"estimate.*20\d\d-\d\d", made["cost"]["basis"])
    assert {one["check"] for one in made["findings"] if one["status"] == "missing"} == {
        "identity",
        "role",
        "region",
        "money",
    }
    assert not (tmp_path / "run").exists()
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0 and "sagemaker.create_training_job" in shown.output and "at most $12.12" in shown.output
    alone = CliRunner().invoke(app, ["run", str(tmp_path / "docs"), "--plan"])
    assert isinstance(alone.exception, UsageError) and "--on" in str(alone.exception)


def test_money_needs_a_limit_and_bedrock_its_rights(tmp_path: Path) -> None:
    assert "money" in missing(plan(tmp_path, {}))
    made = plan(tmp_path, {"generate": {"max_cost": 5}}, role_arn="arn:aws:iam::123456789012:role/job")
    assert missing(made) == {"identity"}
    asked = actions(made.policies.execution)["AskModels"]
    assert all("llama3" in one for one in asked) and "*" not in asked
    free = plan(tmp_path, {"generate": {"generator": "local"}})
    assert "money" not in missing(free) and "AskModels" not in actions(free.policies.execution)


def test_rights_name_this_job_s_things(tmp_path: Path) -> None:
    made = plan(tmp_path, {"generate": {"generator": "local"}}, create_role=True)
    for document in (made.policies.execution, made.policies.deployer):
        for sid, resources in actions(document).items():
            if sid not in ("WriteMetrics", "PullImageToken", "FindByTag", "FindRoles"):
                assert "*" not in resources, sid
    execution = actions(made.policies.execution)
    assert execution["ReadModel"] == [f"arn:aws:s3:::sagemaker-eu-west-1-*/embedfit/{made.name}/*"]
    assert all(f"embedfit/{made.name}/" in one for one in execution["WriteResults"])


@pytest.mark.parametrize(
    ("settings", "options", "reach"),
    [
        ({"generator": "openai:http://localhost:8000/v1"}, {}, "in your network"),
        ({"generator": "openai", "max_cost": 1}, {}, "no API key"),
        ({"generator": "openai", "max_cost": 1}, {"secrets": {"OPENAI_API_KEY": ARN}}, ""),
        ({"generator": "bedrock-batch", "max_cost": 1}, {}, "jobs of its own"),
        ({"generator": "local"}, {}, ""),
    ],
)
def test_what_a_job_can_not_reach(
    tmp_path: Path, settings: dict[str, object], options: dict[str, object], reach: str
) -> None:
    config = resolve(overrides={"docs": [str(tmp_path)], "generate": settings})
    asked = JobOptions.model_validate({"instance_type": "ml.g5.xlarge", "region": "eu-west-1", **options})
    said = " ".join(one.detail for one in _out_of_reach(config, asked))
    assert (reach in said) if reach else not said


def test_a_secret_may_be_read_and_no_other(tmp_path: Path) -> None:
    made = plan(tmp_path, {"generate": {"generator": "openai", "max_cost": 1}}, secrets={"OPENAI_API_KEY": ARN})
    assert actions(made.policies.execution)["ReadSecrets"] == [ARN]


def test_a_local_model_goes_along_and_a_changed_document_is_another_job(tmp_path: Path, tiny_bert: Path) -> None:
    first = plan(tmp_path, {"model": str(tiny_bert), "generate": {"generator": "local"}})
    keys = [call.parameters["Key"] for step in first.steps for call in step.calls if call.operation == "upload_file"]
    assert f"{first.prefix}{mirrored(tiny_bert / 'model.safetensors')}" in keys
    assert plan(tmp_path, {"model": str(tiny_bert), "generate": {"generator": "local"}}).name == first.name
    assert plan(tmp_path, {"model": "minilm", "generate": {"generator": "local"}}).name != first.name


def test_secrets_are_named_not_given() -> None:
    with pytest.raises(UsageError) as caught:
        JobOptions.model_validate(
            {"instance_type": "ml.g5.xlarge", "region": "x", "secrets": ["OPENAI_API_KEY=sk-geheim"]}
        )
    assert "sk-geheim" not in str(caught.value) and "Secrets Manager" in str(caught.value)


def test_every_training_instance_is_placed() -> None:
    from botocore.session import get_session

    placed = {}
    for name in get_session().get_service_model("sagemaker").shape_for("TrainingInstanceType").enum:
        try:
            placed[name] = device_of(name)
        except UsageError as error:
            assert error.remedy
            placed[name] = "refused"
    assert placed["ml.g5.2xlarge"] == placed["ml.p5.48xlarge"] == placed["ml.g6e.xlarge"] == "gpu"
    assert placed["ml.m5.large"] == placed["ml.c7i.large"] == "cpu"
    assert {placed[name] for name in ("ml.trn1.2xlarge", "ml.p3.2xlarge", "ml.trn2.48xlarge")} == {"refused"}


@pytest.mark.parametrize(
    "target", ["ml.g5.2xlarge", "sagemaker", "sagemaker:", "ec2:g5.xlarge", "sagemaker:g5.xlarge", ""]
)
def test_another_form_is_refused_with_an_example(target: str) -> None:
    with pytest.raises(UsageError) as caught:
        instance_of(target)
    assert "--on sagemaker:ml.g5.2xlarge" in str(caught.value)


@given(
    ups=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    tail=st.sampled_from(["model", "input", "output", "checkpoints", "docs"]),
)
def test_no_stored_path_meets_a_folder_of_sagemaker(ups: list[int], tail: str) -> None:
    stored = {"../" * up + tail: "" for up in ups}
    run = Path(ROOT) / CHECKPOINTS / run_place(stored)
    for name in stored:
        found = Path(located(name, run, {}))
        assert found.is_relative_to(Path(ROOT) / CHECKPOINTS / "_"), "nothing is there but our own folders"
