"""`embedfit assess` from documents to advice, with tiny models; the command that it prints builds its row."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from embedfit.choosing.page.session import Session
from embedfit.cli.main import app
from embedfit.commands import runs
from embedfit.commands.assessing import assess, plan, prepare
from embedfit.commands.grading import session_of
from embedfit.commands.indexing import index_run, load
from embedfit.comparing.compare import compare
from embedfit.errors import InputError, UsageError
from embedfit.forgetting.verb import forget
from embedfit.models.store.vectors import VectorStore
from embedfit.path.artefacts import METRIC, Assessed, Query
from embedfit.path.pipeline import run_stage, state
from embedfit.path.stages import ASSESSING, stage_named
from embedfit.path.workspace import Workspace, encode_whole, read_jsonl
from embedfit.queries.prompts import STYLES
from embedfit.runtime import Runtime
from embedfit.testing.fake_model import FakeModel
from embedfit.testing.run_folder import write_manuals
from embedfit.testing.tiny_model import make_tiny_bert
from tests.json_forms import printed
from tests.said import Said


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Documents with questions, two models, and an assessment by people's questions."""
    root = tmp_path_factory.mktemp("assess")
    manuals = write_manuals(root / "manuals")
    words = sorted(set(re.findall("[a-z]{2,}", (manuals / "corpus.jsonl").read_text().lower())))
    for number in range(2):
        make_tiny_bert(root / f"model{number}", pooling="mean", words=words, seed=number)
    result = assess(
        manuals / "corpus.jsonl",
        run=root / "run",
        models=[str(root / "model0"), str(root / "model1")],
        eval_beir=manuals,
        runtime=runtime_in(root),
        settings={"evaluate": {"bootstrap": 200}},
    )
    return root, result


def runtime_in(root: Path, **fields) -> Runtime:
    return Runtime(ledger=root / "ledger.sqlite", vectors=VectorStore(root / "vectors"), **fields)


def test_every_retriever_over_every_model_is_a_row(made):
    root, result = made
    models = [str(root / f"model{number}") for number in range(2)]
    assert (result.kind, result.questions, result.passages, result.metric) == ("labelled", 90, 120, METRIC)
    names = {(row.retriever.name, row.model) for row in result.rows}
    each = ("base", "windows", "one_words", "windows_words", "rrf", "sum", "default")
    assert names == {("bm25", ""), *((name, model) for name in each for model in models)}
    first = next(row for row in result.rows if row.name == f"base:{models[0]}")
    assert (first.delta, first.delta_ci95) == (0, (0, 0))
    for row in result.rows:
        assert row.delta == pytest.approx(row.score - first.score) and row.metrics["hit@5"] >= row.metrics["hit@1"]
        assert row.ci95[0] <= row.score <= row.ci95[1] and row.bytes_a_passage > 0 and row.ms_a_query >= 0
    assert result.outlook.verdict == "not likely" and "120 passages" in result.outlook.why
    page = (root / "run" / "assess" / "report.html").read_text()
    assert result.command.replace("&", "&amp;") in page and "recommended" in page and "<script>window" not in page


def searched(index: str, beir: Path, tmp_path: Path) -> float:
    """The score of an index on the questions of a BEIR folder, through `embedfit search --trec`."""
    out = tmp_path / "found.trec"
    done = CliRunner().invoke(
        app, ["search", *shlex.split(index), "--queries", str(beir / "queries.jsonl"), "--trec", str(out)]
    )
    assert done.exit_code == 0, done.output
    return compare([str(out), "bm25"], beir, draws=200, missing="zero").systems[str(out)].metrics[METRIC]


def test_the_command_builds_the_recommended_row(made, tmp_path, monkeypatch):
    """People's questions chose another retriever than the default, which an index of the run holds."""
    root, result = made
    monkeypatch.setenv("EMBEDFIT_HOME", str(root))
    assert result.choice.retriever.name != "default" and result.command == f"embedfit index --run {root / 'run'}"
    done = CliRunner().invoke(app, shlex.split(result.command)[1:])
    assert done.exit_code == 0, done.output
    found = searched(f"--run {root / 'run'}", root / "manuals", tmp_path)
    assert found == pytest.approx(result.recommended.score, abs=1e-6)
    assert load(root / "run" / "index").stored.manifest.retriever == result.recommended.retriever


def test_the_command_that_indexes_documents_builds_the_default_row(made, folder, monkeypatch):
    root, result = made
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EMBEDFIT_HOME", str(root))
    given = options(made, folder, generate={"generator": f"recorded:{folder / 'manuals' / 'written.jsonl'}"})
    written = assess(folder / "manuals" / "corpus.jsonl", **given)
    words = shlex.split(written.command)
    assert words[:3] == ["embedfit", "index", str(folder / "manuals" / "corpus.jsonl")]
    assert words[3:] == ["--model", str(folder / "model"), "--to-folder", "index"]
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, done.output
    default = next(row for row in result.rows if row.name == f"default:{root / 'model0'}")
    assert searched("--index index", folder / "manuals", folder) == pytest.approx(default.score, abs=1e-6)
    assert load("index").stored.manifest.retriever == written.recommended.retriever == default.retriever


