"""The commands, against moto by nothing but environment variables, as a user would point them elsewhere."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from embedfit.cli.deploy import app
from embedfit.errors import DeployError, UsageError
from tests.deploy.fake_account import BUCKET, ROLE
from tests.json_forms import printed


@pytest.fixture
def cli(account, monkeypatch, tmp_path):
    """Runs a command; returns what it printed. Errors are raised, as embedfit's main expects."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", account.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)

    def run(*arguments):
        result = CliRunner().invoke(app, ["sagemaker", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


OPTIONS = ("--region", "us-east-1", "--instance-type", "ml.m5.xlarge", "--role", ROLE)


def test_the_whole_life(cli, account, model_folder):
    plan = printed("embedfit deploy sagemaker plan", cli("plan", model_folder, *OPTIONS, "--json"))
    assert plan["schema"] == 1 and plan["steps"][-1]["kind"] == "endpoint"
    applied = cli("apply", model_folder, *OPTIONS, "--max-instances", 2, "--yes", "--json", "--ttl", "8h")
    deployment = printed("embedfit deploy sagemaker apply", applied)
    assert deployment["name"] == plan["name"]
    assert account.everything()["endpoints"] == [plan["name"]]
    (status,) = printed("embedfit deploy sagemaker status", cli("status", model_folder, "--json"))
    assert status["endpoint"] == "InService" and status["usd_per_hour"] == 0.23 and not status["expired"]
    assert all(resource["there"] for resource in status["resources"])
    assert plan["name"] in cli("status", model_folder)
    gone = printed("embedfit deploy sagemaker destroy", cli("destroy", model_folder, "--yes", "--json"))
    assert gone == {"deployments": [plan["name"]]} and account.everything() == {}
    assert "Nothing is recorded" in cli("status", model_folder)


def test_destroy_by_name_and_by_run_without_state(cli, account, model_folder):
    for way in (("--name", None), ("--run-label", "em")):
        name = json.loads(cli("apply", model_folder, *OPTIONS, "--yes", "--json"))["name"]
        (model_folder.parent / "deploy" / "state.json").unlink()
        cli("destroy", way[0], way[1] or name, "--region", "us-east-1", "--yes")
        assert account.everything() == {}


def test_the_plan_for_people(cli, model_folder, tmp_path):
    text = cli("plan", model_folder, *OPTIONS, "--write-policies", tmp_path / "policies")
    assert "$0.23/h, $168/month" in text and "sagemaker.create_endpoint_config" in text and f"s3://{BUCKET}" in text
    names = sorted(path.name for path in (tmp_path / "policies").iterdir())
    assert names == ["deployer.json", "execution.json", "trust.json"]
    assert json.loads((tmp_path / "policies" / "trust.json").read_text())["Version"] == "2012-10-17"


def test_nothing_happens_without_consent(cli, account, model_folder):
    with pytest.raises(DeployError, match="did not agree"):
        cli("apply", model_folder, *OPTIONS)
    assert account.everything() == {}


def test_sweep(cli, account, model_folder):
    cli("apply", model_folder, *OPTIONS, "--yes", "--ttl", "1m")
    gone = printed("embedfit deploy sagemaker sweep", cli("sweep", "--region", "us-east-1", "--yes", "--json"))
    assert gone == {"deployments": []}
    assert account.everything()["endpoints"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "{model}", "--serverless", *OPTIONS), "Serverless"),
        (("plan", "{model}", "--min-instances", 1, *OPTIONS), "--max-instances"),
        (("plan", "{model}", "--tag", "x", *OPTIONS), "KEY=VALUE"),
        (("plan", "{model}", "--ttl", "soon", *OPTIONS), "time to live"),
        (("plan", "{model}", "--max-client-batch", 0, *OPTIONS), "--max-client-batch can.t be 0"),
        (("destroy", "--yes"), "What is to be deleted"),
    ],
)
def test_wrong_usage(cli, model_folder, arguments, message):
    with pytest.raises(UsageError, match=message):
        cli(*(model_folder if argument == "{model}" else argument for argument in arguments))


def test_no_region(cli, model_folder, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="--region"):
        cli("plan", model_folder)


def test_plan_works_without_boto3(cli, model_folder, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "boto3", None)
    plan = json.loads(cli("plan", model_folder, *OPTIONS, "--json"))
    assert plan["account"] is None and plan["findings"][0]["fix"] == "pip install 'embedfit[aws]'"
