from __future__ import annotations

import pytest

from embedfit.deploy.account.redaction import redact


@pytest.mark.parametrize(
    "text",
    [
        "key AKIAIOSFODNN7EXAMPLE used",
        "temporary ASIAIOSFODNN7EXAMPLE",
        'hf_api_token: Some("hf_abcdefghijklmnopqrst")',
        "HF_TOKEN=SECRET0123456789",
        'api_key: Some("SECRET0123456789")',
        "Authorization: Bearer SECRET0123456789",
        "https://s3/x?X-Amz-Signature=5EC0123456789abcdef",
        "https://s3/x?X-Amz-Credential=SECRET%2F2026&a=1",
        "aws_secret_access_key = SECRET/0123456789",
        '{"aws_session_token": "SECRET0123456789"}',
        "password: SECRET0123",
        "sk-SECRET0123456789abcd",
    ],
)
def test_secrets_are_redacted(text):
    shown = redact(text)
    assert "[redacted]" in shown
    for part in ("SECRET", "IOSFODNN7", "abcdefghijklmnopqrst", "5EC0123456789"):
        assert part not in shown


@pytest.mark.parametrize(
    "text",
    [
        "api_key: None, port: 8080",
        "Could not find model arn:aws:sagemaker:us-east-1:123456789012:model/x",
        "tokens=512",
    ],
)
def test_other_text_is_left_alone(text):
    assert redact(text) == text


def test_twice_is_once():
    assert redact(redact("HF_TOKEN=SECRET0123456789")) == redact("HF_TOKEN=SECRET0123456789")
