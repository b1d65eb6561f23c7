"""The gate with recorded grades of a strong model on four corpora, against the labels of people: it is never wrong.

Vectors are kept in pytest's cache, so that only the first run computes them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from embedfit.choosing import evidence as evidences
from embedfit.choosing import stage
from embedfit.choosing.candidates import Candidate
from embedfit.choosing.estimates import plain
from embedfit.choosing.gate import compared
from embedfit.choosing.questions import Question
from embedfit.choosing.ranking import rank
from embedfit.config import Config
from embedfit.index.build import Source
from embedfit.index.retriever import from_json
from embedfit.interchange import read_beir
from embedfit.models.local import base_model
from embedfit.models.vectors import vector_cache
from embedfit.progress import Silent
from embedfit.records import Passage, Query
from embedfit.runtime import Runtime
from embedfit.workspace import Workspace

CORPORA = ("stackfaq", "feedbackqa_cdc", "emanual", "annual_reports")


@pytest.fixture
def kept_vectors(request, monkeypatch):
    folder = request.config.cache.mkdir("embedfit")
    monkeypatch.setattr("embedfit.models.vectors.cache_folder", lambda: Path(folder))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("corpus", CORPORA)
def test_recorded_grades_never_choose_what_is_worse_by_people_s_labels(
    corpus, data_dir, minilm, kept_vectors, tmp_path
):
    data = data_dir / corpus
    workspace, config = run_of(data, minilm, tmp_path / "run")
    stage.run(workspace, config, Runtime(ledger=tmp_path / "ledger.sqlite"))
    found = workspace.read_json("retriever.json")

    assert found["evidence"]["kind"] == "graded" and found["evidence"]["questions"] >= 40
    assert "50 questions" in found["why"] or str(found["evidence"]["questions"]) in found["why"]
    rows = {row["name"]: row for row in found["candidates"]}
    assert {"one", "windows", "one_words", "windows_words", "bm25", "rrf", "default"} <= rows.keys()
    assert all(0 <= row["ungraded"] < 0.2 for row in rows.values())
    if corpus in ("stackfaq", "feedbackqa_cdc"):
        assert found["retriever"]["name"] not in ("one_words", "windows_words", "bm25")
        assert rows["one_words"]["delta"] < 0
    if found["retriever"] != found["default"]:
        assert by_people(data, config, found) != "worse"


def test_recorded_grades_keep_words_from_where_they_harm(data_dir, minilm, tmp_path):
    """The same on what was graded of stackfaq alone, by the first stage alone, which takes seconds."""
    workspace, config = run_of(data_dir / "stackfaq", minilm, tmp_path / "run", questions=20)
    config = config.model_copy(update={"index": config.index.model_copy(update={"tokens": "no"})})
    stage.run(workspace, config, Runtime(ledger=tmp_path / "ledger.sqlite"))
    found = workspace.read_json("retriever.json")
    rows = {row["name"]: row for row in found["candidates"]}
    assert found["evidence"]["kind"] == "graded" and found["retriever"]["name"] not in ("one_words", "windows_words")
    assert rows["bm25"]["verdict"] == "worse" and rows["bm25"]["ndcg"] < rows["default"]["ndcg"] - 0.1
    assert from_json(found["retriever"]).rerank is None


def run_of(data: Path, minilm: Path, root: Path, *, questions: int = 0) -> tuple[Workspace, Config]:
    """A run of the untrained base on a corpus, whose people asked the judged questions.

    questions: only so many, and of the passages only those that were graded for them.
    """
    workspace = Workspace(root)
    beir = read_beir(data)
    asked = [json.loads(line) for line in (data / "judged.jsonl").read_text().splitlines()][: questions or None]
    graded = {passage for row in asked for passage in row["grades"]}
    workspace.write(
        Passage,
        [
            Passage(passage_id=key, document_id=key, title=one.title, text=one.text)
            for key, one in beir.corpus.items()
            if not questions or key in graded
        ],
    )
    workspace.write(
        Query,
        [
            Query(query_id=f"asked-{n}", passage_id="", text=row["query"], style="asked", split="judge", kept=True)
            for n, row in enumerate(asked)
        ],
    )
    workspace.write_json("merge.json", {"decision": {"ship": "base", "alpha": 0.0, "why": "nothing is trained"}})
    config = Config(
        model=str(minilm), generate={"generator": "local"}, choose={"judge": f"recorded:{data / 'judged.jsonl'}"}
    )
    return workspace, config


def by_people(data: Path, config: Config, found: dict) -> str:
    """The chosen retriever against the default on all of people's questions."""
    beir = read_beir(data)
    ids = sorted(beir.corpus)
    questions = [
        Question(query_id=key, text=text, relevant=frozenset(p for p, grade in beir.qrels[key].items() if grade > 0))
        for key, text in beir.queries.items()
        if any(grade > 0 for grade in beir.qrels.get(key, {}).values())
    ]
    pair = [
        Candidate(name=name, model="base", retriever=from_json(found[key]))
        for name, key in (("chosen", "retriever"), ("default", "default"))
    ]
    source = Source(contents=[beir.corpus[key].content for key in ids])
    texts = [one.text for one in questions]
    ranked = rank(pair, base_model(config), source, texts, 10, vector_cache(), Silent())
    rankings = [[[ids[number] for number in row] for row in rows] for _, rows in ranked]
    evidence = evidences.labelled("labelled", questions, pair, rankings)
    rng = np.random.default_rng(0)
    return compared(plain(evidence.values[:, :1] - evidence.values[:, 1:], evidence.clusters, rng=rng))[0].verdict
