"""A log becomes rows of queries.jsonl, and whoever wants written queries does not see them."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from embedfit.asked.log import read_log
from embedfit.asked.rows import rows_of_log
from embedfit.deploy.probe import texts_of
from embedfit.path.artefacts import Passage, Query, written
from embedfit.reporting.evidence import gather
from tests.said import Said

PASSAGES = [
    Passage(passage_id=f"guides/tv.md#{n}", document_id="guides/tv.md", title="", text=f"The television {text}.")
    for n, text in enumerate(["can be muted with the red button", "has a warranty of two years"])
]


def embed(texts):
    rows = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8).astype(np.float32) - 128 for text in texts]
    return np.stack([row / np.linalg.norm(row) for row in rows])


def rows(tmp_path, lines, *, judged=50):
    path, report = tmp_path / "log.jsonl", Said()
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    found = rows_of_log(read_log([path], report, seed=13), PASSAGES, embed, report, judged=judged, seed=13)
    return found, "\n".join(report.lines)


def test_a_sample_judges_and_the_rest_is_the_log(tmp_path):
    found, _ = rows(tmp_path, [f"question number {n}" for n in range(300)])
    assert [sum(one.split == split for one in found) for split in ("judge", "log")] == [50, 250]
    assert len({one.query_id for one in found}) == 300
    assert all(one.style == "asked" and one.kept and one.passage_id == "" for one in found)
    assert found == rows(tmp_path, [f"question number {n}" for n in range(300)])[0]


@pytest.mark.parametrize(("labelled", "judges"), [(14, 50), (15, 15), (40, 40), (120, 50)])
def test_questions_with_positives_judge_where_there_are_enough(tmp_path, labelled, judges):
    lines = [f'{{"query": "asked thing {n}", "positives": ["tv.md#{n % 2}", "tv.md"]}}' for n in range(labelled)]
    lines += [f'{{"query": "bare thing {n}", "positives": ["no such file"]}}' for n in range(300)]
    found, said = rows(tmp_path, lines)
    judging = [one for one in found if one.split == "judge"]
    assert len(judging) == judges and len(found) == labelled + 300
    assert labelled < 15 or all(one.passage_id for one in judging)
    assert f"{labelled + 300} positives are neither" in said, "each unknown name is counted"


def test_five_questions_work_and_are_said_to_be_too_few(tmp_path):
    found, said = rows(tmp_path, [f"question {n}" for n in "abcde"])
    assert [one.split for one in found] == ["judge"] * 5
    assert "5 different questions are too few to choose a retriever by" in said
    assert "too few" not in rows(tmp_path, [f"question {n}" for n in range(20)])[1]


def test_positives_are_passages_or_documents(tmp_path):
    lines = [{"query": "mute", "positives": ["guides/tv.md#1"]}, {"query": "all of it", "positives": ["tv.md"]},
             {"query": "x y", "positives": ["nothing", "guides/tv.md"]}]  # fmt: skip
    found, said = rows(tmp_path, map(json.dumps, lines))
    by_text = {one.text: (one.passage_id, one.also_relevant) for one in found}
    assert by_text == {
        "mute": ("guides/tv.md#1", ()),
        "all of it": ("guides/tv.md#0", ("guides/tv.md#1",)),
        "x y": ("guides/tv.md#0", ("guides/tv.md#1",)),
    }
    assert "1 positives are neither a passage nor a document" in said


def test_questions_in_another_language_are_said(tmp_path):
    german = [f"Wie kann ich den Ton meines Fernsehers ausschalten, Nummer {n}?" for n in range(20)]
    assert "the questions seem to be in German, and the documents in English" in rows(tmp_path, german)[1]
    english = [f"how can i turn the sound of number {n} off" for n in range(20)]
    assert "seem to be" not in rows(tmp_path, english)[1]


def test_nothing_of_a_question_is_logged(tmp_path):
    secret = ["zebra secret@example.org", "zebra secret@example.org", '{"query": ""}', "zebra 4111 1111 1111 1111"]
    _, said = rows(tmp_path, secret * 10)
    assert said and "zebra" not in said and "example.org" not in said and "4111" not in said


# --- who reads queries.jsonl


def asked_row(number, passage_id=""):
    return Query(
        query_id=f"asked-{number}", passage_id=passage_id, text=f"zebra {number}", style="asked",
        split="judge" if number % 2 else "log", kept=True, times=3,
    )  # fmt: skip


@pytest.fixture
def run_folder(run_copy):
    """A run, and the same with questions that people asked, some with an answer."""
    workspace, config = run_copy(human=False, ship=False)
    queries = workspace.read(Query)
    some = [asked_row(n, queries[n].passage_id if n < 3 else "") for n in range(6)]
    return workspace, config, queries, some


def test_the_report_counts_written_queries_alone(run_folder):
    workspace, config, queries, some = run_folder
    before = gather(workspace, config).funnel
    workspace.write(Query, [*some, *queries, *some])
    assert gather(workspace, config).funnel == before


def test_check_probe_and_evaluation_leave_asked_questions_out(run_folder):
    workspace, _, queries, some = run_folder
    (workspace.root / "merged").mkdir(exist_ok=True)
    before = texts_of(workspace.root / "merged")
    workspace.write(Query, [*some, *queries])
    assert texts_of(workspace.root / "merged") == before
    assert written([*some, *queries]) == queries


def test_every_module_that_reads_queries_chooses_the_written_ones():
    """Whoever reads queries.jsonl calls written(), or says here why not."""
    import ast
    from pathlib import Path

    import embedfit

    # The first counts calls, of which asked questions have none. The others read people's questions, and only those.
    may = {"llm/ledger/spent.py", "commands/drift.py", "training/teachers/corpus.py"}
    root = Path(embedfit.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        reads = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("read", "records")
            and any(isinstance(argument, ast.Name) and argument.id == "Query" for argument in node.args)
        ]
        if reads and not any(isinstance(node, ast.Name) and node.id == "written" for node in ast.walk(tree)):
            found.add(path.relative_to(root).as_posix())
    assert found <= may, f"{sorted(found - may)}: questions that people asked are no written queries: see written()"
