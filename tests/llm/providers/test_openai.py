import subprocess
import sys
import threading
import time

import httpx
import pytest

from embedfit.config import GenerateConfig
from embedfit.errors import ProviderError, UsageError
from embedfit.llm.metered import LedgeredModel
from embedfit.llm.opening import Outside, open_model
from embedfit.llm.prices import load_prices
from embedfit.llm.protocol import Failure, Reply
from embedfit.llm.providers.openai import transport as openai
from embedfit.llm.transport.remote import RemoteModel
from embedfit.llm.transport.retry import CallError, RetryPolicy
from embedfit.llm.transport.throttle import Throttle
from embedfit.testing.fake_openai import FakeOpenAi
from embedfit.testing.language_service import Behaviour, Quota

KEY = "sk-test-0123456789"


@pytest.fixture
def connected():
    """A function: service → transport. Clients are closed at the end."""
    clients = []

    def connect(service, *, key="", timeout_s=5.0, model="fake-chat"):
        client, secret = openai.connect(service.base_url, key, timeout_s=timeout_s)
        clients.append(client)
        return openai.OpenAiTransport(client, model, secret=secret)

    yield connect
    for client in clients:
        client.close()


def model_of(transport, **changes):
    retry = changes.pop("retry", RetryPolicy(base_s=0.01, cap_s=0.05))
    return RemoteModel(transport, retry=retry, **changes)


def test_a_call_sends_what_decides_the_reply(connected, ask):
    with FakeOpenAi(key=KEY) as service:
        transport = connected(service, key=KEY)
        request = ask("what is it", system="be brief", temperature=0.3, top_p=0.7, stop=("\n",), seed=5)
        reply = transport.send(request)
        assert reply == Reply(text="WHAT IS IT", input_tokens=5, output_tokens=3, finish="stop")
        assert service.bodies == [
            {
                "model": "fake-chat",
                "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what is it"}],
                "max_tokens": 50,
                "temperature": 0.3,
                "top_p": 0.7,
                "seed": 5,
                "stop": ["\n"],
            }
        ]


def test_a_reply_ends_before_the_stop_string_even_if_the_server_ignores_it(connected, ask):
    with FakeOpenAi(Behaviour(answer=lambda ask: "one\ntwo")) as service:
        assert connected(service).send(ask("x", stop=("\n",))).text == "one"


@pytest.mark.parametrize("fields", [{"max_tokens"}, {"seed", "top_p"}, {"temperature", "stop"}])
def test_a_field_that_the_model_does_not_take_is_left_out_from_then_on(connected, ask, fields):
    with FakeOpenAi(refuses=frozenset(fields)) as service:
        transport = connected(service)
        for _ in range(2):
            assert transport.send(ask("hello", stop=("\n",))).text == "HELLO"
        assert len(service.bodies) == len(fields) + 2
        if "max_tokens" in fields:
            assert service.bodies[-1]["max_completion_tokens"] == 50


def test_length_and_refusal_are_told(connected, ask):
    with FakeOpenAi(Behaviour(fault=lambda number, ask: "refusal" if ask.key == "bomb" else None)) as service:
        transport = connected(service)
        assert transport.send(ask("a" * 50, max_tokens=3)).finish == "length"
        refused = transport.send(ask("bomb"))
        assert (refused.finish, refused.text) == ("refusal", "I can't help.")


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
        ("drop", None, True, True),
        ("late-drop", None, True, True),
        ("timeout", None, True, True),
    ],
)
def test_failures_say_whether_trying_again_helps(connected, ask, fault, status, retryable, maybe_billed):
    with FakeOpenAi(Behaviour(fault=lambda number, ask: fault, timeout_s=2.0)) as service:
        with pytest.raises(CallError) as caught:
            connected(service, timeout_s=0.2).send(ask("x"))
        error = caught.value
        assert (error.status, error.retryable, error.maybe_billed) == (status, retryable, maybe_billed)
        assert error.throttled == (fault in ("requests", "tokens"))


def test_a_server_that_is_not_there(ask):
    client, _ = openai.connect("http://127.0.0.1:9/v1", "")
    with client, pytest.raises(CallError, match="could not be reached") as caught:
        openai.OpenAiTransport(client, "m").send(ask("x"))
    assert caught.value.retryable
    assert not caught.value.maybe_billed


def test_the_wait_that_a_server_asks_for_is_read(connected, ask):
    with FakeOpenAi(Behaviour(fault=lambda number, ask: "requests", retry_after_s=0.25)) as service:
        with pytest.raises(CallError) as caught:
            connected(service).send(ask("x"))
        assert caught.value.retry_after == pytest.approx(0.25)


