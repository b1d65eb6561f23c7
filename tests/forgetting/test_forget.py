"""`embedfit forget`: after it no byte of the run, the cache or the ledger holds what was named."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from embedfit.asked.log import key_of
from embedfit.choosing.grades import PERSON_FILE
from embedfit.cli.main import app
from embedfit.commands import runs
from embedfit.commands.indexing import index_documents, index_run, load, update_index
from embedfit.errors import ArtifactMissing, InputError, UsageError
from embedfit.forgetting import files, verb
from embedfit.forgetting.marks import Marks
from embedfit.forgetting.target import Named, target_of
from embedfit.forgetting.verb import forget
from embedfit.llm.ledger.store import Ledger
from embedfit.llm.protocol import Message, Reply, Request
from embedfit.models.local import local_model
from embedfit.models.store.vectors import VectorStore
from embedfit.path.artefacts import Document, Passage, Pooled, Query
from embedfit.path.forgotten import read_forgotten
from embedfit.path.freshness import freshness
from embedfit.path.pipeline import run_stage
from embedfit.path.stages import stage_named
from embedfit.path.workspace import FILES, Workspace
from embedfit.runtime import Runtime
from embedfit.scale.shards import FolderShards
from embedfit.testing.fake_model import FakeModel
from tests.said import Said

#: Words that stand in one document, in what was written of it, and in one question, and nowhere else.
IN_DOCUMENT, IN_QUESTION = "zebracorn", "quaggaflux"
QUESTION = f"where is the parcel of {IN_QUESTION} miller"
TOPICS = ("remote sound", "router password", "battery cable", "screen contrast", "door hinge", "window seal")


def answer(request):
    """A query that holds the words of its passage."""
    passage = request.messages[-1].content
    number = re.search(r"chapter (\d+)", passage)
    marker = IN_DOCUMENT if IN_DOCUMENT in passage.rsplit("Passage:", 1)[-1] else "the"
    style = passage.rsplit("\n", 1)[-1].split(":")[0].lower()
    return f"{style} {marker} {TOPICS[int(number[1]) % 6] if number else 'x'} seed {request.seed % 7}"


@pytest.fixture(scope="module")
def built(tmp_path_factory, tiny_bert):
    """A folder with documents, a log, and a run with written queries, training rows and an index."""
    root = tmp_path_factory.mktemp("built")
    docs = root / "docs"
    docs.mkdir()
    for number in range(36):
        marker = f"{IN_DOCUMENT} is named in it twice, {IN_DOCUMENT}." if number == 3 else "nobody is named in it."
        text = f"The chapter {number} is about {TOPICS[number % 6]} and {marker} " + " ".join(
            f"detail{number}x{n}" for n in range(8)
        )
        (docs / ("secret.txt" if number == 3 else f"part{number}.txt")).write_text(text)
    (root / "log.txt").write_text(f"{QUESTION}\n" + "".join(f"how do i fix number {n}\n" for n in range(60)))
    runtime = Runtime(ledger=root / "ledger.sqlite", vectors=VectorStore(root / "vectors"))
    settings = {"model": str(tiny_bert), "generate": {"queries_per_passage": 1}, "ingest": {"min_characters": 20}}
    options = {"queries": root / "log.txt", "preset": "offline", "settings": settings, "runtime": runtime}
    runs.run(docs, run=root / "run", until="ingest", **options)
    workspace = Workspace(root / "run")
    config = runs.stored_config(workspace)
    run_stage(stage_named("generate"), workspace, config, written_by_a_fake(runtime))
    run_stage(stage_named("mine"), workspace, config, runtime)
    index_run(workspace.root, runtime=runtime)
    return root


def written_by_a_fake(runtime):
    return replace(runtime, language_model=FakeModel(answer))


@pytest.fixture
def made(built, tmp_path):
    """A copy of it, with grades, a report and an interrupted training."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    workspace = Workspace(tmp_path / "run")
    runtime = Runtime(ledger=tmp_path / "ledger.sqlite", vectors=VectorStore(tmp_path / "vectors"), report=Said())
    own = next(one for one in workspace.read(Query) if IN_QUESTION in one.text)
    secret = next(one for one in workspace.read(Passage) if IN_DOCUMENT in one.text)
    grade = {"query_id": own.query_id, "query": own.text, "passage_id": secret.passage_id, "grade": 1,
             "reason": "r", "judge": "x"}  # fmt: skip
    other = {**grade, "query_id": "q", "query": "another", "passage_id": "part1.txt#0001"}
    workspace.path("grades.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (grade, other)))
    pool = {"query_id": own.query_id, "query": own.text, "passages": [secret.passage_id, "part1.txt#0001"]}
    rest = {"query_id": "q", "query": "another", "passages": ["part1.txt#0001", secret.passage_id]}
    workspace.path("pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (pool, rest)))
    workspace.path("person_grades.jsonl").write_text(json.dumps({**grade, "judge": "person"}) + "\n")
    told = {"wins": [{"query_id": own.query_id, "query": own.text, "relevant": []}, {"query_id": "q", "query": "x"}],
            "passages": {secret.passage_id: {"text": secret.text[:80], "document": "secret.txt"}}}  # fmt: skip
    workspace.write_json("evaluation.json", told)
    workspace.write_text("report.html", f"<p>{own.text}</p><p>{secret.text}</p>")
    workspace.scratch("train").joinpath("state").write_text(secret.text)
    return workspace, runs.stored_config(workspace), runtime


def holding(marker, *roots):
    """Files below folders that hold a marker in any case."""
    return sorted(
        str(path)
        for root in roots
        for path in Path(root).rglob("*")
        if path.is_file() and marker in path.read_bytes().decode("latin-1").lower()
    )


def places(tmp_path):
    return [tmp_path / "run", tmp_path / "vectors", Path(os.environ["EMBEDFIT_HOME"]), tmp_path / "ledger-copy"]


def everything_holding(marker, tmp_path):
    ledger = [str(path) for path in tmp_path.glob("ledger.sqlite*") if marker.encode() in path.read_bytes().lower()]
    return holding(marker, *places(tmp_path)) + ledger


def test_a_document_goes_from_every_byte(made, tmp_path):
    workspace, _, runtime = made
    assert len(everything_holding(IN_DOCUMENT, tmp_path)) > 8, "the test looks where something is"
    kept_query = [one for one in workspace.read(Query) if one.is_asked]
    found = forget(workspace.root, documents=["secret.txt"], yes=True, runtime=runtime)
    assert everything_holding(IN_DOCUMENT, tmp_path) == []
    assert holding("secret.txt", tmp_path / "run") == []
    assert found.done and found.leftovers == ()
    assert [one for one in workspace.read(Query) if one.is_asked] == kept_query
    assert len(workspace.read(Document)) == 35 == len({one.document_id for one in workspace.read(Passage)})
    assert (tmp_path / "docs" / "secret.txt").exists(), "it is the user's"
    assert {place.name for place in found.places} >= {
        "queries.jsonl", "passages.jsonl", "documents.jsonl", "grades.jsonl", "evaluation.json", "report.html",
        ".partial", str(tmp_path / "ledger.sqlite"), str(tmp_path / "vectors"),
    }  # fmt: skip
    assert load(workspace.root).search("chapter 4", 3), "the index is there again"
    assert workspace.read_json("evaluation.json")["wins"][1:] == [{"query_id": "q", "query": "x"}]


def test_a_pool_for_graders_loses_the_passages_of_a_document_and_keeps_the_questions(made):
    workspace, _, runtime = made
    before = [one.query_id for one in workspace.read(Pooled)]
    forget(workspace.root, documents=["secret.txt"], yes=True, runtime=runtime)
    assert [one.query_id for one in workspace.read(Pooled)] == before
    assert {one.passages for one in workspace.read(Pooled)} == {("part1.txt#0001",)}
    assert workspace.path("person_grades.jsonl").read_text() == ""
    forget(workspace.root, queries=[QUESTION], yes=True, runtime=runtime)
    assert [one.query_id for one in workspace.read(Pooled)] == before[1:]


def test_every_file_of_rows_is_looked_through(made):
    """A kind of rows that is added to the run folder needs a rule here, too."""
    workspace = made[0]
    rows = {name for name in FILES.values() if name.endswith(".jsonl")} | {PERSON_FILE}
    rows.remove("finetuned/losses.jsonl")  # numbers alone
    for name in rows:
        path = workspace.path(name)
        path.write_text(path.read_text() if path.exists() else "")
    target = target_of(Named(queries=[QUESTION], documents=["secret.txt"]), workspace, read_forgotten(workspace))
    opened = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(files, "_rows", lambda w, name, rule, dry: opened.append(name) or iter(()))
        list(files.run_files(workspace, target, dry=True))
    assert rows <= {*opened}


def test_what_was_edited_stays_fresh_and_the_document_stays_out(made, tmp_path):
    workspace, config, runtime = made
    names = ("ingest", "generate", "mine")
    before = {name: freshness(stage_named(name), workspace, config).why for name in names}
    assert before == dict.fromkeys(names, "")
    forget(workspace.root, documents=[str(tmp_path / "docs" / "secret.txt")], yes=True, runtime=runtime)
    assert {name: freshness(stage_named(name), workspace, config).why for name in names} == before
    run_stage(stage_named("ingest"), workspace, config, runtime)
    assert holding(IN_DOCUMENT, tmp_path / "run") == []
    assert any("1 documents or records are left out" in line for line in runtime.report.lines)
    secret = tmp_path / "docs" / "secret.txt"
    secret.rename(tmp_path / "docs" / "renamed.txt")
    run_stage(stage_named("ingest"), workspace, config, runtime)
    assert holding(IN_DOCUMENT, tmp_path / "run") == [], "a copy under another name is left out, too"


def test_a_document_goes_from_shards_that_workers_share(made, tmp_path):
    workspace, config, runtime = made
    store = VectorStore(tmp_path / "of-another-machine", shared=FolderShards(tmp_path / "shared"))
    texts = [one.content for one in workspace.read(Passage) if one.document_id == "secret.txt"]
    store.embed(local_model("base", config.model), [*texts, "another"], is_query=False)
    assert holding("embedfit vectors", tmp_path / "shared")
    found = forget(workspace.root, documents=["secret.txt"], yes=True, runtime=replace(runtime, vectors=store))
    assert (str(tmp_path / "shared"), 1) in [(one.name, one.count) for one in found.places]
    assert store.forget_shared(["passage"], texts, dry=True) == 0


def test_a_question_goes_from_every_byte_and_stays_out(made, tmp_path):
    workspace, config, runtime = made
    assert len(holding(IN_QUESTION, tmp_path / "run")) >= 4
    found = forget(workspace.root, queries=[QUESTION.upper() + "?"], yes=True, runtime=runtime)
    assert everything_holding(IN_QUESTION, tmp_path) == []
    assert found.models == () and sum(one.is_asked for one in workspace.read(Query)) == 60
    assert freshness(stage_named("generate"), workspace, config).state == "fresh"
    run_stage(stage_named("generate"), workspace, config, written_by_a_fake(runtime))
    assert holding(IN_QUESTION, tmp_path / "run") == []
    assert IN_QUESTION in (tmp_path / "log.txt").read_text(), "the file is the user's"
    assert read_forgotten(workspace).queries == {key_of(QUESTION)}


def test_a_question_by_its_id_or_in_a_file(made, tmp_path):
    workspace, _, runtime = made
    own = next(one for one in workspace.read(Query) if IN_QUESTION in one.text)
    forget(workspace.root, query_ids=[own.query_id], yes=True, runtime=runtime)
    assert everything_holding(IN_QUESTION, tmp_path) == []
    forget(workspace.root, query_ids=[own.query_id], yes=True, runtime=runtime)  # once more does no harm
    (tmp_path / "gone.txt").write_text("how do i fix number 7\nhow do i fix number 8\n")
    forget(workspace.root, files=[tmp_path / "gone.txt"], yes=True, runtime=runtime)
    assert sum(one.is_asked for one in workspace.read(Query)) == 58


def test_a_model_that_saw_it_is_said_with_the_command(made):
    workspace, _, runtime = made
    workspace.path("finetuned").mkdir()
    training = [json.loads(line) for line in workspace.path("train.jsonl").read_text().splitlines()]
    found = forget(workspace.root, queries=[training[0]["query"]], yes=True, runtime=runtime)
    assert found.models == ("finetuned",)
    assert f"Train again: embedfit run --run {workspace.root}" in "\n".join(runtime.report.lines)
    left = [json.loads(line) for line in workspace.path("train.jsonl").read_text().splitlines()]
    assert left == [row for row in training if key_of(row["query"]) != key_of(training[0]["query"])]
    del runtime.report.lines[:]
    forget(workspace.root, queries=[training[0]["query"]], yes=True, runtime=runtime)
    said = "\n".join(runtime.report.lines)
    assert "no model was trained on it" not in said and "was said then" in said, "its rows can't tell any more"


@pytest.mark.parametrize("by_path", [False, True])
@pytest.mark.parametrize("point", ["ledger_rows", "vectors", "run_files", "index_run", "inputs_of"])
def test_a_command_that_was_killed_goes_on(made, tmp_path, monkeypatch, point, by_path):
    workspace, config, runtime = made
    named = [str(tmp_path / "docs" / "secret.txt") if by_path else "secret.txt"]

    def killed(*args, dry=False, **options):
        if dry:
            return original(*args, dry=True, **options)
        if point == "run_files":  # in the middle of the files
            steps = original(*args, dry=False, **options)
            for _ in range(9):
                next(steps)
        raise KeyboardInterrupt

    original = getattr(verb, point)
    with monkeypatch.context() as patched:
        patched.setattr(verb, point, killed)
        with pytest.raises(KeyboardInterrupt):
            forget(workspace.root, documents=named, yes=True, runtime=runtime)
    forget(workspace.root, documents=named, yes=True, runtime=runtime)
    assert everything_holding(IN_DOCUMENT, tmp_path) == []
    assert freshness(stage_named("ingest"), workspace, config).state == "fresh"


def test_nothing_goes_without_a_yes(made, tmp_path):
    workspace, _, runtime = made
    before = everything_holding(IN_DOCUMENT, tmp_path)
    with pytest.raises(UsageError, match="Nothing was deleted"):
        forget(workspace.root, documents=["secret.txt"], runtime=runtime)
    assert everything_holding(IN_DOCUMENT, tmp_path) == before and not workspace.path("forgotten.json").exists()
    done = CliRunner().invoke(app, ["forget", "--run", str(workspace.root)])
    assert isinstance(done.exception, UsageError)
    with pytest.raises(InputError, match="holds no document 'none'"):
        forget(workspace.root, documents=["none"], yes=True, runtime=runtime)
    with pytest.raises(InputError, match="holds no query 'none'"):
        forget(workspace.root, query_ids=["none"], yes=True, runtime=runtime)


def test_a_record_of_an_index_of_documents(tmp_path, tiny_bert):
    """Records of a BEIR corpus go one by one, or with all others of their document."""
    corpus, text = tmp_path / "corpus.jsonl", "the sound of the tv can be muted"
    rows = [{"_id": str(n), "title": f"t{n // 2}", "text": f"{text} {IN_DOCUMENT if n == 1 else n}"} for n in range(8)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    runtime, folder = Runtime(ledger=tmp_path / "ledger.sqlite"), tmp_path / "run"
    index_documents(corpus, folder=folder, model=str(tiny_bert), runtime=runtime)
    forget(folder, documents=["1"], yes=True, runtime=runtime)
    assert everything_holding(IN_DOCUMENT, tmp_path) == []
    assert len(load(folder).search("mute", 20)) == 7
    index_documents(corpus, folder=folder, runtime=runtime, force=True)
    assert len(load(folder).search("mute", 20)) == 7, "an index that is made again leaves it out"
    with pytest.raises(InputError, match="Nothing would be left"):
        forget(folder, documents=[str(corpus)], yes=True, runtime=runtime)


def test_the_last_document_of_an_index(tmp_path, tiny_bert):
    """Where the others were taken out with --remove, no index is left that would go on finding it."""
    docs = [tmp_path / "a.md", tmp_path / "b.md"]
    for path, word in zip(docs, (IN_DOCUMENT, "other"), strict=True):
        path.write_text(f"# A heading\n\nThe sound of the tv can be muted by a button that is called {word}.\n")
    runtime, folder = Runtime(ledger=tmp_path / "ledger.sqlite"), tmp_path / "run"
    index_documents(docs, folder=folder, model=str(tiny_bert), runtime=runtime)
    update_index(folder, remove=["b.md"], runtime=runtime)
    said = Said()
    docs[0].unlink()
    assert forget(folder, documents=["a.md"], yes=True, runtime=replace(runtime, report=said)).done
    assert "forget: no passage is left, so index is deleted" in said.lines
    assert everything_holding(IN_DOCUMENT, tmp_path) == []
    with pytest.raises(ArtifactMissing):
        load(folder)


def test_a_ledger_with_the_questions_of_a_judge(made, tmp_path):
    """Short questions go where they are a line of their own, and calls about others stay."""
    workspace, _, runtime = made
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        before = sum(one.calls for one in ledger.totals())
        for number, text in enumerate(
            ["<queries>\n1. pay bill\n2. x\n</queries>", '{"query": "Pay bill?"}', "how do i pay bill number 3"]
        ):
            request = Request(messages=(Message(role="user", content=text),), max_tokens=5)
            ledger.put(f"j{number}", "p", "m", request, Reply(text="1", input_tokens=1, output_tokens=1))
    found = forget(workspace.root, queries=["pay bill"], yes=True, runtime=runtime)
    assert found.sent == ("p m",)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert sum(one.calls for one in ledger.totals()) == before + 1
        assert set(ledger.find(["j0", "j1", "j2"])) == {"j2"}


def test_what_calls_cost_stays_counted(tmp_path):
    with Ledger(tmp_path / "l.sqlite") as ledger:
        for number in range(3):
            request = Request(messages=(Message(role="user", content=f"{IN_DOCUMENT} {number}"),), max_tokens=5)
            ledger.put(
                f"k{number}", "p", "m", request, Reply(text="x", input_tokens=1, output_tokens=1), usd=0.5, run="r"
            )
        assert ledger.forget(["k0", "k2", "unknown"]) == 2
        assert ledger.spent("r") == pytest.approx(1.5)
        assert set(ledger.find(["k0", "k1", "k2"])) == {"k1"}


def test_marks_are_what_only_the_forgotten_text_has():
    footer = "all rights reserved no part of this text may be copied without leave of its owner"
    secret = f"jane doe lives in the yellow house by the old mill near the river {footer}"
    marks = Marks(["mute", "where is the parcel of jane doe"], [secret], [f"the tv is loud {footer}"])
    assert marks.holds("… Jane Doe lives in the yellow house, by the old mill near …")
    assert not marks.holds(f"a lamp {footer}")
    assert marks.holds('[{"query": "mute"}]') and marks.holds("1. Mute?\n2. x") and marks.holds("Query: mute")
    assert not marks.holds("how do i mute the tv")
    assert marks.holds("say where is the parcel of jane doe please")
