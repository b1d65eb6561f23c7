"""generate against a server whose replies are odd: what is usable is used, and what is not stops the run early."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from embedfit.config import Config, resolve
from embedfit.errors import GeneratorError, UsageError
from embedfit.llm.ledger import Ledger
from embedfit.llm.metered import OVER_BUDGET, LedgeredModel
from embedfit.llm.prices import Price, Prices
from embedfit.llm.probing import FIRST, FIRST_OF_LIMIT, LIMITS, SAME
from embedfit.llm.providers.openai import transport as openai
from embedfit.llm.transport.remote import RemoteModel
from embedfit.llm.transport.retry import RetryPolicy
from embedfit.llm.transport.throttle import Throttle
from embedfit.path.artefacts import Passage, Query
from embedfit.queries.ask import ask
from embedfit.queries.plan import plan
from embedfit.queries.prompts import EXAMPLES
from embedfit.runtime import Runtime
from embedfit.testing.fake_openai import FakeOpenAi
from embedfit.testing.language_service import Ask, Behaviour
from tests.said import Said

PASSAGES = [
    Passage(passage_id=f"p{n}", document_id=f"d{n // 4}", title=f"Part {n}", text=f"Chapter {n} explains part {n}x.",
            split="train" if n < 40 else "dev" if n < 70 else "test")
    for n in range(100)
]  # fmt: skip
THOUGHTS = (
    "Okay, the user wants search queries for a passage.\n1. The passage is about a chapter\n- It explains a part\n"
    'Output format is [{"style": ..., "query": ...}] and nothing else\n'
)


def answer(ask: Ask) -> str:
    styles = [line[2:].split(":")[0] for line in ask.key.splitlines() if line.startswith("- ")]
    number = ask.key.split("Chapter ")[1].split()[0]
    return json.dumps([{"style": style, "query": f"what part {number} says as {style}"} for style in styles])


def config(**settings: Any) -> Config:
    return resolve(overrides={"docs": ["x"], "generate": {"generator": "openai", "queries_per_passage": 4, **settings}})


PLANNED = plan(PASSAGES, config().generate, seed=13)
CALLS = 40 + 60  # two queries of a dev or test passage are of two styles, so one reply holds them


class Server:
    """A fake server, and how to ask it for every query of PASSAGES."""

    def __init__(self, service: FakeOpenAi, folder: Path) -> None:
        self.service, self.folder = service, folder
        self.said = Said()

    @property
    def lines(self) -> list[str]:
        return self.said.lines

    def ask(
        self,
        *,
        passages: list[Passage] = PASSAGES,
        concurrency: int = 8,
        max_cost: float | None = None,
        **settings: Any,
    ) -> list[Query]:
        client, _ = openai.connect(self.service.base_url, "")
        prices = Prices((Price(provider="openai@private", model="*", input=1.0, output=1.0),))
        with client, Ledger(self.folder / "ledger.sqlite") as ledger:
            remote = RemoteModel(
                openai.OpenAiTransport(client, "fake-chat", secret="sk-secret-1234"),
                throttle=Throttle(max_concurrency=concurrency, minute=0.5),
                retry=RetryPolicy(base_s=0.01, cap_s=0.1, first_patience_s=0.5),
                report=self.said,
            )
            model = LedgeredModel(remote, ledger, prices, max_cost, run="r")
            runtime = Runtime(report=self.said, confirm=lambda question: True)
            planned = PLANNED if passages is PASSAGES else plan(passages, config().generate, seed=13)
            return ask(model, passages, planned, config(**settings).generate, runtime)

    @property
    def calls(self) -> int:
        return len(self.service.bodies)


@contextmanager
def served(
    folder: Path, dress: Callable[[dict[str, Any]], Any], reply: Callable[[Ask], str] = answer
) -> Iterator[Server]:
    with FakeOpenAi(Behaviour(answer=reply), dress=dress) as service:
        yield Server(service, folder)


def message(change: Callable[[dict[str, Any], str], Any], finish: str | None = None) -> Callable[[dict[str, Any]], Any]:
    """A dress that changes the message, given its text."""

    def dress(completion: dict[str, Any]) -> Any:
        choice = completion["choices"][0]
        choice["message"] = change(choice["message"], choice["message"]["content"])
        choice["finish_reason"] = finish or choice["finish_reason"]
        return completion

    return dress


def text_in(completion: dict[str, Any]) -> str:
    return str(completion["choices"][0]["message"]["content"])


def halves(text: str) -> list[str]:
    return [text[:9], text[9:]]


def stream(text: str) -> bytes:
    """Server-sent events, as of a call with stream=true."""
    deltas = [{"role": "assistant"}, {"reasoning_content": THOUGHTS}, *({"content": part} for part in halves(text))]
    events = [json.dumps({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas]
    return "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode()


def content(change: Callable[[str], Any], finish: str | None = None) -> Callable[[dict[str, Any]], Any]:
    return message(lambda message, text: {**message, "content": change(text)}, finish)


def rows(text: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(text)
    return found


USABLE = {
    "plain": content(lambda text: text),
    "fence": content(lambda text: f"Here you go:\n```json\n{text}\n```"),
    "bare fence": content(lambda text: f"```json\n{text}\n```"),
    "thoughts": content(lambda text: f"<think>\n{THOUGHTS}</think>\n\n{text}"),
    "thoughts that began in the template": content(lambda text: f"{THOUGHTS}</think>\n\n{text}"),
    "wrapped": content(lambda text: json.dumps({"queries": rows(text)})),
    "object": content(lambda text: json.dumps({row["style"]: row["query"] for row in rows(text)}, indent=1)),
    "JSON lines": content(lambda text: "\n".join(json.dumps(row) for row in rows(text))),
    "trailing comma": content(lambda text: f"{text[:-1]},]"),
    "citation": content(lambda text: f"Queries for the passage [see above]:\n\n{text}"),
    "parts": content(lambda text: [{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHTS}]},
                                   {"type": "text", "text": text[:9]}, {"type": "output_text", "text": text[9:]}]),
    "reasoning beside": message(lambda said, text: {**said, "reasoning_content": THOUGHTS}),
    "tool call": message(lambda said, text: {"role": "assistant", "content": None, "tool_calls": [
        {"type": "function", "function": {"name": "answer", "arguments": json.dumps({"queries": rows(text)})}}]}),
    "legacy text": lambda completion: {**completion, "choices": [
        {"text": completion["choices"][0]["message"]["content"], "finish_reason": "stop"}]},
    "content as JSON": content(lambda text: {"queries": rows(text)}),
    "content as rows": content(rows),
    "parsed content": message(lambda said, text: {"content": None, "parsed": {"queries": rows(text)}}),
    "stream": lambda completion: stream(text_in(completion)),
    "stream with signs of life": lambda completion: b": waiting\n\n" + stream(text_in(completion)),
    "stream of Ollama": lambda completion: b"\n".join(
        json.dumps({"message": {"content": part}, "done": False}).encode() for part in halves(text_in(completion))),
    "Ollama": lambda completion: {"message": {"role": "assistant", "content": text_in(completion)}, "done": True},
    "Anthropic": lambda completion: {"type": "message", "role": "assistant", "stop_reason": "end_turn", "content": [
        {"type": "thinking", "thinking": THOUGHTS}, {"type": "text", "text": text_in(completion)}]},
    "Gemini": lambda completion: {"candidates": [{"finishReason": "STOP", "content": {"role": "model", "parts": [
        {"text": THOUGHTS, "thought": True}, {"text": text_in(completion)}]}}]},
    "response": lambda completion: {"object": "response", "output": [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": THOUGHTS}]},
        {"type": "message", "content": [{"type": "output_text", "text": text_in(completion)}]}]},
    "delta": lambda completion: {"choices": [{"delta": completion["choices"][0]["message"], "finish_reason": "stop"}]},
    "wrapped body": lambda completion: {"data": completion},
    "body in an array": lambda completion: [completion],
    "error of null": lambda completion: {**completion, "error": None},
    "no usage": lambda completion: {**completion, "usage": None},
    "usage of words": lambda completion: {**completion, "usage": {"prompt_tokens": "many", "completion_tokens": -1}},
}  # fmt: skip


@pytest.mark.parametrize("kind", USABLE)
def test_replies_in_any_dress_give_every_query(tmp_path: Path, kind: str) -> None:
    with served(tmp_path, USABLE[kind]) as server:
        queries = server.ask(passages=PASSAGES[36:44])
        assert server.calls == 8 and {query.split for query in queries} == {"train", "dev"}
    for query in queries:
        assert query.text == f"what part {query.passage_id[1:]} says as {query.style}" and query.kept


def test_replies_that_are_cut_give_their_whole_items(tmp_path: Path) -> None:
    with served(tmp_path / "most", content(lambda text: text[:-25], finish="length")) as server:
        queries = server.ask()
        assert server.calls == CALLS and sum(not query.kept for query in queries) == CALLS, "the last of each reply"
        assert {query.text.split(" as ")[0] for query in queries if query.kept} == {
            f"what part {n} says" for n in range(100)
        }
    with served(tmp_path, content(lambda text: text[: len(text) // 2 - 10], finish="length")) as server:
        with pytest.raises(GeneratorError, match=r"dev and test replies hold no query.*cut off by the limit"):
            server.ask()  # of two styles nothing is left
        assert server.calls == len(LIMITS) * FIRST_OF_LIMIT <= FIRST


class Thinker(FakeOpenAi):
    """Answers after so many tokens of thoughts, where the limit allows it."""

    def __init__(self, needed: int) -> None:
        super().__init__(Behaviour(answer=lambda ask: f"{ask.max_tokens} {answer(ask)}"), dress=self._think)
        self._needed = needed

    def _think(self, completion: dict[str, Any]) -> Any:
        choice = completion["choices"][0]
        limit, _, text = choice["message"]["content"].partition(" ")
        if int(limit) < self._needed:
            choice["message"] = {"role": "assistant", "content": None, "reasoning_content": THOUGHTS}
            choice["finish_reason"] = "length"
            completion["usage"]["completion_tokens"] = int(limit)
        else:
            choice["message"]["content"] = f"<think>{THOUGHTS}</think>{text}"
        return completion


def test_replies_of_a_thinking_model_get_a_higher_limit_and_nothing_is_paid_twice(tmp_path: Path) -> None:
    with Thinker(needed=1000) as service:
        server = Server(service, tmp_path)
        assert all(query.kept for query in server.ask())
        limits = [body["max_tokens"] for body in service.bodies]
        assert len(limits) == FIRST_OF_LIMIT + CALLS and limits.count(LIMITS[1]) == CALLS
        assert any("asking again, with up to 2,048 tokens" in line for line in server.lines)
        server.ask()
        assert server.calls == len(limits), "the second time the ledger answers, also the replies that were of no use"
        server.ask(max_reply_tokens=4096)
        assert server.calls == len(limits), "another limit asks for nothing that was whole under a lower one"


def test_replies_of_a_model_that_thinks_without_end_stop_the_run_after_two_dozen(tmp_path: Path) -> None:
    with Thinker(needed=10**6) as service:
        server = Server(service, tmp_path)
        with pytest.raises(GeneratorError, match="thoughts took the whole limit of tokens") as caught:
            server.ask(concurrency=64)
        assert server.calls == len(LIMITS) * FIRST_OF_LIMIT <= FIRST
        assert "--set generate.max_reply_tokens=32768" in str(caught.value) and "enable_thinking" in str(caught.value)
        assert "more documents" not in str(caught.value)


def test_replies_of_a_thinking_model_stay_under_max_cost(tmp_path: Path) -> None:
    with Thinker(needed=1000) as service:
        server = Server(service, tmp_path)
        reasons = {query.reason for query in server.ask(max_cost=0.02)}
        assert reasons == {"", OVER_BUDGET}
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            assert 0.01 < ledger.spent("r") <= 0.02


USELESS = {
    "null": (content(lambda text: None), "it was empty", "--set generate.llm"),
    "thoughts alone": (content(lambda text: f"<think>{THOUGHTS}{text}</think>"), "nothing but thoughts",
                       "thinking off"),
    "refusal field": (
        message(lambda said, text: {"role": "assistant", "content": None, "refusal": "I can't do that."}),
        "the model refused. One reply: \"I can't do that.\"", "generate.domain"),
    "filtered": (content(lambda text: "", finish="content_filter"), "the model refused", "--set generate.llm"),
    "prose": (content(lambda text: "I'm sorry, but I can't help.\n\x1b[2JReally."), "not in the form", "generate.llm"),
}  # fmt: skip


@pytest.mark.parametrize("kind", USELESS)
def test_replies_of_no_use_stop_the_run_after_two_dozen(tmp_path: Path, kind: str) -> None:
    dress, reason, remedy = USELESS[kind]
    with served(tmp_path, dress) as server:
        for _ in range(2):
            with pytest.raises(GeneratorError) as caught:
                server.ask(concurrency=64)
            assert reason in str(caught.value) and remedy in str(caught.value)
            assert "more documents" not in str(caught.value) and "\x1b" not in str(caught.value)
            assert server.calls == FIRST, "no call is sent before the first have been read, nor on the second try"
        server.service._dress = None
        assert all(query.kept for query in server.ask(temperature=0.5)), "another setting asks anew"


def turned(change: Callable[[int, dict[str, str]], str]) -> Callable[[dict[str, Any]], Any]:
    """A dress that changes every query, given how many replies there were before."""
    replies = itertools.count()

    def dress(text: str) -> str:
        number = next(replies)
        return json.dumps([{**row, "query": change(number, row)} for row in rows(text)])

    return content(dress)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda n, row: EXAMPLES[n % 2].queries[row["style"]], "repeats an example of the prompt"),
        (lambda n, row: f"what does the passage say about part {n}", "talks about the text"),
        (
            lambda n, row: f"warum lässt sich die Maschine {n} morgens nicht einschalten",
            "another language",
        ),
        (lambda n, row: f"the same {row['style']} again", SAME),
    ],
)
def test_replies_whose_queries_would_all_be_dropped_stop_the_run_too(
    tmp_path: Path, change: Callable[[int, dict[str, str]], str], reason: str
) -> None:
    with served(tmp_path, turned(change)) as server:
        with pytest.raises(GeneratorError, match=rf"replies hold no query of use.*{reason}") as caught:
            server.ask(concurrency=64, language="English")
        assert server.calls == FIRST and "--set generate.llm=NAME" in str(caught.value)


def test_replies_of_which_some_are_of_use_are_all_bought(tmp_path: Path) -> None:
    with served(tmp_path, turned(lambda n, row: "what the passage says" if n % 5 else row["query"])) as server:
        server.ask(concurrency=1)
        assert server.calls == CALLS


def test_replies_of_one_kind_that_are_all_useless_stop_the_run_too(tmp_path: Path) -> None:
    def unreadable(text: str) -> str:
        return text if len(rows(text)) > 2 else "It is about a chapter.\nIt has parts."

    with served(tmp_path, content(unreadable)) as server:
        with pytest.raises(GeneratorError, match="first 12 dev and test replies hold no query"):
            server.ask()
        assert server.calls == FIRST


# --- errors in place of replies


def said(error: object) -> Callable[[dict[str, Any]], Any]:
    return lambda completion: {"error": error}


FAULTS = {
    "rate limit of the day": (said({"message": "Rate limit exceeded: free-models-per-day", "code": 429}),
                              "free-models-per-day", 8),
    "rate limit": (said({"message": "Rate limit exceeded", "code": 429}), "Rate limit exceeded", 40),
    "rate limit in words": (said("Too many requests, slow down"), "Too many requests, slow down", 40),
    "rate limit for long": (said({"message": "Rate limit: try again in 30 minutes"}), "try again in 30 minutes", 8),
    "key": (said({"message": "Invalid API key sk-secret-1234", "code": "invalid_api_key"}),
            r"Invalid API key \*\*\*", 8),
    "model": (said({"message": "The model `m` does not exist"}), "does not exist", 8),
    "credit": (said({"message": "Insufficient credits", "code": 402}), "Insufficient credits", 8),
    "request": (said({"message": "Invalid value for top_p", "type": "invalid_request_error"}), "Invalid value", 16),
    "overload": (said({"message": "The engine is overloaded", "code": 503}), "engine is overloaded", 72),
    "error of a choice": (lambda completion: {"choices": [{"message": {"content": ""}, "finish_reason": "error",
                                                          "error": {"message": "Upstream gone", "code": 502}}]},
                          "Upstream gone", 72),
    "vLLM": (lambda completion: {"object": "error", "message": "The model `m` does not exist.", "code": 404},
             "does not exist", 8),
    "detail": (lambda completion: {"detail": "Not authenticated"}, "Not authenticated", 8),
    "error of a choice without a message": (
        lambda completion: {"choices": [{"error": {"message": "Upstream gone", "code": 502}}]}, "Upstream gone", 72),
    "error in a stream": (lambda completion: b'data: {"error": {"message": "No such model", "code": 404}}\n\n',
                          "No such model", 8),
    "code beside the text": (lambda completion: {"base_resp": {"status_code": 1004, "status_msg": "login fail: no key"},
                                                 "choices": None}, "login fail: no key", 8),
    "balance": (lambda completion: {"code": 1113, "msg": "余额不足，请充值"}, "余额不足", 8),
    "no body": (lambda completion: b"", "answered with nothing", 72),
    "web page": (lambda completion: b"<html><title>Sign in to the portal</title><body>x</body></html>",
                 "Sign in to the portal", 72),
    "cut body": (lambda completion: json.dumps(completion).encode()[:40], "not JSON", 72),
    "no choices": (lambda completion: {**completion, "choices": []}, "not a chat completion", 72),
    "null choices": (lambda completion: {**completion, "choices": None}, "not a chat completion", 72),
    "other JSON": (lambda completion: ["nothing"], "not a chat completion", 72),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_replies_that_are_errors_are_shown_and_tried_again_only_where_that_helps(tmp_path: Path, kind: str) -> None:
    dress, text, most = FAULTS[kind]
    with served(tmp_path, dress) as server:
        with pytest.raises(GeneratorError, match=text) as caught:
            server.ask()
        assert server.calls <= most
    assert "sk-secret" not in str(caught.value) + "".join(server.lines)
    assert str(caught.value).count(text) <= 1


def test_replies_that_ask_to_wait_are_waited_for(tmp_path: Path) -> None:
    refused = [0]

    def at_first(completion: dict[str, Any]) -> Any:
        refused[0] += 1
        if refused[0] > 5:
            return completion
        metadata = {"headers": {"Retry-After": "0.05"}}
        return {"error": {"message": "Rate limit exceeded", "code": 429, "metadata": metadata}}

    with served(tmp_path, at_first) as server:
        assert all(query.kept for query in server.ask())
        assert server.calls == CALLS + 5
        assert sum("Rate limit exceeded" in line for line in server.lines) == 1


# --- further fields


def test_replies_to_further_fields_are_other_calls(tmp_path: Path) -> None:
    fields = {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"}
    with served(tmp_path, lambda completion: completion) as server:
        server.ask()
        server.ask(extra_body=fields)
        assert server.calls == 2 * CALLS
        assert (
            server.service.bodies[-1].items() >= fields.items() and "reasoning_effort" not in server.service.bodies[0]
        )
        server.ask(extra_body=dict(reversed(fields.items())))
        assert server.calls == 2 * CALLS
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            assert [json.loads(row.request.extra) for row in ledger.rows(limit=1)] == [fields]


@pytest.mark.parametrize("fields", ["{stream=true}", "{messages=[]}", "{max_tokens=5}", "{day=2026-01-01}", "{x=nan}"])
def test_fields_that_have_a_setting_or_are_no_json_are_refused(fields: str) -> None:
    with pytest.raises(UsageError, match=r"generate\.extra_body"):
        resolve(assignments=(f"generate.extra_body={fields}",))
