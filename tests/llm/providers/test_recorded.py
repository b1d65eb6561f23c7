"""Queries that were written before: which row is of which passage, and what is said where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.config import GenerateConfig, load, resolve, save
from embedfit.errors import GeneratorError, InputError, UsageError
from embedfit.files.beir import read_corpus
from embedfit.llm.ledger import Ledger
from embedfit.llm.protocol import Failure, Reply, extra_of
from embedfit.llm.providers.recorded import RecordedModel, read_rows
from embedfit.path.artefacts import Passage, Query
from embedfit.path.freshness import freshness
from embedfit.path.pipeline import run_stage, stage_named
from embedfit.path.workspace import Workspace
from embedfit.queries import parse, prompts
from embedfit.queries.stage import run
from embedfit.runtime import Runtime
from tests.said import Said


def written(folder: Path, *rows: object) -> Path:
    path = folder / "recorded.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def call(text: str, passage: str = "p1", document: str = "d1", title: str = "", styles=("question", "keywords")):
    request = prompts.many_queries(
        title, text, [prompts.STYLES[s] for s in styles], prompts.Way(max_tokens=40, temperature=0.9, top_p=1.0), seed=1
    )
    return type(request)(
        **{
            **{f: getattr(request, f) for f in request.__dataclass_fields__},
            "extra": extra_of({"passage": passage, "document": document, "styles": list(styles)}),
        }
    )


def only(path: Path, request) -> Reply | Failure:
    ((_, outcome),) = RecordedModel(str(path)).complete([request])
    return outcome


def test_a_row_is_found_by_the_passage_and_gives_the_styles_that_are_asked_for(tmp_path):
    path = written(
        tmp_path, {"id": "p1", "question": "How?", "claim": "It does.", "keywords": "how it", "text_start": "A b"}
    )
    reply = only(path, call("A  b — c."))
    assert parse.queries_of(reply.text, ("question", "keywords")) == [
        parse.Parsed("How?", "question"),
        parse.Parsed("how it", "keywords"),
    ]


def test_a_row_of_another_text_does_not_fit(tmp_path):
    path = written(tmp_path, {"id": "p1", "question": "How?", "text_start": "Something else entirely"})
    outcome = only(path, call("A b c."))
    assert isinstance(outcome, Failure) and outcome.unwritten and "another text" in outcome.error


def test_a_row_may_name_the_document_and_fits_the_passage_that_begins_with_its_words(tmp_path):
    path = written(
        tmp_path,
        {"id": "guide.txt", "question": "First?", "text_start": "Press mute"},
        {"id": "guide.txt", "question": "Second?", "text_start": "Hold power, then"},
        {"id": "other.txt", "question": "Third?"},
    )
    assert "Second?" in only(path, call("Hold power then wait.", "guide.txt#0002", "guide.txt", title="Power")).text
    assert "First?" in only(path, call("Press mute twice.", "guide.txt#0001", "guide.txt")).text
    assert isinstance(only(path, call("To press mute twice.", "guide.txt#0003", "guide.txt")), Failure)
    assert isinstance(only(path, call("Anything.", "other.txt#0001", "other.txt")), Failure), "no words to tell by"


def test_two_texts_under_one_id_are_told_apart(tmp_path):
    path = written(
        tmp_path,
        {"id": "p1", "question": "Old?", "text_start": "Version one"},
        {"id": "p1", "question": "New?", "text_start": "Version two"},
    )
    assert "New?" in only(path, call("Version two of it.")).text


def test_skip_is_said(tmp_path):
    outcome = only(written(tmp_path, {"id": "p1", "skip": True, "question": "How?"}), call("A b c."))
    assert isinstance(outcome, Failure) and "nothing to ask" in outcome.error


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80).filter(
        lambda text: any(c.isalnum() for c in text)
    )
)
def test_the_first_words_of_a_text_fit_it_however_the_prompt_shows_it(text, tmp_path_factory):
    path = written(tmp_path_factory.mktemp("r"), {"id": "p1", "question": "How?", "text_start": text})
    assert isinstance(only(path, call(text)), Reply)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"question": "How?"}, "needs an id"),
        ({"id": 3, "question": "How?"}, "needs an id"),
        ({"id": "p1"}, "no query"),
        ({"id": "p1", "questions": "How?"}, "no query"),
        ({"id": "p1", "question": ["How?"]}, "question must be a text"),
        ({"id": "p1", "question": " "}, "question must be a text"),
        ({"id": "p1", "question": "How?", "text_start": 1}, "text_start must be a text"),
        ([1], "expected a JSON object"),
    ],
)
def test_what_is_no_row_is_named_by_its_line(tmp_path, row, what):
    path = written(tmp_path, {"id": "p0", "skip": True}, row)
    with pytest.raises(InputError, match=f"line 2: .*{what}") as caught:
        read_rows(path)
    assert caught.value.remedy


def test_one_of_two_rows_of_a_passage_is_not_dropped_in_silence(tmp_path):
    row = {"id": "p1", "question": "How?", "text_start": "A b"}
    with pytest.raises(InputError, match="line 2: another row of 'p1'"):
        read_rows(written(tmp_path, row, {**row, "question": "Why?", "text_start": "a B."}))


def test_the_words_of_the_prompt_are_not_those_of_the_passage(tmp_path):
    path = written(tmp_path, {"id": "d1", "question": "How?", "text_start": "question"})
    assert isinstance(only(path, call("A b c.")), Failure)


def test_a_file_that_is_not_there_or_empty_is_said_with_what_to_do(tmp_path):
    for name in (None, "", str(tmp_path / "no.jsonl"), str(tmp_path)):
        with pytest.raises((UsageError, InputError)) as caught:
            RecordedModel(name)
        assert "recorded:FILE" in str(caught.value.remedy)
    with pytest.raises(InputError, match="no recorded query"):
        read_rows(written(tmp_path))


# --- as a setting


def test_the_file_stands_behind_the_name_and_is_kept_as_a_path(tmp_path, monkeypatch):
    path = written(tmp_path, {"id": "p", "skip": True})
    monkeypatch.chdir(tmp_path)
    for config in (
        resolve(preset="offline", overrides={"generate": {"generator": "recorded:recorded.jsonl"}}),
        resolve(preset="offline", assignments=("generate.generator=recorded:recorded.jsonl",)),
    ):
        assert (config.generate.generator, config.generate.llm) == ("recorded", str(path))
    (tmp_path / "run").mkdir()
    save(config, tmp_path / "run" / "embedfit.toml")
    monkeypatch.chdir("/")
    assert load(tmp_path / "run" / "embedfit.toml") == config


def test_any_generator_may_have_its_model_behind_its_name():
    assert GenerateConfig(generator="bedrock:meta.llama3-1-8b-instruct-v1:0").llm == "meta.llama3-1-8b-instruct-v1:0"
    server = GenerateConfig(generator="openai:http://localhost:8000/v1#org/name")
    assert (server.generator, server.base_url, server.llm) == ("openai", "http://localhost:8000/v1", "org/name")
    with pytest.raises(UsageError, match="both named"):
        resolve(overrides={"generate": {"generator": "bedrock:a", "llm": "b"}})


def test_another_generator_does_not_take_the_file_for_its_model(tmp_path):
    from embedfit.config import change

    path = written(tmp_path, {"id": "p", "skip": True})
    stored = resolve(preset="offline", overrides={"generate": {"generator": f"recorded:{path}"}})
    assert change(stored, run=tmp_path, overrides={"generate": {"generator": "local"}}).generate.llm is None
    same = change(stored, run=tmp_path, overrides={"generate": {"generator": "recorded"}})
    assert same.generate.llm == str(path)


# --- the stage


def records(data_dir: Path, count: int) -> list[Passage]:
    splits = ["train"] * (count - 20) + ["dev"] * 10 + ["test"] * 10
    corpus = list(read_corpus(data_dir / "emanual" / "corpus.jsonl"))[:count]
    return [
        Passage(passage_id=name, document_id=name.split("_")[0], title=entry.title, text=entry.text, split=split)
        for (name, entry), split in zip(corpus, splits, strict=True)
    ]


def test_strong_queries_pass_the_filters_and_each_drop_has_its_reason(tmp_path, data_dir, tiny_bert):
    workspace, report = Workspace(tmp_path / "run"), Said()
    passages = records(data_dir, 60)
    workspace.write(Passage, passages)
    lines = (data_dir / "emanual" / "strong_queries.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    without = passages[0].passage_id
    path = written(tmp_path, *(row for row in rows if row["id"] != without))
    config = resolve(
        preset="offline",
        overrides={
            "docs": ["x"],
            "model": str(tiny_bert),
            "generate": {"generator": f"recorded:{path}", "round_trip_k": 0},
        },
    )
    runtime = Runtime(ledger=tmp_path / "ledger.sqlite", report=report)
    run_stage(stage_named("generate"), workspace, config, runtime)
    queries = workspace.read(Query)
    assert {q.style for q in queries if q.split == "train"} == {"question", "keywords", "claim", "title"}
    assert {q.style for q in queries if q.split == "dev"} == {"conversational"}
    assert len({(q.passage_id, q.style) for q in queries}) == len(queries) == 40 * 4 + 20
    assert sum(q.kept for q in queries) > 150
    assert {q.reason for q in queries if q.passage_id == without} == {
        "not written: recorded.jsonl: it has no row of this passage"
    }
    assert any(
        line.strip().startswith("4 dropped: not written: recorded.jsonl: it has no row") for line in report.lines
    )
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.find({q.call_id for q in queries if q.kept}), "durable"
    # The file's content counts, its place does not.
    stage = stage_named("generate")
    assert freshness(stage, workspace, config).state == "fresh"
    path.write_text(path.read_text("utf-8") + json.dumps({"id": without, "skip": True}) + "\n", "utf-8")
    assert "recorded.jsonl has changed" in freshness(stage, workspace, config).why


def test_a_file_of_other_documents_ends_the_stage_with_what_to_do(tmp_path, data_dir, tiny_bert):
    workspace = Workspace(tmp_path / "run")
    workspace.write(Passage, records(data_dir, 40))
    path = written(tmp_path, {"id": "elsewhere", "question": "How?"})
    settings = {"docs": ["x"], "model": str(tiny_bert), "generate": {"generator": f"recorded:{path}"}}
    with pytest.raises(GeneratorError, match="no row of this passage") as caught:
        run(workspace, resolve(preset="offline", overrides=settings), Runtime(ledger=tmp_path / "l.sqlite"))
    assert "passages.jsonl" in str(caught.value.remedy)


def test_recorded_queries_do_not_judge(tmp_path):
    path = written(tmp_path, {"id": "p", "skip": True})
    with pytest.raises(UsageError, match="recorded can't judge") as caught:
        resolve(preset="offline", overrides={"generate": {"generator": f"recorded:{path}", "judge": "llm"}})
    assert "--set generate.judge=default" in str(caught.value)
    again = resolve(
        preset="offline",
        overrides={"generate": {"generator": f"recorded:{path}", "judge": "llm"}},
        assignments=("generate.judge=default",),
    )
    assert again.generate.judge is None