def test_an_index_of_the_run_holds_another_model_and_retriever(made, tmp_path, monkeypatch):
    """What an assessment recommends over a model that is not the run's own, with another retriever."""
    root, result = made
    monkeypatch.setenv("EMBEDFIT_HOME", str(root))
    other = next(row for row in result.rows if row.name == f"one_words:{root / 'model1'}")
    choice = result.choice.model_copy(update={"retriever": other.retriever})
    recommended = result.model_copy(update={"model": other.model, "choice": choice})
    path = root / "run" / "assess" / "assess.json"
    before = path.read_text()
    try:
        path.write_text(encode_whole(recommended))
        index = index_run(root / "run", runtime=runtime_in(root))
        assert index.stored.manifest.retriever == other.retriever
        found = searched(f"--run {root / 'run'}", root / "manuals", tmp_path)
        assert found == pytest.approx(other.score, abs=1e-6)
        assert found != pytest.approx(result.recommended.score, abs=1e-3)
    finally:
        path.write_text(before)


def test_an_assessment_is_up_to_date_until_something_changes(made):
    root, _ = made
    workspace = Workspace(root / "run")
    config = runs.stored_config(workspace)
    assert state(ASSESSING[1], workspace, config) == "fresh"
    changed = config.model_copy(update={"assess": config.assess.model_copy(update={"questions": 20})})
    assert state(ASSESSING[1], workspace, changed) == "stale"


# --- people's questions without answers


def asked(folder: Path, count=40) -> Path:
    path = folder / "asked.txt"
    rows = [json.loads(line)["text"] for line in (folder / "manuals" / "queries.jsonl").read_text().splitlines()]
    path.write_text("".join(f"{' '.join(one.split())}\n" for one in rows[:count]))
    return path


def recorded(folder: Path, count=40) -> str:
    """Grades of the questions: the passage that answers, and the next one."""
    path = folder / "judged.jsonl"
    rows = [json.loads(line) for line in (folder / "manuals" / "queries.jsonl").read_text().splitlines()[:count]]
    grades = [
        {"query_id": row["_id"], "query": row["text"], "grades": {row["_id"][2:]: 3, f"p{number + 1}": 1}}
        for number, row in enumerate(rows)
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in grades))
    return f"recorded:{path}"


@pytest.fixture
def folder(made, tmp_path):
    """A folder with the documents and the first model of `made`, to assess anew."""
    root, _ = made
    (tmp_path / "manuals").symlink_to(root / "manuals")
    (tmp_path / "model").symlink_to(root / "model0")
    return tmp_path


def options(made, folder: Path, **settings):
    root, _ = made
    return {
        "run": folder / "run",
        "models": [str(folder / "model")],
        "settings": {"evaluate": {"bootstrap": 200}, **settings},
        "runtime": replace(runtime_in(folder), vectors=VectorStore(root / "vectors")),
    }


def test_grades_of_a_judge_assess(made, folder):
    given = options(made, folder, choose={"judge": recorded(folder)})
    result = assess(folder / "manuals" / "corpus.jsonl", queries=asked(folder), **given)
    assert (result.kind, result.metric, result.cluster_by) == ("graded", "ndcg@5", "question")
    assert result.questions == 40 and all(not row.metrics for row in result.rows)
    assert len(list((folder / "run" / "assess").iterdir())) == 3  # result, page and pool


def test_without_a_judge_written_questions_assess_and_a_person_can_grade(made, folder):
    writer = f"recorded:{folder / 'manuals' / 'written.jsonl'}"
    given = options(made, folder, generate={"generator": writer}, assess={"questions": 40})
    documents = folder / "manuals" / "corpus.jsonl"
    result = assess(documents, queries=asked(folder), **given)
    assert result.kind == "written" and any("nobody said what answers" in note for note in result.notes)
    assert result.outlook.verdict != "likely" and "can't choose between words and vectors" in result.choice.why
    session = session_of(folder / "run")
    assert isinstance(session, Session)
    pool = [json.loads(line) for line in (folder / "run" / "assess" / "pool.jsonl").read_text().splitlines()]
    grades = [
        {"query_id": row["query_id"], "query": row["query"], "passage_id": one, "grade": 3 if number == 0 else 0}
        for row in pool
        for number, one in enumerate(row["passages"])
    ]
    (folder / "run" / "person_grades.jsonl").write_text("".join(json.dumps(one) + "\n" for one in grades))
    again = assess(run=folder / "run", runtime=given["runtime"])
    assert (again.kind, again.questions) == ("graded", len(pool))


# --- written questions


def answer(request) -> str:
    passage = request.messages[-1].content.rsplit("Passage:", 1)[-1]
    words = [word for word in passage.replace(",", " ").split() if word.isalnum()]
    return f"how do i {words[4]} the {' '.join(words[5:8])} {request.seed % 5}"


