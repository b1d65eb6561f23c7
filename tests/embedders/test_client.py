"""The client against a scripted server: splitting, tries, prompts, refusals, with and without an event loop."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.embedders.client import Patience, ServerEmbedder, ServerInfo, split
from embedfit.embedders.tei import WIRE
from embedfit.llm.transport.retry import RETRYABLE_STATUSES, CallError


def body_size(texts):
    return len(json.dumps({"inputs": texts, "truncate": True, "prompt_name": "query"}, ensure_ascii=False).encode())


@given(
    texts=st.lists(st.text(max_size=40), max_size=60),
    rows=st.integers(1, 10),
    body_bytes=st.integers(600, 1200),
)
def test_every_part_fits_and_nothing_is_lost(texts, rows, body_bytes):
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    parts = split(texts, ServerInfo(rows=rows, body_bytes=body_bytes))
    assert [index for part in parts for index in part] == list(range(len(texts)))
    for part in parts:
        assert 1 <= len(part) <= rows
        assert body_size(texts[part.start : part.stop]) <= body_bytes


def test_a_text_that_fits_nowhere_is_named():
    with pytest.raises(CallError, match=r"Text 1 has 1,002 bytes; the server takes 1,000"):
        split(["a", "b" * 1000], ServerInfo(rows=32, body_bytes=1000))


@dataclass
class Script:
    """A server in this process, with the forms of TEI.

    failures: raised one after the other before requests succeed. tells: whether it lists its prompts, as embedfit
    does. takes_none: whether the prompt "" is taken; TEI refuses it.
    """

    rows: int = 4
    told_rows: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    tells: bool = True
    takes_none: bool = True
    default_prompt: str = ""
    refusal: int = 422
    failures: list[CallError] = field(default_factory=list)
    bodies: list[dict] = field(default_factory=list)
    answered: list[dict] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def info(self):
        limits = {"max_client_batch_size": self.told_rows or self.rows, "payload_limit": 10_000}
        told = {"prompts": self.prompts, "default_prompt": self.default_prompt} if self.tells else {}
        return json.dumps(limits | told).encode()

    def seen(self):
        """The texts that the model gets, with what the server itself puts before them."""
        return [
            (self.default_prompt if (name := body.get("prompt_name")) is None else self.prompts.get(name, "")) + text
            for body in self.answered
            for text in body["inputs"]
        ]

    def send(self, path, body):
        if path == "/info":
            return self.info()
        assert path == "/embed"
        value = json.loads(body)
        with self.lock:
            self.bodies.append(value)
            if self.failures:
                raise self.failures.pop(0)
        if len(value["inputs"]) > self.rows:
            message = f"batch size {len(value['inputs'])} > maximum allowed batch size {self.rows}"
            raise CallError(message, status=422)
        known = {*self.prompts, *([""] if self.takes_none else [])}
        if "prompt_name" in value and value["prompt_name"] not in known:
            raise CallError(f"Prompt `{value['prompt_name']}` not found", status=self.refusal)
        self.answered.append(value)
        assert all(text for text in value["inputs"])
        return json.dumps([[float(len(text)), 1.0] for text in value["inputs"]]).encode()

    async def asend(self, path, body):
        await asyncio.sleep(0)
        return self.send(path, body)


def embedder(script, **arguments):
    slept = []

    async def asleep(seconds):
        slept.append(seconds)

    made = ServerEmbedder(
        WIRE, script, name="server", address=("tei",), patience=Patience(sleep=slept.append, asleep=asleep), **arguments
    )
    made.slept = slept
    return made


def expected(texts):
    rows = np.array([[len(text), 1.0] for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


async def both(made, texts, **arguments):
    """The answer of the blocking and of the asynchronous way, which must agree."""
    one = made.embed(texts, **arguments)
    other = await made.aembed(texts, **arguments)
    np.testing.assert_array_equal(one, other)
    return one


async def test_order_is_kept_over_many_requests():
    texts = ["x" * length for length in range(1, 30)]
    script = Script(rows=4)
    np.testing.assert_allclose(await both(embedder(script), texts), expected(texts), rtol=1e-6)
    assert max(len(body["inputs"]) for body in script.bodies) == 4


async def test_no_texts_no_request():
    script = Script()
    assert (await both(embedder(script), [])).shape == (0, 0)
    assert script.bodies == []


async def test_an_empty_text_does_not_fail_its_batch():
    script = Script()
    assert len(await both(embedder(script), ["a", "", "b"])) == 3
    assert script.bodies[0]["inputs"] == ["a", " ", "b"]


async def test_queries_use_the_servers_own_prompt_and_passages_none():
    script = Script(prompts={"query": "q: "})
    made = embedder(script)
    await both(made, ["a"], is_query=True)
    await both(made, ["a"])
    assert [body.get("prompt_name") for body in script.bodies] == ["query", "query", None, None]


async def test_passages_get_what_the_model_wants_before_them():
    script = Script(prompts={"query": "q: ", "passage": "passage: "})
    await both(embedder(script), ["a", ""])
    assert [body["inputs"] for body in script.bodies] == [["passage: a", "passage: "]] * 2
    told = Script()
    await both(embedder(told, document_instruction="text: "), ["a"])
    await both(embedder(told, document_instruction="text: ", query_instruction=""), ["a"], is_query=True)
    assert [body["inputs"] for body in told.bodies] == [["text: a"], ["text: a"], ["a"], ["a"]]


@pytest.mark.parametrize("default", ["", "query: ", "passage: ", "other: "])
@pytest.mark.parametrize("passage_name", ["document", "passage"])
async def test_nothing_is_put_before_a_text_twice(default, passage_name):
    prompts = {"query": "query: ", passage_name: "passage: "}
    for arguments, query, passage in [
        ({}, "query: a", "passage: a"),
        ({"query_instruction": "", "document_instruction": ""}, "a", "a"),
        ({"query_instruction": "find: ", "document_instruction": "text: "}, "find: a", "text: a"),
        ({"query_instruction": "query: ", "document_instruction": "passage: "}, "query: a", "passage: a"),
    ]:
        script = Script(prompts=prompts, default_prompt=default)
        await both(embedder(script, **arguments), ["a"], is_query=True)
        await both(embedder(script, **arguments), ["a"])
        assert script.seen() == [query, query, passage, passage]


async def test_an_instruction_of_the_users_comes_before_the_servers():
    script = Script(prompts={"query": "q: "})
    await both(embedder(script, query_instruction="find: "), ["a"], is_query=True)
    assert script.bodies[0]["inputs"] == ["find: a"] and "prompt_name" not in script.bodies[0]


async def test_a_server_that_says_it_has_no_prompt_is_not_asked_for_it():
    script = Script(prompts={})
    await both(embedder(script), ["a", "b"], is_query=True)
    assert all("prompt_name" not in body for body in script.bodies)


@pytest.mark.parametrize("refusal", [400, 413, 422])
async def test_a_silent_server_without_prompts_is_found_out_once(refusal):
    script = Script(tells=False, takes_none=False, refusal=refusal)
    made = embedder(script)
    assert len(await both(made, ["a", "b"], is_query=True)) == 2
    assert len(await both(made, ["a", "b"])) == 2
    assert [body.get("prompt_name") for body in script.bodies] == [
        "query", None, None, "document", "passage", None, None,
    ]  # fmt: skip


@pytest.mark.parametrize("passage_name", ["document", "passage"])
async def test_a_silent_servers_own_prompts_are_used(passage_name):
    script = Script(tells=False, takes_none=False, prompts={"query": "query: ", passage_name: "passage: "})
    made = embedder(script)
    await both(made, ["a"], is_query=True)
    await both(made, ["a"])
    assert script.seen() == ["query: a"] * 2 + ["passage: a"] * 2


@pytest.mark.parametrize("takes_none", [True, False])
async def test_a_silent_server_puts_nothing_before_the_users_instruction(takes_none):
    script = Script(tells=False, takes_none=takes_none, default_prompt="other: " if takes_none else "")
    made = embedder(script, query_instruction="find: ", document_instruction="text: ")
    await both(made, ["a"], is_query=True)
    await both(made, ["a"])
    assert script.seen() == ["find: a"] * 2 + ["text: a"] * 2
    assert len(script.bodies) == (4 if takes_none else 5)


async def test_a_prompt_that_was_taken_is_not_given_up_for_a_later_error():
    script = Script(tells=False, prompts={"query": "q: "})
    made = embedder(script)
    await both(made, ["a"], is_query=True)
    script.failures.append(CallError("the prompt is too long", status=422))
    with pytest.raises(CallError, match="too long"):
        made.embed(["a"], is_query=True)


@pytest.mark.parametrize(
    "page", [b"<html>", b"[1]", b'{"max_client_batch_size": "many"}', b'{"prompts": 3}', b'{"payload_limit": [1]}']
)
async def test_a_description_of_another_form_is_passed_over(page):
    script = Script()
    script.info = lambda: page
    assert len(await both(embedder(script), ["a"] * 40)) == 40


async def test_a_description_that_failed_for_now_is_asked_for_again():
    script = Script(prompts={"query": "q: "})
    told, calls = script.info, []

    def info():
        calls.append(1)
        if len(calls) == 1:
            raise CallError("loading", status=503)
        return told()

    script.info = info
    made = embedder(script)
    made.embed(["a"], is_query=True)
    await both(made, ["a"], is_query=True)
    assert len(calls) == 2
    assert script.seen() == ["q: a"] * 3


async def test_a_limit_that_the_server_did_not_tell_is_learnt_from_its_refusal():
    script = Script(rows=3, told_rows=32)
    made = embedder(script)
    texts = ["x" * length for length in range(1, 11)]
    np.testing.assert_allclose(await both(made, texts), expected(texts), rtol=1e-6)
    assert sum(len(body["inputs"]) > 3 for body in script.bodies) == 1


@pytest.mark.parametrize("status", [None, *sorted(RETRYABLE_STATUSES)])
async def test_overload_and_lost_connections_are_tried_again(status):
    for asynchronous in (False, True):
        script = Script(failures=[CallError("busy", status=status)] * 3)
        made = embedder(script)
        vectors = await made.aembed(["a"]) if asynchronous else made.embed(["a"])
        assert len(vectors) == 1 and len(made.slept) == 3 and max(made.slept) <= 30.0


@pytest.mark.parametrize("status", [400, 401, 413, 422])
async def test_refusals_are_not_tried_again(status):
    script = Script(failures=[CallError("no", status=status)])
    made = embedder(script)
    with pytest.raises(CallError, match="no"):
        made.embed(["a"])
    assert made.slept == []
    script.failures.append(CallError("no", status=status))
    with pytest.raises(CallError, match="no"):
        await made.aembed(["a"])


async def test_a_server_that_says_when_to_come_back_is_waited_for():
    script = Script(failures=[CallError("busy", status=429, retry_after=7.0)] * 2)
    made = embedder(script)
    made.embed(["a"])
    await made.aembed(["a"])
    assert len(made.slept) == 2 and min(made.slept) >= 7.0


async def test_one_failure_ends_the_others():
    """No request is left running behind the caller's back."""
    script = Script(rows=1, told_rows=1)
    script.failures = [CallError("no", status=400)]
    made = embedder(script, concurrency=2)
    with pytest.raises(CallError, match="no"):
        await made.aembed(["a"] * 50)
    sent = len(script.bodies)
    await asyncio.sleep(0.01)
    assert len(script.bodies) == sent < 50