def test_the_key_is_never_shown(connected, ask, capfd, caplog):
    caplog.set_level("DEBUG")
    with FakeOpenAi(key="another") as service:
        transport = connected(service, key=KEY)
        with pytest.raises(CallError) as caught:
            transport.send(ask("x"))
        assert caught.value.hopeless
        assert "OPENAI_API_KEY" in caught.value.remedy
        texts = [str(caught.value), repr(caught.value), repr(vars(caught.value)), caplog.text, *capfd.readouterr()]
        assert not any(KEY in text for text in texts)


def test_a_hopeless_failure_ends_everything_at_once(connected, ask):
    with FakeOpenAi(Behaviour(fault=lambda number, ask: 403, latency_s=0.01)) as service:
        model = model_of(connected(service), throttle=Throttle(max_concurrency=4))
        with pytest.raises(ProviderError, match="refused access"):
            list(model.complete([ask(str(n)) for n in range(500)]))
        assert len(service.seen) <= 8


def test_one_bad_request_is_one_failure(connected, ask):
    with FakeOpenAi(Behaviour(fault=lambda number, ask: 400 if ask.key == "7" else None)) as service:
        outcomes = dict(model_of(connected(service)).complete([ask(str(n)) for n in range(40)]))
        assert isinstance(outcomes.pop(7), Failure)
        assert {index: reply.text for index, reply in outcomes.items()} == {n: str(n) for n in range(40) if n != 7}


def test_only_bad_requests_end_everything(connected, ask):
    with FakeOpenAi(Behaviour(fault=lambda number, ask: 400)) as service:
        model = model_of(connected(service), throttle=Throttle(max_concurrency=2))
        with pytest.raises(ProviderError, match="400"):
            list(model.complete([ask(str(n)) for n in range(500)]))
        assert len(service.seen) < 30


def test_every_reply_arrives_once_whatever_goes_wrong(connected, ask, ledger):
    faults = ("drop", 500, "malformed", 503, "requests", "late-drop", "tokens", 424, None, None, None)
    behaviour = Behaviour(fault=lambda number, ask: faults[number % len(faults)], latency_s=0.002)
    with FakeOpenAi(behaviour) as service:
        throttle = Throttle(max_concurrency=16, minute=0.5)
        model = model_of(
            connected(service), throttle=throttle, retry=RetryPolicy(base_s=0.005, cap_s=0.02, attempts=50)
        )
        metered = LedgeredModel(model, ledger, load_prices())
        answers = list(metered.complete([ask(f"passage {n}") for n in range(90)]))
        assert sorted((index, reply.text) for index, reply, _ in answers) == [(n, f"PASSAGE {n}") for n in range(90)]
        assert sum(row.calls for row in ledger.totals()) == 90


def test_a_call_that_never_works_is_given_up(connected, ask):
    with FakeOpenAi(Behaviour(fault=lambda number, ask: 503 if ask.key == "3" else None)) as service:
        model = model_of(connected(service), retry=RetryPolicy(base_s=0.001, cap_s=0.002, attempts=4))
        outcomes = dict(model.complete([ask(str(n)) for n in range(6)]))
        assert outcomes[3].retryable
        assert sum(call.key == "3" for call in service.seen) == 4


def test_closing_sends_no_more_and_keeps_what_was_in_flight(connected, ask, ledger):
    with FakeOpenAi(Behaviour(latency_s=0.15)) as service:
        model = model_of(connected(service), throttle=Throttle(max_concurrency=6, start=6))
        answers = LedgeredModel(model, ledger, load_prices()).complete([ask(str(n)) for n in range(60)])
        for _ in range(8):
            next(answers)
        answers.close()
        sent = service.paid()
        assert len(sent) < 30
        kept = {row.request.messages[0].content for row in ledger.rows()}
        assert kept == set(sent)
        time.sleep(0.3)
        assert service.paid() == sent


def test_a_second_run_at_once_pays_for_nothing_twice(connected, ask, tmp_path):
    from embedfit.llm.ledger import Ledger

    requests = [ask(f"passage {n}") for n in range(60)]
    with FakeOpenAi(Behaviour(latency_s=0.05)) as service:

        def run(results):
            with Ledger(tmp_path / "both.sqlite") as own:
                model = model_of(connected(service), throttle=Throttle(max_concurrency=4))
                results += [
                    (index, reply.text)
                    for index, reply, _ in LedgeredModel(model, own, load_prices()).complete(requests)
                ]

        results = ([], [])
        threads = [threading.Thread(target=run, args=(found,)) for found in results]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results[0]) == sorted(results[1]) == [(n, f"PASSAGE {n}") for n in range(60)]
        assert sorted(service.paid()) == sorted(request.messages[0].content for request in requests)


