from __future__ import annotations

import pytest

from embedfit.errors import UsageError
from embedfit.serving.settings import ServeSettings, from_environment, model_from_environment


def test_defaults_are_teis():
    settings = ServeSettings()
    assert settings.max_concurrent_requests == 512
    assert settings.max_batch_tokens == 16_384
    assert settings.max_client_batch_size == 32
    assert settings.payload_limit == 2_000_000
    assert settings.port == 3000
    assert settings.auto_truncate is True


def test_teis_variables_are_read():
    settings = from_environment(
        {
            "PORT": "8080", "AUTO_TRUNCATE": "false", "MAX_CLIENT_BATCH_SIZE": "64", "PAYLOAD_LIMIT": "6291456",
            "MAX_BATCH_TOKENS": "4096", "API_KEY": "k", "SERVED_MODEL_NAME": "m", "CORS_ALLOW_ORIGIN": "a, b",
            "DEFAULT_PROMPT_NAME": "query", "DTYPE": "float32", "MAX_BATCH_REQUESTS": "8", "JSON_OUTPUT": "true",
            "TOKENIZATION_WORKERS": "3", "MAX_CONCURRENT_REQUESTS": "7",
        }
    )  # fmt: skip
    assert settings == ServeSettings(
        port=8080, auto_truncate=False, max_client_batch_size=64, payload_limit=6_291_456, max_batch_tokens=4096,
        api_key="k", served_model_name="m", cors_allow_origin=("a", "b"), default_prompt_name="query",
        precision="fp32", max_batch_requests=8, json_output=True, tokenization_workers=3, max_concurrent_requests=7,
    )  # fmt: skip


def test_the_machines_hostname_is_not_an_address():
    assert from_environment({"HOSTNAME": "ip-10-0-0-1"}).host == "127.0.0.1"


def test_options_win_over_the_environment():
    settings = from_environment({"PORT": "8080"}, overrides={"port": 9000, "api_key": None})
    assert settings.port == 9000


def test_the_longest_wait_is_read_from_the_environment():
    assert ServeSettings().max_queue_seconds is None
    assert from_environment({"MAX_QUEUE_SECONDS": "0.5"}).max_queue_seconds == 0.5


def test_the_model_comes_from_teis_or_sagemakers_variable():
    assert model_from_environment({"HF_MODEL_ID": "/opt/ml/model"}) == "/opt/ml/model"
    assert model_from_environment({"MODEL_ID": "a", "HF_MODEL_ID": "b"}) == "a"
    assert model_from_environment({}) is None


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"PORT": "x"}, "PORT"),
        ({"AUTO_TRUNCATE": "maybe"}, "AUTO_TRUNCATE"),
        ({"HEADER_TIMEOUT": "soon"}, "HEADER_TIMEOUT"),
        ({"MAX_QUEUE_SECONDS": "0"}, "max-queue-seconds"),
        ({"WRITE_TIMEOUT": "0"}, "write-timeout"),
        ({"BODY_TIMEOUT": "inf"}, "body-timeout"),
        ({"HEADER_TIMEOUT": "nan"}, "header-timeout"),
        ({"MAX_QUEUE_SECONDS": "nan"}, "max-queue-seconds"),
        ({"MAX_QUEUE_SECONDS": "short"}, "MAX_QUEUE_SECONDS"),
        ({"PRECISION": "fp8"}, "fp8"),
        ({"ENGINE": "jet"}, "jet"),
        ({"PORT": "70000"}, "70000"),
        ({"MAX_CLIENT_BATCH_SIZE": "0"}, "max-client-batch-size"),
        ({"MAX_BATCH_REQUESTS": "0"}, "max-batch-requests"),
        ({"DEFAULT_PROMPT": "a", "DEFAULT_PROMPT_NAME": "b"}, "exclude"),
    ],
)
def test_wrong_values_are_named(environment, named):
    with pytest.raises(UsageError, match=named):
        from_environment(environment)


@pytest.mark.parametrize(
    ("environment", "key"),
    [
        ({}, None),
        ({"API_KEY": "", "EMBEDFIT_API_KEY": " "}, None),
        ({"API_KEY": "teis"}, "teis"),
        ({"EMBEDFIT_API_KEY": "ours"}, "ours"),
        ({"EMBEDFIT_API_KEY": "from-a-file\n"}, "from-a-file"),
        ({"EMBEDFIT_API_KEY": "same", "API_KEY": "same"}, "same"),
    ],
)
def test_hostile_the_key_has_our_name_and_teis(environment, key):
    assert from_environment(environment).api_key == key


def test_hostile_two_different_keys_are_refused_without_showing_them():
    environment = {"EMBEDFIT_API_KEY": "first-secret", "API_KEY": "second-secret"}
    with pytest.raises(UsageError, match=r"EMBEDFIT_API_KEY and API_KEY") as caught:
        from_environment(environment)
    assert "secret" not in str(caught.value) + str(caught.value.remedy)
    assert from_environment(environment, overrides={"api_key": "third"}).api_key == "third"


@pytest.mark.parametrize("key", ["two words", "schl\u00fcssel", "a\x00b", "tab\there", ""])
def test_hostile_keys_that_no_header_can_carry_are_refused(key):
    with pytest.raises(UsageError, match="API key") as caught:
        ServeSettings(api_key=key)
    assert not key or key not in str(caught.value)


def test_the_key_is_not_shown():
    assert "secret" not in repr(ServeSettings(api_key="secret"))
