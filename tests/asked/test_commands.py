"""`--queries` on the commands and functions: what is stored, what an index makes of it, what is said."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import embedfit
from embedfit.asked.log import key_of
from embedfit.cli.main import app
from embedfit.commands import runs
from embedfit.commands.indexing import index_documents, index_run
from embedfit.config import load, resolve
from embedfit.errors import InputError, UsageError
from embedfit.files.hashes import Hashes
from embedfit.index.constants import deviations
from embedfit.index.scoring import Parts
from embedfit.path.artefacts import Query
from embedfit.path.forgotten import Forgotten, write_forgotten
from embedfit.path.freshness import inputs_of
from embedfit.path.stages import stage_named
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime
from tests.said import Said


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    texts = ("press the mute button", "the lamp has a switch", "heat the oven first", "oil the chain")
    rows = [{"_id": f"p{n}", "title": f"t{n // 4}", "text": f"{texts[n % 4]} as in note {n}"} for n in range(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("".join(f"how do i reset thing {n}\n" for n in range(60)))
    return path


def constants(index):
    return {part.name: part.deviation for part in index.stored.retriever.parts}


def test_an_index_takes_its_constants_from_the_log_and_says_so(corpus, log, tiny_bert, tmp_path):
    report = Said()
    options = {"model": str(tiny_bert), "tokens": False}
    plain = index_documents(corpus, folder=tmp_path / "plain", **options)
    runtime = Runtime(report=report)
    asked = index_documents(corpus, folder=tmp_path / "asked", queries=log, runtime=runtime, **options)
    assert constants(asked)["one"] != constants(plain)["one"] and constants(asked)["words"] == 1
    said = "\n".join(report.lines)
    assert "60 questions, 60 different" in said and "its constants come from 60 questions that people asked" in said
    made = asked.stored.manifest.made_of
    assert made.asked and not plain.stored.manifest.made_of.asked
    log.write_text("".join(f"where is part {n} of it\n" for n in range(60)))
    again = index_documents(corpus, folder=tmp_path / "asked", tokens=False)
    assert again.stored.manifest.made_of.asked != made.asked, "another log makes another index"


def test_an_index_says_that_questions_are_in_another_language(corpus, tiny_bert, tmp_path):
    french = tmp_path / "french.txt"
    french.write_text("".join(f"comment puis-je réinitialiser l'appareil {n} de la maison\n" for n in range(40)))
    lines = Said()
    index_documents(
        corpus,
        folder=tmp_path / "ix",
        model=str(tiny_bert),
        queries=french,
        tokens=False,
        runtime=Runtime(report=lines),
    )
    assert any("in French" in line for line in lines.lines), lines.lines


def test_five_questions_are_too_few_for_constants(corpus, log, tiny_bert, tmp_path):
    report = Said()
    log.write_text("".join(f"how do i reset thing {n}\n" for n in range(5)))
    plain = index_documents(corpus, folder=tmp_path / "plain", model=str(tiny_bert), tokens=False)
    few = index_documents(
        corpus,
        folder=tmp_path / "few",
        queries=[log],
        model=str(tiny_bert),
        tokens=False,
        runtime=Runtime(report=report),
    )
    assert constants(few) == constants(plain)
    assert "5 questions are too few for its constants" in "\n".join(report.lines)


def test_questions_that_judge_set_no_constant(corpus, log, tiny_bert, tmp_path):
    folder = tmp_path / "run"
    index_documents(corpus, folder=folder, queries=log, model=str(tiny_bert), tokens=False)
    workspace, report = Workspace(folder), Said()

    def rows(judging):
        texts = [f"how do i reset thing {n}" for n in range(40)]
        splits = ["log"] * 40 + ["judge"] * judging
        return [
            Query(query_id=f"a{n}", passage_id="", text=text, style="asked", split=split, kept=True)
            for n, (text, split) in enumerate(zip([*texts, *("x y z",) * judging], splits, strict=True))
        ]  # fmt: skip

    workspace.write(Query, rows(0))
    alone = constants(index_run(folder, tokens=False))
    workspace.write(Query, rows(20))
    assert constants(index_run(folder, tokens=False, runtime=Runtime(report=report))) == alone
    assert "index: up to date (--force builds it again)" in report.lines


def test_deviations_are_those_of_the_questions():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    questions = rng.normal(size=(40, 8)).astype(np.float32)
    questions /= np.linalg.norm(questions, axis=1, keepdims=True)
    parts = Parts(size=50, one=rows.astype(np.float16))
    found = deviations(parts, ["x"] * 50, lambda texts: questions, asked=["q"] * 40)
    assert found["one"] == pytest.approx((questions @ rows.T).std(1).mean(), abs=1e-3)


def test_forgotten_questions_set_no_constant(corpus, log, tiny_bert, tmp_path):
    report = Said()
    folder = tmp_path / "ix"
    index_documents(corpus, folder=folder, queries=log, model=str(tiny_bert), tokens=False)
    write_forgotten(Workspace(folder), Forgotten(queries=frozenset({key_of("how do i reset thing 3")})))
    index_run(folder, tokens=False, runtime=Runtime(report=report))
    assert "index: its constants come from 59 questions that people asked" in report.lines


def test_the_command_line_takes_the_option_again_and_again(corpus, log, tiny_bert, tmp_path):
    more = tmp_path / "more" / "log.txt"
    more.parent.mkdir()
    more.write_text("one more question\n")
    arguments = ["index", str(corpus), "--model", str(tiny_bert), "--to-folder", str(tmp_path / "ix"), "--no-tokens"]
    done = CliRunner().invoke(app, [*arguments, "--queries", str(log), "--queries", str(more)])
    assert done.exit_code == 0, done.output
    stored = load(tmp_path / "ix" / "embedfit.toml")
    assert stored.queries == (str(log), str(more))
    workspace = Workspace(tmp_path / "ix")
    inputs = inputs_of(stage_named("generate"), workspace, stored, Hashes(workspace.root))
    assert sum(name.startswith("queries: ") for name in inputs) == 2, "two files of one name are two"
    with pytest.raises(UsageError, match="questions of a run are its own"):
        CliRunner().invoke(app, ["index", "--run", str(tmp_path / "ix"), "--queries", str(log)], catch_exceptions=False)


def test_a_setting_takes_one_file_or_several(log):
    assert resolve(assignments=(f"queries={log}",)).queries == (str(log),)
    assert resolve(assignments=(f'queries=["{log}", "{log}"]',)).queries == (str(log), str(log))
    assert resolve(overrides={"queries": [str(log)]}, assignments=("queries=default",)).queries == ()


def test_a_file_that_is_not_there_is_said_before_any_document_is_read(corpus, tiny_bert, tmp_path):
    with pytest.raises(InputError, match="no file of questions") as error:
        embedfit.run(corpus, run=tmp_path / "run", queries=tmp_path / "none.txt", settings={"model": str(tiny_bert)})
    assert "--queries" in str(error.value.remedy)
    assert not (tmp_path / "run" / "documents.jsonl").exists()


def test_every_command_that_takes_questions_stores_them(corpus, log, tiny_bert, tmp_path):
    runs.run(corpus, run=tmp_path / "run", queries=log, preset="offline", settings={"model": str(tiny_bert)},
            until="ingest")  # fmt: skip
    runs.run(run=tmp_path / "run", until="ingest")
    assert runs.stored_config(Workspace(tmp_path / "run")).queries == (str(log),)
