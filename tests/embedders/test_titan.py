import io
import json
import threading

import numpy as np
import pytest
from botocore.exceptions import ClientError
from filelock import FileLock
from numpy.testing import assert_allclose

from embedfit.embedders.registry import Opening
from embedfit.embedders.titan import MODEL_ID, Titan, TitanTransport, request_of
from embedfit.errors import BudgetExceeded, EmbedfitError, ProviderError, UsageError
from embedfit.llm.ledger import Ledger, call_id
from embedfit.llm.providers.bedrock import connect
from embedfit.llm.transport.retry import RetryPolicy
from embedfit.runtime import Runtime
from embedfit.testing.fake_bedrock import FakeBedrock as Bedrock
from embedfit.testing.fake_bedrock import titan_vector
from embedfit.testing.language_service import Behaviour

STATUSES = {"AccessDeniedException": 403, "ValidationException": 400, "ModelErrorException": 424}


def boto_error(code):
    reply = {"Error": {"Code": code, "Message": "it said"}, "ResponseMetadata": {"HTTPStatusCode": STATUSES[code]}}
    return ClientError(reply, "InvokeModel")


class FakeBedrock:
    """InvokeModel of Titan V2: a vector from the text's letters, ten tokens a text.

    fail: text → error code. spoil: changes the reply.
    """

    def __init__(self, fail=None, spoil=lambda reply: reply):
        self.bodies = []
        self.fail = fail or {}
        self.spoil = spoil
        self.closed = 0
        self._lock = threading.Lock()

    def close(self):
        self.closed += 1

    def invoke_model(self, *, modelId, body, contentType, accept):
        assert (modelId, contentType, accept) == (MODEL_ID, "application/json", "application/json")
        value = json.loads(body)
        with self._lock:
            self.bodies.append(value)
        code = self.fail.get(value["inputText"])
        if code:
            raise boto_error(code)
        vector = np.zeros(value["dimensions"])
        for letter in value["inputText"].encode():
            vector[letter % len(vector)] += 1
        if value["normalize"]:
            vector /= np.linalg.norm(vector)
        reply = {"embedding": vector.tolist(), "inputTextTokenCount": 10}
        return {"body": io.BytesIO(json.dumps(self.spoil(reply)).encode())}


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def titan(client, ledger, width=256, **options):
    policy = options.pop("policy", RetryPolicy(base_s=0.0))
    spending = {name: options.pop(name) for name in ("max_cost", "run") if name in options}
    outside = {name: options.pop(name) for name in ("confirm", "report") if name in options}
    runtime = Runtime(**{"confirm": lambda question: True, **outside})
    made = Titan(width, client, ledger, Opening(runtime=runtime, **spending), **options)
    made._model.model.retry = policy
    return made


def test_vectors_are_those_of_bedrock(ledger):
    client = FakeBedrock()
    vectors = titan(client, ledger).embed(["abc", "xyz", "abc"], is_query=False)
    assert vectors.shape == (3, 256)
    assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert_allclose(vectors[0], vectors[2])
    assert vectors[0] @ vectors[1] == 0
    assert sorted(body["inputText"] for body in client.bodies) == ["abc", "xyz"]
    assert all(body["dimensions"] == 256 and body["normalize"] for body in client.bodies)


def test_what_was_paid_for_is_never_asked_again_and_still_counted(ledger):
    first = titan(FakeBedrock(), ledger)
    vectors = first.embed(["abc", "xyz"], is_query=False)
    client = FakeBedrock()
    again = titan(client, ledger)
    assert_allclose(again.embed(["xyz", "abc"], is_query=False), vectors[::-1])
    assert client.bodies == []
    assert again.usage == first.usage
    assert (again.usage.calls, again.usage.input_tokens) == (2, 20)
    assert again.usage.usd == pytest.approx(20 * 0.02 / 1e6)


def test_a_call_is_named_as_in_every_ledger_so_far():
    """Another name would pay for every vector again."""
    name = call_id(TitanTransport.provider, TitanTransport.model, request_of("abc", 256))
    assert name == "339395558d778e8ef8a2dd97fe78725e"


def test_widths_are_calls_of_their_own(ledger):
    titan(FakeBedrock(), ledger, 256).embed(["abc"], is_query=False)
    client = FakeBedrock()
    assert titan(client, ledger, 512).embed(["abc"], is_query=False).shape == (1, 512)
    assert len(client.bodies) == 1


def test_names_tell_widths_apart(ledger):
    names = [titan(FakeBedrock(), ledger, width).name for width in (1024, 512)]
    assert names == ["titan-v2", "titan-v2:512"]


def test_an_instruction_goes_before_queries_only(ledger):
    client = FakeBedrock()
    embedder = titan(client, ledger, instruction="find: ")
    embedder.embed(["abc"], is_query=True)
    embedder.embed(["abc"], is_query=False)
    assert [body["inputText"] for body in client.bodies] == ["find: abc", "abc"]


