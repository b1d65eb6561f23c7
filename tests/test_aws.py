"""The factory of boto3 clients, and what AWS's errors say."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from embedfit.errors import UsageError
from embedfit.network import aws


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "config"
    config.write_text("[profile work]\nregion = eu-central-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


def test_a_client_is_what_was_asked_for() -> None:
    made = aws.client(
        "sqs", region="eu-west-1", endpoint_url="http://127.0.0.1:1", attempts=3, read_timeout=5, connections=7
    )
    with closing(made):
        config = made.meta.config
        assert (made.meta.region_name, made.meta.endpoint_url) == ("eu-west-1", "http://127.0.0.1:1")
        assert (config.retries["total_max_attempts"], config.read_timeout, config.max_pool_connections) == (3, 5, 7)
        assert "embedfit" in config.user_agent_extra


@pytest.mark.parametrize(
    ("region", "profile", "environment", "expected"),
    [
        ("us-west-2", "work", "us-east-1", "us-west-2"),
        (None, None, "us-east-1", "us-east-1"),
        (None, "work", "", "eu-central-1"),
    ],
)
def test_where_the_region_comes_from(
    monkeypatch: pytest.MonkeyPatch, region: str | None, profile: str | None, environment: str, expected: str
) -> None:
    monkeypatch.setenv("AWS_REGION", environment)
    with closing(aws.client("sqs", session=aws.open_session(region, profile))) as made:
        assert made.meta.region_name == expected


def test_what_is_missing_is_said_with_the_cure() -> None:
    with pytest.raises(UsageError, match="specify a region") as caught:
        aws.client("sqs")
    assert "AWS_REGION" in (caught.value.remedy or "")
    with pytest.raises(UsageError, match="nobody") as caught:
        aws.open_session(profile="nobody")
    assert "aws configure" in (caught.value.remedy or "")


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "it said"}}, "Call")


@pytest.mark.parametrize(
    ("error", "code", "remedy"),
    [
        (refused("ExpiredToken"), "ExpiredToken", "aws sso login"),
        (refused("ThrottlingException"), "ThrottlingException", "Wait a minute"),
        (NoCredentialsError(), "NoCredentialsError", "aws configure sso"),
        (EndpointConnectionError(endpoint_url="https://x"), "EndpointConnectionError", "the network"),
        (refused("ValidationException"), "ValidationException", None),
    ],
)
def test_what_to_do_about_an_error(error: Exception, code: str, remedy: str | None) -> None:
    assert aws.error_code(error) == code
    said = aws.remedy_of(error)
    assert (said is None) if remedy is None else remedy in (said or "")
