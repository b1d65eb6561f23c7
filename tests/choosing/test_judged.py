"""The gate with recorded grades of a strong model on four corpora, against the labels of people: it is never wrong.

Vectors are kept in pytest's cache, so that only the first run computes them. People's questions are ranked beside the
judged ones, so that the tokens of a corpus are encoded once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from embedfit.choosing import stage
from embedfit.choosing.candidates import CandidateRetriever
from embedfit.choosing.evidence import labelled
from embedfit.choosing.gate import compared
from embedfit.choosing.questions import JudgingQuestion
from embedfit.choosing.ranking import rank
from embedfit.config import Config
from embedfit.files.beir import read_beir
from embedfit.index.retriever import Retriever
from embedfit.models.store.vectors import VectorStore
from embedfit.path.artefacts import Passage, Query
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime

CORPORA = ("stackfaq", "feedbackqa_cdc", "emanual", "annual_reports")


@pytest.fixture
def kept_vectors(request):
    return VectorStore(Path(request.config.cache.mkdir("embedfit")) / "vectors")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("corpus", CORPORA)
def test_recorded_grades_never_choose_what_is_worse_by_people_s_labels(
    corpus, data_dir, minilm, kept_vectors, monkeypatch, tmp_path
):
    data = data_dir / corpus
    workspace, config = run_of(data, minilm, tmp_path / "run")
    people = People.of(data, workspace)
    monkeypatch.setattr(stage, "rank", people.rank)
    stage.run(workspace, config, Runtime(ledger=tmp_path / "ledger.sqlite", vectors=kept_vectors))
    found = workspace.read_json("retriever.json")

    assert found["evidence"]["kind"] == "graded" and found["evidence"]["questions"] >= 40
    assert "50 questions" in found["why"] or str(found["evidence"]["questions"]) in found["why"]
    rows = {row["name"]: row for row in found["candidates"]}
    assert {"one", "windows", "one_words", "windows_words", "bm25", "rrf", "default"} <= rows.keys()
    assert all(0 <= row["ungraded"] < 0.2 for row in rows.values())
    if corpus in ("stackfaq", "feedbackqa_cdc"):
        assert found["retriever"]["name"] not in ("one_words", "windows_words", "bm25")
        assert rows["one_words"]["delta"] < 0
    assert len(people.questions) >= 300 and rows.keys() == {one.name for one in people.candidates}
    assert people.verdict(found["retriever"]["name"]) != "worse"


def test_recorded_grades_keep_words_from_where_they_harm(data_dir, minilm, tmp_path, monkeypatch):
    """The same on the beginnings of what was graded of stackfaq, by the first stage alone, which takes seconds."""
    workspace, config = run_of(data_dir / "stackfaq", minilm, tmp_path / "run", questions=16, words=64)
    config = config.model_copy(update={"index": config.index.model_copy(update={"tokens": "no"})})
    monkeypatch.setattr("embedfit.index.constants.SAMPLE", 40)
    stage.run(workspace, config, Runtime(ledger=tmp_path / "ledger.sqlite"))
    found = workspace.read_json("retriever.json")
    rows = {row["name"]: row for row in found["candidates"]}
    assert found["evidence"]["kind"] == "graded" and found["candidates"], found["why"]
    assert found["retriever"]["name"] not in ("one_words", "windows_words")
    assert rows["bm25"]["verdict"] == "worse" and rows["bm25"]["ndcg"] < rows["default"]["ndcg"] - 0.1
    assert TypeAdapter(Retriever).validate_python(found["retriever"]).rerank is None


def run_of(
    data: Path, minilm: Path, root: Path, *, questions: int = 0, words: int | None = None
) -> tuple[Workspace, Config]:
    """A run of the untrained base on a corpus, whose people asked the judged questions.

    questions: only so many, and of the passages only those that were graded for them. words: of a passage, the first.
    """
    workspace = Workspace(root)
    beir = read_beir(data)
    asked = [json.loads(line) for line in (data / "judged.jsonl").read_text().splitlines()][: questions or None]
    graded = {passage for row in asked for passage in row["grades"]}
    workspace.write(
        Passage,
        [
            Passage(
                passage_id=key,
                document_id=key,
                title=one.title,
                text=one.text if words is None else " ".join(one.text.split()[:words]),
            )
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


@dataclass
class People:
    """All of people's questions with the passages that they named, ranked beside those that the gate asks for."""

    ids: list[str]
    questions: list[JudgingQuestion]
    candidates: list[CandidateRetriever] = field(default_factory=list)
    rankings: list[list[list[str]]] = field(default_factory=list)

    @classmethod
    def of(cls, data: Path, workspace: Workspace) -> People:
        beir = read_beir(data)
        right = {key: frozenset(p for p, grade in beir.qrels.get(key, {}).items() if grade > 0) for key in beir.queries}
        questions = [
            JudgingQuestion(query_id=key, text=text, relevant=right[key])
            for key, text in beir.queries.items()
            if right[key]
        ]
        return cls(sorted(one.passage_id for one in workspace.read(Passage)), questions)

    def rank(self, candidates, model, source, texts, k, runtime):
        """In the place of `rank`: the same for `texts`."""
        asked = [*texts, *(one.text for one in self.questions)]
        found = rank(candidates, model, source, asked, k, runtime)
        for one, rows in found:
            self.candidates.append(one)
            self.rankings.append([[self.ids[number] for number in row] for row in rows[len(texts) :]])
        return [(one, rows[: len(texts)]) for one, rows in found]

    def verdict(self, chosen: str) -> str:
        """A candidate against the safe default."""
        evidence = labelled("labelled", self.questions, self.candidates, self.rankings)
        place = evidence.place("base", chosen)
        return compared(evidence.against(evidence.place("base", "default"), [place], rng=np.random.default_rng(0)))[
            0
        ].verdict
