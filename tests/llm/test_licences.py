import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.llm.licences import Writer, licence_of, licences, permitted, writer, writers

LLAMA_3 = "Meta Llama 3 Community License"
LLAMA_LATER = "Llama Community License (3.1 and later)"


@pytest.mark.parametrize(
    ("model", "licence"),
    [
        ("meta.llama3-70b-instruct-v1:0", LLAMA_3),
        ("meta-llama/Meta-Llama-3-8B-Instruct", LLAMA_3),
        ("llama3:8b", LLAMA_3),
        ("us.meta.llama3-3-70b-instruct-v1:0", LLAMA_LATER),
        ("meta-llama/Llama-3.1-8B-Instruct", LLAMA_LATER),
        ("llama3.2:3b", LLAMA_LATER),
        ("Llama-4-Scout-17B-16E", LLAMA_LATER),
        ("DeepSeek-R1-Distill-Llama-70B", LLAMA_LATER),
        ("codellama-34b", "Llama 2 Community License"),
        ("gpt-4o-mini", "OpenAI's terms for businesses"),
        ("o3-mini", "OpenAI's terms for businesses"),
        ("openai/gpt-oss-120b", "Apache License 2.0"),
        ("anthropic.claude-sonnet-4-v1:0", "Anthropic's commercial terms"),
        ("google/gemma-3-27b-it", "Gemma Terms of Use"),
        ("google/gemma-4-27b-it", "Apache License 2.0"),
        ("Qwen/Qwen2.5-72B-Instruct", "Qwen License"),
        ("Qwen/Qwen2.5-3B-Instruct", "Qwen Research License"),
        ("Qwen/Qwen2.5-7B-Instruct", "Apache License 2.0"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Apache License 2.0"),
        ("TinyLlama/TinyLlama-1.1B-Chat", "Apache License 2.0"),
        ("llama-30b", None),
        ("deepseek-r1-distill-qwen-32b", None),
        ("gpt4all-j", None),
        ("my-own-model", None),
        ("", None),
    ],
)
def test_a_name_tells_its_licence_or_none(model, licence):
    found = licence_of(model)
    assert (found.name if found else None) == licence


def test_every_licence_can_be_read_and_is_found_by_some_name():
    for one in licences():
        assert one.link.startswith("https://")
        assert Writer(name="x", licence=one).sentence.endswith(f"Check the licence at {one.link}")
        assert one.asks or not (one.name_begins or one.shows)
        assert one.asks == "" or one.asks.endswith(".")


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("bedrock:meta.llama3-70b-instruct-v1:0", "meta.llama3-70b-instruct-v1:0"),
        ("openai:ft:gpt-4o-mini:team", "ft:gpt-4o-mini:team"),
        ("local:SmolLM2-135M-Instruct.Q4_1.gguf@b179c9523d0e", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        ("recorded:strong.jsonl@efe2cdd1e8a9", "the model that wrote strong.jsonl"),
        ("recorded:/home/ann/secret/llama3.jsonl", "the model that wrote llama3.jsonl"),
        ("openai:/home/ann/models/Llama-3-8B", "Llama-3-8B"),
        ("C:\\models\\judge", "judge"),
        ("cross-encoder/ms-marco-MiniLM-L6-v2", "cross-encoder/ms-marco-MiniLM-L6-v2"),
        ("bedrock:", "the model behind bedrock"),
    ],
)
def test_a_writer_has_a_name_without_paths_and_hashes(spec, name):
    assert writer(spec).name == name


def test_recorded_queries_have_no_known_licence_whatever_their_file_is_called():
    assert writer("recorded:llama3.jsonl").licence is None
    assert writer("recorded:llama3.jsonl").terms.startswith("read what its licence asks")


def test_a_name_is_given_the_beginning_that_licences_ask_for():
    three, later = writer("bedrock:meta.llama3-70b-instruct-v1:0"), writer("openai:Llama-3.1-8B")
    assert permitted("manuals", [three]) == "Llama-3-manuals"
    assert permitted("manuals", [later]) == "Llama-manuals"
    assert permitted("manuals", [later, three]) == "Llama-3-manuals"
    for name in ("llama3-manuals", "Llama_3.manuals", "LLAMA-3"):
        assert permitted(name, [three, later]) == name
    assert permitted("manuals", [writer("openai:gpt-4o"), writer("local:SmolLM2"), writer("x:y")]) == "manuals"


@given(
    name=st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=30),
    specs=st.lists(st.sampled_from(["a:llama3-8b", "a:llama-3.3-70b", "a:gpt-4o", "a:unknown", "recorded:f"])),
)
def test_a_permitted_name_is_permitted_by_all_and_stays_so(name, specs):
    by = writers(specs)
    better = permitted(name, by)
    assert all(one.permits(better) for one in by)
    assert permitted(better, by) == better
    assert better.endswith(name)


@given(st.text(max_size=60))
def test_any_text_is_a_spec(spec):
    found = writer(spec)
    assert isinstance(found, Writer)
    assert found.name and found.terms


def test_each_writer_stands_once():
    assert len(writers(["bedrock:x", "openai:x", "openai:y"])) == 2