def test_a_run_goes_on_and_pays_for_no_question_twice(made, folder):
    model = FakeModel(answer)
    given = options(made, folder, assess={"questions": 30}, generate={"round_trip_k": 0})
    given["runtime"] = replace(given["runtime"], language_model=model)
    result = assess(folder / "manuals" / "corpus.jsonl", preset="offline", **given)
    written = list(read_jsonl(folder / "run" / "assess" / "questions.jsonl", Query))
    assert result.kind == "written" and 0 < result.questions <= 30 and len(model.asked) == len(written) == 39
    assert result.cost.calls == 39 and len({one.passage_id for one in written}) == 39
    first = {(*request.messages, request.seed) for request in model.asked}
    later = FakeModel(answer)
    workspace = Workspace(folder / "run")
    config = runs.stored_config(workspace)
    run_stage(stage_named("generate"), workspace, config, replace(given["runtime"], language_model=later))
    assert first.isdisjoint((*request.messages, request.seed) for request in later.asked)
    whole = {one.call_id for one in workspace.read(Query)}
    assert {one.call_id for one in written} <= whole and len(later.asked) == len(whole) - 39


def test_useless_writers_are_a_clear_error(made, folder):
    given = options(made, folder, assess={"questions": 15})
    given["runtime"] = replace(given["runtime"], language_model=FakeModel(lambda _: "the passage says nothing"))
    with pytest.raises(Exception) as raised:
        assess(folder / "manuals" / "corpus.jsonl", **given)
    assert isinstance(raised.value, InputError) or "query" in str(raised.value)


def test_a_plan_asks_and_measures_nothing(made, folder):
    model = FakeModel(answer)
    given = options(made, folder)
    given["runtime"] = replace(given["runtime"], language_model=model)
    lines = plan(prepare(folder / "manuals" / "corpus.jsonl", **given))
    assert "1 models encode 120 passages" in lines[0] and "writes about 100 questions (free)" in lines[-1]
    assert not model.asked and not (folder / "run" / "assess").exists()


def test_a_model_named_twice(made, folder):
    given = options(made, folder) | {"models": ["minilm", "minilm"]}
    with pytest.raises(UsageError, match="named twice"):
        assess(folder / "manuals" / "corpus.jsonl", **given)


def test_a_language_that_the_model_does_not_know_is_named(made, folder):
    german = [
        f"Die Fernbedienung Nummer {n} und der Bildschirm werden mit der Taste eingeschaltet, die sich auf der "
        f"Rückseite des Gerätes befindet; danach wartet man {n} Sekunden, bis das grüne Licht nicht mehr leuchtet."
        for n in range(60)
    ]
    (folder / "de.jsonl").write_text(
        "".join(json.dumps({"_id": f"g{n}", "title": "", "text": text}) + "\n" for n, text in enumerate(german))
    )
    writer = folder / "written.jsonl"
    writer.write_text(
        "".join(
            json.dumps({"id": f"g{n}", **dict.fromkeys(STYLES, f"Wo ist die Taste {n}?")}) + "\n" for n in range(60)
        )
    )
    said = Said()
    given = options(made, folder, generate={"generator": f"recorded:{writer}", "round_trip_k": 0})
    given["runtime"] = replace(given["runtime"], report=said)
    result = assess(folder / "de.jsonl", **given)
    assert any("German" in note and "--model e5-multilingual" in note for note in result.notes)
    workspace = Workspace(folder / "run")
    try:
        run_stage(stage_named("generate"), workspace, runs.stored_config(workspace), given["runtime"])
    except InputError:
        pass  # too few training queries; the warning comes first
    assert any(line.startswith("Warning: The model") and "German" in line for line in said.lines)


def test_what_is_forgotten_takes_the_assessment_with_it(made, folder):
    given = options(made, folder, choose={"judge": recorded(folder)})
    assess(folder / "manuals" / "corpus.jsonl", queries=asked(folder), **given)
    assert (folder / "run" / "assess" / "pool.jsonl").exists()
    first = (folder / "asked.txt").read_text().splitlines()[0]
    (folder / "gone.txt").write_text(first + "\n")
    forget(folder / "run", queries=[first], yes=True, runtime=given["runtime"])
    assert not (folder / "run" / "assess").exists()


def test_the_command_line(made, folder, monkeypatch):
    root, _ = made
    monkeypatch.setenv("EMBEDFIT_HOME", str(root))
    arguments = ["assess", str(folder / "manuals" / "corpus.jsonl"), "--models", str(folder / "model"),
                 "--eval-beir", str(folder / "manuals"), "--run", str(folder / "run")]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    for part in ("one vector", "BM25", "←", "Tuning is not likely to help, because", "Build it: embedfit index"):
        assert part in done.output
    value = printed("embedfit assess", CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    record = Assessed.model_validate(value)
    assert record.rows and np.isfinite([row.score for row in record.rows]).all()
