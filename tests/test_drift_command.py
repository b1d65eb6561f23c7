"""`embedfit drift`: questions and documents that are as before, and others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from embedfit.cli.main import app
from embedfit.commands.indexing import index_documents
from embedfit.models.store.vectors import VectorStore
from embedfit.path.artefacts import ASKED, Query
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime
from tests.json_forms import printed
from tests.serving.conftest import TOPICS, write_corpus


@pytest.fixture(scope="module")
def run(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an index and sixty questions of people."""
    where = tmp_path_factory.mktemp("drift")
    runtime = Runtime(vectors=VectorStore(where / "vectors"))
    index_documents(write_corpus(where), folder=where / "ix", model=str(tiny_bert), runtime=runtime)
    Workspace(where / "ix").write(
        Query,
        (
            Query(query_id=f"q{number}", passage_id="", text=text, style=ASKED, split="log", kept=True)
            for number, text in enumerate(questions(0, 60))
        ),
    )
    return where / "ix"


def questions(start: int, count: int) -> list[str]:
    words = " ".join(TOPICS.values()).lower().replace(".", "").split()
    places = [[(7 * n + step) % len(words) for step in range(4)] for n in range(start, start + count)]
    return [f"how {' '.join(words[place] for place in four)} {n}" for n, four in enumerate(places, start)]


def drift(run: Path, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["drift", "--run", str(run), *arguments])
    return done.exit_code, done.stdout or str(done.exception)


def test_questions_of_the_same_kind_do_not_differ(run, tmp_path):
    same = tmp_path / "same.txt"
    same.write_text("\n".join(questions(60, 50)))
    code, said = drift(run, "--queries", str(same))
    assert code == 0 and "No difference of the new questions" in said and "only large changes" in said


def test_other_questions_differ(run, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"query": f"zq {'x' * (n % 9)} {n} !? 你好"}) + "\n" for n in range(50)))
    code, said = drift(run, "--queries", str(other), "--json")
    found = printed("embedfit drift", said)
    assert code == 3 and found["drifted"] and found["questions"]["p"] < 0.016 and found["by_people"]
    assert found["passages"] is None and found["questions"]["new"] == 50


def test_documents_are_compared_too(run, tmp_path):
    same = tmp_path / "same.txt"
    same.write_text("\n".join(questions(60, 50)))
    texts = [f"Zebras {n} graze {'x' * n} 你好 far away from here today." for n in range(30)]
    rows = [{"_id": str(n), "title": "", "text": text} for n, text in enumerate(texts)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, said = drift(run, "--queries", str(same), "--documents", str(tmp_path / "corpus.jsonl"))
    assert code == 3 and "The new passages differ from the old" in said


@pytest.mark.parametrize("text", ["", "how do I\nwhat is\n", "\n\n", "!!\n??\n"])
def test_too_few_questions_are_refused(run, tmp_path, text):
    few = tmp_path / "few.txt"
    few.write_text(text)
    code, said = drift(run, "--queries", str(few))
    assert code == 1 and str(few) in said


def test_a_folder_that_is_no_run_is_refused_with_the_command(tmp_path):
    code, said = drift(tmp_path, "--queries", str(tmp_path / "missing.txt"))
    assert code == 1 and "holds no questions" in said