async def test_tries_end():
    script = Script(failures=[CallError("busy", status=503)] * 100)
    with pytest.raises(CallError, match="busy"):
        embedder(script).embed(["a"])
    with pytest.raises(CallError, match="busy"):
        await embedder(script).aembed(["a"])
    assert len(script.bodies) == 12


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"<html>", "server did not answer with vectors"),
        (b'{"error": 1}', "server did not answer with vectors"),
        (b"[" * 100_000, "server did not answer with vectors"),
        (b"[[1.0, 2.0], [1.0, 2.0]]", r"\(2, 2\) numbers for 1 texts"),
        (b"[1.0]", r"\(1,\) numbers for 1 texts"),
        (b"[[NaN, 1.0]]", "not numbers"),
        (b"[[null, 1.0]]", "not numbers"),
    ],
)
def test_replies_that_are_no_vectors(reply, message):
    script = Script()
    script.send = lambda path, body: script.info() if body is None else reply
    with pytest.raises(CallError, match=message):
        embedder(script).embed(["a"])


def test_rows_are_unit_vectors():
    script = Script()
    script.send = lambda path, body: script.info() if body is None else b"[[3.0, 4.0]]"
    np.testing.assert_allclose(embedder(script).embed(["a"]), [[0.6, 0.8]], rtol=1e-6)