def test_a_failed_text_is_named_and_the_others_are_kept(ledger):
    client = FakeBedrock(fail={"bad": "ValidationException"})
    with pytest.raises(ProviderError, match=r"text \d of 3: Bedrock answered 400 ValidationException: it said"):
        titan(client, ledger).embed(["one", "bad", "two"], is_query=False)
    retry = FakeBedrock()
    titan(retry, ledger).embed(["one", "bad", "two"], is_query=False)
    assert "bad" in [body["inputText"] for body in retry.bodies]
    assert ledger.usage_of([row.call_id for row in ledger.rows()]).calls == 3


def test_no_access_says_what_to_do(ledger):
    client = FakeBedrock(fail={"a": "AccessDeniedException"})
    with pytest.raises(ProviderError, match="open Model access"):
        titan(client, ledger).embed(["a"], is_query=False)


def test_a_passing_failure_is_tried_again_and_then_named(ledger):
    client = FakeBedrock(fail={"a": "ModelErrorException"})
    with pytest.raises(ProviderError, match="424 ModelErrorException") as kept:
        titan(client, ledger).embed(["a"], is_query=False)
    assert len(client.bodies) == RetryPolicy().attempts
    assert kept.value.__traceback__  # whoever keeps the error keeps no other run from paying
    with FileLock(f"{ledger.path}.paying", timeout=0):
        pass


@pytest.mark.parametrize(
    "spoil",
    [lambda reply: {**reply, "embedding": [1.0]}, lambda reply: {}, lambda reply: []],
    ids=["width", "no", "list"],
)
def test_a_reply_without_the_vector_is_named_and_counted_as_spent(ledger, spoil):
    embedder = titan(FakeBedrock(spoil=spoil), ledger, run="em", policy=RetryPolicy(attempts=1))
    with pytest.raises(ProviderError, match=r"vector|numbers instead of 256"):
        embedder.embed(["abc"], is_query=False)
    assert ledger.spent("em") > 0


def test_throttling_and_lost_connections_are_waited_out_by_a_real_client(ledger, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    faults = {1: "requests", 3: 503, 4: "malformed"}
    behaviour = Behaviour(fault=lambda number, ask: faults.get(number))
    with Bedrock(behaviour) as service:
        client = connect("bedrock-runtime", region="us-east-1", endpoint_url=service.url)
        embedder = titan(client, ledger)
        texts = [f"text {number}" for number in range(8)]
        vectors = embedder.embed(texts, is_query=False)
        embedder.release()
    assert_allclose(vectors, [titan_vector(text, 256) for text in texts], atol=1e-6)
    assert embedder.usage.calls == len(texts)


def test_the_budget_is_kept(ledger):
    client = FakeBedrock()
    with pytest.raises(BudgetExceeded):
        titan(client, ledger, max_cost=0.0).embed(["abc"], is_query=False)
    assert client.bodies == []


def test_long_texts_are_cut_to_what_titan_takes(ledger):
    client = FakeBedrock()
    titan(client, ledger).embed(["a" * 60_000], is_query=False)
    assert len(client.bodies[0]["inputText"]) == 50_000


def test_nothing_is_spent_without_consent(ledger):
    client = FakeBedrock()
    with pytest.raises(UsageError, match="not confirmed"):
        titan(client, ledger, confirm=lambda question: False).embed(["abc"], is_query=False)
    assert client.bodies == []


def test_consent_is_asked_once_and_only_for_what_costs(ledger):
    questions = []

    def confirm(question):
        questions.append(question)
        return True

    embedder = titan(FakeBedrock(), ledger, confirm=confirm)
    embedder.embed(["abc"], is_query=False)
    embedder.embed(["def"], is_query=True)
    assert len(questions) == 1
    assert "titan-v2:256" in questions[0] and "$" in questions[0]
    titan(FakeBedrock(), ledger, confirm=confirm).embed(["abc"], is_query=False)
    assert len(questions) == 1


def test_money_is_booked_under_the_run(ledger):
    titan(FakeBedrock(), ledger, run="runs/em").embed(["abc"], is_query=False)
    assert ledger.spent("runs/em") == pytest.approx(10 * 0.02 / 1e6)


def test_connections_are_closed_and_a_ledger_only_by_who_opened_it(tmp_path, ledger):
    client = FakeBedrock()
    embedder = titan(client, ledger)
    embedder.embed(["abc"], is_query=False)
    embedder.release()
    assert client.closed == 1
    assert embedder.usage.calls == 1
    embedder.close()
    assert ledger.spent("") >= 0  # still open: it was given
    own = Ledger(tmp_path / "own.sqlite")
    titan(FakeBedrock(), own, owns_ledger=True).close()
    with pytest.raises(EmbedfitError, match="closed"):
        own.spent("")
