import pytest

from embedfit.llm.ledger import Ledger
from embedfit.llm.protocol import Message, Request


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


@pytest.fixture
def aws(monkeypatch, tmp_path):
    """Credentials of nobody, and no way to find anybody's."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)


@pytest.fixture
def ask():
    """A request that says `text` to the model."""

    def make(text, **changes):
        system = changes.pop("system", None)
        turns = (Message(role="user", content=text),)
        if system is not None:
            turns = (Message(role="system", content=system), *turns)
        return Request(messages=turns, max_tokens=changes.pop("max_tokens", 50), **changes)

    return make