def test_a_real_server_process_of_that_api(ask, ledger, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    command = [sys.executable, "-m", "embedfit.testing.fake_openai", "--latency", "0.01"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        base_url = process.stdout.readline().strip()
        model = open_model(GenerateConfig(generator="openai", base_url=base_url), Outside(ledger=ledger))
        metered = LedgeredModel(model, ledger, load_prices(), max_cost=0.0)  # a server of one's own is free
        assert (model.model, model.provider) == ("fake-chat", "openai@" + base_url.split("/")[2])
        answers = list(metered.complete([ask(f"passage {n}") for n in range(50)]))
        assert sorted((index, reply.text) for index, reply, _ in answers) == [(n, f"PASSAGE {n}") for n in range(50)]
        model.transport.close()
        process.stdin.close()


def test_the_fake_is_understood_by_the_vendors_own_client():
    import openai as vendor

    with FakeOpenAi(key=KEY) as service, vendor.OpenAI(base_url=service.base_url, api_key=KEY, max_retries=0) as client:
        reply = client.chat.completions.create(model="fake-chat", messages=[{"role": "user", "content": "hi"}])
        assert reply.choices[0].message.content == "HI"
        with pytest.raises(vendor.NotFoundError):
            client.chat.completions.create(model="no-such", messages=[{"role": "user", "content": "hi"}])


def test_throttling_loses_and_doubles_nothing(connected, ask, ledger):
    """How close the throttle gets to a quota is measured in test_throttle.py, with a clock that can't be late."""
    with FakeOpenAi(Behaviour(latency_s=0.02, requests=Quota(100, minute=1.0), retry_after_s=0.01)) as service:
        model = model_of(connected(service), throttle=Throttle(minute=1.0, max_concurrency=32))
        answers = list(LedgeredModel(model, ledger, load_prices()).complete([ask(str(n)) for n in range(300)]))
        assert sorted((index, reply.text) for index, reply, _ in answers) == [(n, str(n)) for n in range(300)]
        accepted = [call.key for call in service.seen if call.status == 200]
        assert len(accepted) == len(set(accepted)) == 300
        assert any(call.status == "requests" for call in service.seen)
        assert model.throttle.rate < float("inf")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bucket", "window"])
@pytest.mark.parametrize("resource", ["requests", "tokens"])
def test_quota_in_a_long_form(connected, ask, ledger, kind, resource):
    minute = 10.0
    quota = Quota(600 if resource == "requests" else 600 * 55, minute=minute, kind=kind)
    behaviour = Behaviour(latency_s=0.1, **{resource: quota})
    with FakeOpenAi(behaviour) as service:
        model = model_of(connected(service), throttle=Throttle(minute=minute, max_concurrency=64))
        calls = 3600
        answers = list(LedgeredModel(model, ledger, load_prices()).complete([ask(f"{n:04}") for n in range(calls)]))
        assert sorted((index, reply.text) for index, reply, _ in answers) == [(n, f"{n:04}") for n in range(calls)]
        accepted = [call for call in service.seen if call.status == 200]
        assert len(accepted) == len({call.key for call in accepted}) == calls
        # whole minutes after the first: a window's quota is per minute, so part of one would not be comparable
        first, last = 2, int(accepted[-1].at // minute)
        steady = [call for call in accepted if first * minute <= call.at < last * minute]
        amount = sum(call.tokens for call in steady) if resource == "tokens" else len(steady)
        assert amount / (last - first) / quota.per_minute >= 0.95


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("https://api.openai.com/v1", ("openai", "openai")),
        ("http://localhost:11434/v1", ("openai@localhost:11434", "openai@private")),
        ("http://10.1.2.3:8000/v1", ("openai@10.1.2.3:8000", "openai@private")),
        ("https://user:secret@models.example.com/v1", ("openai@models.example.com", "openai@models.example.com")),
    ],
)
def test_names_of_servers(url, names):
    assert openai.names(url) == names


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(UsageError, match="OPENAI_API_KEY is not set"):
        openai.connect()
    with pytest.raises(UsageError, match="not an address"):
        openai.connect("localhost:8000")
    with pytest.raises(UsageError, match="by http"):
        openai.connect("http://models.example.com/v1", KEY)


def test_the_model_of_a_server_that_has_one_need_not_be_named():
    def client(*names):
        data = {"data": [{"id": name} for name in names]}
        transport = httpx.MockTransport(lambda request: httpx.Response(200, json=data))
        return httpx.Client(base_url="http://localhost:1/v1/", transport=transport)

    with client("only") as one, client("a", "b") as two:
        assert openai.resolve_model(one, None) == "only"
        assert openai.resolve_model(two, "b") == "b"
        with pytest.raises(UsageError, match="several models: a, b"):
            openai.resolve_model(two, None)
    broken = httpx.MockTransport(lambda request: httpx.Response(200, text="<html>"))
    with (
        httpx.Client(base_url="http://localhost:1/v1/", transport=broken) as none,
        pytest.raises(ProviderError, match="could not be asked"),
    ):
        openai.resolve_model(none, None)
