import math
from contextlib import closing

import pytest

from embedfit.config import GenerateConfig
from embedfit.errors import ProviderError, UsageError
from embedfit.llm.metered import LedgeredModel
from embedfit.llm.opening import Outside, open_model
from embedfit.llm.prices import load_prices
from embedfit.llm.protocol import Failure, Message, Reply, Request
from embedfit.llm.providers import bedrock
from embedfit.llm.providers.bedrock import BedrockTransport, ResolvedModel, resolve_model
from embedfit.llm.transport.remote import RemoteModel
from embedfit.llm.transport.retry import CallError, RetryPolicy
from embedfit.llm.transport.throttle import Throttle
from embedfit.testing.fake_bedrock import REGION, FakeBedrock, FakeFoundationModel, titan_vector
from embedfit.testing.language_service import Behaviour, Quota
from tests.said import Said

LLAMA = "meta.llama3-3-70b-instruct-v1:0"
LAMA = ResolvedModel(model=LLAMA, invoke_id=f"us.{LLAMA}")
pytestmark = pytest.mark.usefixtures("aws")


@pytest.fixture
def client():
    """A function: service name, fake → real boto3 client."""
    clients = []

    def make(name, service, **config):
        clients.append(bedrock.connect(name, region="us-east-1", endpoint_url=service.url))
        return clients[-1]

    yield make
    for made in clients:
        made.close()


def model_of(transport, **changes):
    return RemoteModel(transport, retry=changes.pop("retry", RetryPolicy(base_s=0.01, cap_s=0.05)), **changes)


# --- which model


def test_the_default_is_the_newest_of_the_family_through_its_profile(client):
    with FakeBedrock() as service:
        assert resolve_model(client("bedrock", service), None) == LAMA


def test_the_default_falls_back_to_what_the_region_has_and_warns(client):
    with FakeBedrock(models=REGION[:1]) as service:
        found = resolve_model(client("bedrock", service), None)
        assert found.invoke_id == "meta.llama3-70b-instruct-v1:0"
        assert "will switch it off on 2027-03-01" in found.notice


def test_a_region_without_the_family_says_what_it_has(client):
    models = [FakeFoundationModel(model="meta.llama4-tiny-instruct-v1:0"), REGION[3]]
    with FakeBedrock(models=models) as service, pytest.raises(UsageError, match="llama4-tiny-instruct") as caught:
        resolve_model(client("bedrock", service), None)
    assert "generate.llm" in caught.value.remedy


@pytest.mark.parametrize(
    ("wanted", "invoke_id"),
    [
        ("meta.llama3-70b-instruct-v1:0", "meta.llama3-70b-instruct-v1:0"),
        ("meta.llama3-1-70b-instruct-v1:0", "us.meta.llama3-1-70b-instruct-v1:0"),
        (f"us.{LLAMA}", f"us.{LLAMA}"),
        (
            f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.{LLAMA}",
            f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.{LLAMA}",
        ),
    ],
)
def test_a_model_is_called_by_the_name_that_works(client, ask, wanted, invoke_id):
    with FakeBedrock() as service:
        found = resolve_model(client("bedrock", service), wanted)
        assert found.invoke_id == invoke_id
        assert found.model in wanted  # the key of its calls does not depend on the way there
        assert BedrockTransport(client("bedrock-runtime", service), found).send(ask("hi")).text == "HI"


@pytest.mark.parametrize("wanted", ["meta.llama2-70b-chat-v1", "us.meta.llama2-70b-chat-v1"])
def test_a_retired_model_is_said_with_what_is_there(client, wanted):
    with FakeBedrock() as service, pytest.raises(UsageError, match="llama3-3-70b-instruct"):
        resolve_model(client("bedrock", service), wanted)


def test_credentials_that_may_invoke_but_not_list_go_on_unchecked(client):
    with FakeBedrock(may_list=False) as service:
        found = resolve_model(client("bedrock", service), None)
        assert (found.model, found.invoke_id) == (LLAMA, f"us.{LLAMA}")
        assert "may not list" in found.notice
        assert resolve_model(client("bedrock", service), "meta.llama3-8b-instruct-v1:0").invoke_id.startswith("meta.")


def test_missing_access_is_said_once_with_the_cure(client, ask):
    models = [FakeFoundationModel(model=LLAMA, on_demand=False, access=False)]
    with FakeBedrock(models=models) as service:
        model = model_of(BedrockTransport(client("bedrock-runtime", service), LAMA), throttle=Throttle(start=2))
        with pytest.raises(ProviderError, match="don't have access") as caught:
            list(model.complete([ask(str(n)) for n in range(300)]))
        assert "Model access" in caught.value.remedy


def test_no_credentials_is_said_with_the_cure(monkeypatch, client):
    with FakeBedrock() as service:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(CallError, match="no usable AWS credentials") as caught:
            resolve_model(client("bedrock", service), None)
        assert "aws configure" in caught.value.remedy


