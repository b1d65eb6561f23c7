"""Errors cross processes."""

from __future__ import annotations

import pickle

import pytest

import embedfit.embedders.client
import embedfit.llm.providers.openai.transport  # noqa: F401 - its errors are checked too
from embedfit import errors


def kinds(kind: type[errors.EmbedfitError] = errors.EmbedfitError) -> list[type[errors.EmbedfitError]]:
    return [kind, *(below for sub in kind.__subclasses__() for below in kinds(sub))]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_error_arrives_as_it_was_sent(kind: type[errors.EmbedfitError]) -> None:
    sent = kind.__new__(kind)
    errors.EmbedfitError.__init__(sent, "wrong", remedy="mend")
    sent.extra = {"status": 503}
    arrived = pickle.loads(pickle.dumps(sent))
    assert type(arrived) is kind and arrived.__dict__ == sent.__dict__ and str(arrived) == "wrong\n  mend"


def test_an_error_with_arguments_of_its_own_arrives() -> None:
    sent = errors.MissingDependency("gold", extra="bank", needed_for="Paying")
    assert str(pickle.loads(pickle.dumps(sent))) == str(sent) and sent.args == (
        "Paying needs the package gold, which is not installed.",
    )