def test_the_region_is_the_settings_or_the_environments_or_asked_for(monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    for region, expected in (("eu-west-1", "eu-west-1"), (None, "us-east-1")):
        with closing(bedrock.connect("bedrock", region=region)) as made:
            assert made.meta.region_name == expected
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(UsageError, match="specify a region") as caught:
        bedrock.connect("bedrock")
    assert "generate.region" in caught.value.remedy


# --- one call


def test_few_shot_turns_and_system_go_where_converse_has_them(client):
    messages = (
        Message(role="system", content="be brief"),
        Message(role="user", content="one"),
        Message(role="assistant", content="ONE"),
        Message(role="user", content="two"),
    )
    heard = []
    with FakeBedrock(Behaviour(answer=lambda ask: heard.append(ask) or "TWO\nmore")) as service:
        request = Request(messages=messages, max_tokens=9, stop=("\n",))
        transport = BedrockTransport(client("bedrock-runtime", service), LAMA)
        assert transport.send(request) == Reply(text="TWO", input_tokens=5, output_tokens=2)
        assert transport.send(request).text == "TWO"
    assert [(ask.system, ask.turns, ask.key, ask.max_tokens) for ask in heard] == [("be brief", 3, "two", 9)] * 2


def test_a_model_without_system_messages_is_told_in_the_first_turn():
    request = Request(
        messages=(Message(role="system", content="be brief"), Message(role="user", content="one")), max_tokens=9
    )
    body = bedrock.converse_input(request, frozenset({"system"}))
    assert body["messages"] == [{"role": "user", "content": [{"text": "be brief"}, {"text": "one"}]}]
    assert "system" not in body


@pytest.mark.parametrize(
    ("fault", "status", "retryable", "maybe_billed"),
    [
        (400, 400, False, False),
        (403, 403, False, False),
        (404, 404, False, False),
        (408, 408, True, True),
        (424, 424, True, False),
        (500, 500, True, False),
        (503, 503, True, False),
        ("requests", 429, True, False),
        ("tokens", 429, True, False),
        ("malformed", None, True, True),
        ("incomplete", None, True, True),
        ("late-drop", None, True, True),
    ],
)
def test_failures_say_whether_trying_again_helps(client, ask, fault, status, retryable, maybe_billed):
    with FakeBedrock(Behaviour(fault=lambda number, ask: fault)) as service:
        with pytest.raises(CallError) as caught:
            BedrockTransport(client("bedrock-runtime", service), LAMA).send(ask("x"))
        error = caught.value
        assert (error.status, error.retryable, error.maybe_billed) == (status, retryable, maybe_billed)
        assert error.throttled == (fault in ("requests", "tokens"))
        assert len(service.seen) == 1  # boto3 does not retry behind our back


def test_the_days_quota_is_not_waited_for():
    response = {
        "Error": {
            "Code": "ThrottlingException",
            "Message": "Too many tokens per day, please wait before trying again.",
        },
        "ResponseMetadata": {"HTTPStatusCode": 429},
    }
    error = bedrock.call_error(response)
    assert (error.retryable, error.hopeless) == (False, True)


def test_a_refusal_is_a_reply(client, ask):
    with FakeBedrock(Behaviour(fault=lambda number, ask: "refusal")) as service:
        reply = BedrockTransport(client("bedrock-runtime", service), LAMA).send(ask("x"))
        assert reply.finish == "refusal"


# --- many calls


def test_from_the_settings_to_replies_and_their_cost(client, ask, ledger):
    with FakeBedrock() as service:
        said = Said()
        generate = GenerateConfig(generator="bedrock", llm="meta.llama3-70b-instruct-v1:0")
        model = open_model(generate, Outside(ledger=ledger, report=said, endpoint_url=service.url))
        metered = LedgeredModel(model, ledger, load_prices(), max_cost=1.0)
        answers = list(metered.complete([ask(f"passage {n}") for n in range(40)]))
        model.transport.close()
        assert sorted((index, reply.text) for index, reply, _ in answers) == [(n, f"PASSAGE {n}") for n in range(40)]
        usage = ledger.usage_of([key for _, _, key in answers])
        assert usage.usd == pytest.approx((usage.input_tokens * 2.65 + usage.output_tokens * 3.5) / 1e6)
        assert said.lines == [f"{generate.llm} is a legacy model: AWS will switch it off on 2027-03-01."]


def test_faults_lose_and_double_nothing(client, ask, ledger):
    faults = ("drop", 503, "malformed", 408, 424, "late-drop", "requests", None, None, None, None)
    behaviour = Behaviour(fault=lambda number, ask: faults[number % len(faults)])
    with FakeBedrock(behaviour) as service:
        model = model_of(
            BedrockTransport(client("bedrock-runtime", service), LAMA),
            throttle=Throttle(max_concurrency=8, minute=0.5),
            retry=RetryPolicy(base_s=0.005, cap_s=0.02, attempts=50),
        )
        metered = LedgeredModel(model, ledger, load_prices(), max_cost=5.0)
        answers = list(metered.complete([ask(f"passage {n}") for n in range(60)]))
        assert sorted((index, reply.text) for index, reply, _ in answers) == [(n, f"PASSAGE {n}") for n in range(60)]
        # whatever a real service would have billed is inside what the budget counts as spent
        billed = metered.price.usd(*(60 * tokens for tokens in (3, 3)))
        assert metered.budget.spent > billed
        assert ledger.spent(metered.run) == pytest.approx(metered.budget.spent)


def test_max_cost_counts_what_time_outs_may_have_cost(client, ask, ledger):
    with FakeBedrock(Behaviour(fault=lambda number, ask: "malformed" if number % 2 else None)) as service:
        model = model_of(BedrockTransport(client("bedrock-runtime", service), LAMA))
        limit = 0.004
        metered = LedgeredModel(model, ledger, load_prices(), max_cost=limit)
        answers = []
        with pytest.raises(Exception, match="were not sent"):
            answers.extend(metered.complete([ask(f"passage {n}") for n in range(200)]))
        worst = max(metered.price.usd(30 + 16 + 64, 50) for _ in service.seen)
        assert limit - 2 * worst < metered.budget.spent <= limit
        assert len(service.paid()) < 200


def test_throttling_loses_and_doubles_nothing(client, ask, ledger):
    """How close the throttle gets to a quota is measured in test_throttle.py, with a clock that can't be late."""
    quota = Quota(40 * 52, minute=1.0)
    with FakeBedrock(Behaviour(latency_s=0.02, tokens=quota)) as service:
        transport = BedrockTransport(client("bedrock-runtime", service), LAMA)
        model = model_of(transport, throttle=Throttle(minute=1.0, max_concurrency=16))
        answers = list(LedgeredModel(model, ledger, load_prices()).complete([ask(f"{n:03}") for n in range(120)]))
        assert sorted((index, reply.text) for index, reply, _ in answers) == [(n, f"{n:03}") for n in range(120)]
        accepted = [call.key for call in service.seen if call.status == 200]
        assert len(accepted) == len(set(accepted)) == 120
        assert any(call.status == "tokens" for call in service.seen)
        assert model.throttle.rate < math.inf


def test_a_bad_request_is_one_failure(client, ask):
    with FakeBedrock() as service:
        model = model_of(BedrockTransport(client("bedrock-runtime", service), LAMA))
        outcomes = dict(model.complete([ask("a"), ask("  "), ask("b")]))
        assert (outcomes[0].text, outcomes[2].text) == ("A", "B")
        assert isinstance(outcomes[1], Failure)
        assert "blank" in outcomes[1].error


def test_titan_vectors_of_the_fake(client):
    import json

    with FakeBedrock() as service:
        runtime = client("bedrock-runtime", service)
        body = {"inputText": "operating income of Lyft", "dimensions": 256, "normalize": True}
        raw = runtime.invoke_model(modelId="amazon.titan-embed-text-v2:0", body=json.dumps(body))
        value = json.loads(raw["body"].read())
        assert len(value["embedding"]) == 256
        assert math.hypot(*value["embedding"]) == pytest.approx(1.0)
        assert value["inputTextTokenCount"] == 6
        close, far = (titan_vector(text, 256) for text in ("Lyft operating income", "a recipe for soup"))
        similar = sum(a * b for a, b in zip(value["embedding"], close, strict=True))
        assert similar > 0.6 > sum(a * b for a, b in zip(value["embedding"], far, strict=True))


REPLY_BLOCKS = {
    "text": ([{"text": "one "}, {"text": "two"}], "one two"),
    "thoughts beside": ([{"reasoningContent": {"reasoningText": {"text": "hm"}}}, {"text": "two"}], "two"),
    "thoughts alone": ([{"reasoningContent": {"reasoningText": {"text": "hm"}}}], "<think>hm"),
    "redacted": ([{"reasoningContent": {"redactedContent": b"x"}}, {"text": "two"}], "two"),
    "tool": ([{"toolUse": {"toolUseId": "1", "name": "answer", "input": {"queries": ["q"]}}}], '{"queries": ["q"]}'),
    "null": ([{"text": None}], ""),
    "none": ([], ""),
}


@pytest.mark.parametrize("kind", REPLY_BLOCKS)
def test_replies_in_blocks(ask, kind):
    blocks, text = REPLY_BLOCKS[kind]
    response = {"output": {"message": {"content": blocks}}, "usage": {"inputTokens": 1, "outputTokens": 1}}
    assert bedrock.converse_reply(response, ask("x")).text == text


def test_further_fields_go_where_the_model_reads_them(ask):
    assert bedrock.converse_input(ask("x", extra='{"a":1}'))["additionalModelRequestFields"] == {"a": 1}
    assert "additionalModelRequestFields" not in bedrock.converse_input(ask("x"))
