"""Hard negatives: hard, but not so near to the positive that they may be answers."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.config import resolve
from embedfit.corpus.gathering import Corpus
from embedfit.corpus.sources.discover import discover
from embedfit.errors import InputError
from embedfit.files.flagembedding import read_flagembedding
from embedfit.mining.selection import below_positive, select
from embedfit.mining.stage import chosen, rows_of, run
from embedfit.mining.teachers import by_base
from embedfit.path.artefacts import Passage, Query, TrainRow
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime

WORDS = "tv mute sound query passage the how what is to of and wifi 12345 zebra quartz".split()


def test_the_rule_of_nv_retriever() -> None:
    scores = np.array([0.80, 0.76, 0.75, -0.1], np.float32)
    assert below_positive(scores, 0.8, 0.95).tolist() == [False, True, True, True]
    assert below_positive(scores, -0.05, 0.95).tolist() == [False, False, False, True]


@given(
    count=st.integers(0, 8), positive=st.floats(0.1, 1), seed=st.integers(0, 5),
    scores=st.lists(st.floats(-1, 1, width=32), max_size=40),
)  # fmt: skip
def test_what_is_selected_is_allowed_hard_and_ordered(
    count: int, positive: float, seed: int, scores: list[float]
) -> None:
    ordered = np.array(sorted(scores, reverse=True), np.float32)
    ids = np.arange(len(ordered)) * 3
    excluded = {0, 6}
    chosen = select(
        ids, ordered, positive=positive, excluded=excluded, count=count, max_relative_score=0.95,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    places = [number // 3 for number in chosen]
    passing = [n for n in range(len(ordered)) if ordered[n] <= 0.95 * positive and n * 3 not in excluded]
    assert len(chosen) == min(count, len(passing)) == len(set(chosen))
    assert places == sorted(places)
    assert set(places) <= set(passing[: 2 * count])


def passage(number: int, document: str = "d", start: int = 0, end: int = 0) -> Passage:
    return Passage(passage_id=f"p{number}", document_id=document, title="", text=f"text {number}", start=start, end=end)


@pytest.mark.parametrize("grouped_by", ["title", "id"])
def test_records_of_one_document_may_be_hard_negatives_of_each_other(tmp_path: Path, grouped_by: str) -> None:
    """A BEIR record is a text of its own: the record before or after it shares no character with it."""
    path = tmp_path / "corpus.jsonl"
    records = [
        {
            "_id": f"{'r' if grouped_by == 'title' else 'manual'}{n // 6 if grouped_by == 'id' else ''}-{n}",
            "title": ("Sound", "Picture")[n // 6] if grouped_by == "title" else "",
            "text": f"{WORDS[n]} is what the {n} mutes",
        }
        for n in range(12)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    with ExitStack() as files:
        corpus = Corpus(resolve().ingest, lambda: files.enter_context(Workspace(tmp_path).unnamed()))
        (source,) = discover([str(path)])
        corpus.add(corpus.arrival(source))
        passages = corpus.passages.lines()
    assert len({passage.document_id for passage in passages}) == 2, "six records are one document"
    angles = np.arange(12) * np.pi / 8
    vectors = unit(*zip(np.cos(angles), np.sin(angles), strict=True))
    query = Query(query_id="q", passage_id=records[2]["_id"], text="find", style="question", split="train", kept=True)
    config = resolve(overrides={"mine": {"negatives": 2, "max_relative_score": 2.0}})
    (choice,) = chosen(passages, [query], vectors, vectors[2:3], config, Runtime())
    assert choice.positives == (2,)
    assert set(choice.negatives) <= {0, 1, 3, 4}, "two of the four nearest, all in the document of the positive"
    assert len(choice.negatives) == 2


def unit(*rows: tuple[float, float]) -> np.ndarray:
    vectors = np.array(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_rows_leave_out_positives_twins_and_near_copies() -> None:
    vectors = unit((1, 0), (0.99, 0.141), (0.9, 0.436), (0.6, 0.8), (0, 1))
    query = Query(
        query_id="q", passage_id="p0", text="find", style="question", split="train", kept=True, also_relevant=("p3",)
    )
    config = resolve(overrides={"mine": {"negatives": 4}})
    passages = [passage(n) for n in range(5)]
    choices = chosen(passages, [query], vectors, vectors[:1], config, Runtime())
    (row,) = rows_of(by_base(choices, vectors[:1], vectors), [query], passages, prompt="q: ")
    assert row.pos == ("text 0", "text 3")
    assert row.neg == ("text 2", "text 4"), "p1 is a near copy of p0, p3 a twin"
    assert row.pos_scores == pytest.approx((1.0, 0.6), abs=1e-3)
    assert row.neg_scores == pytest.approx((0.9, 0.0), abs=1e-3)
    assert row.prompt == "q: "


def test_the_stage_mines_from_the_train_part_only_and_is_repeatable(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedfit.mining.stage.SAME_COSINE", 2.0)  # a random model finds all texts alike
    workspace = Workspace(tmp_path)
    settings = {"negatives": 4, "max_relative_score": 2.0}
    config = resolve(preset="offline", overrides={"model": str(tiny_bert), "mine": settings})
    splits = ["train"] * 12 + ["dev"] * 4
    workspace.write(
        Passage,
        [Passage(passage_id=f"p{n}", document_id=f"d{n}", title="", text=WORDS[n] * 3, split=split)
         for n, split in enumerate(splits)],
    )  # fmt: skip
    workspace.write(
        Query,
        [Query(query_id=f"q{n}", passage_id=f"p{n}", text=f"{n} what", style="question", split=split, kept=n != 3)
         for n, split in enumerate(splits)],
    )  # fmt: skip
    run(workspace, config, Runtime())
    rows = workspace.read(TrainRow)
    assert len(rows) == 11
    texts = {WORDS[n] * 3 for n in range(12)}
    assert all(set(row.pos) | set(row.neg) <= texts for row in rows)
    assert all(len(row.neg) <= 4 and row.prompt == "query: " for row in rows)
    assert sum(len(row.neg) for row in rows) > len(rows)
    assert read_flagembedding(workspace.path("train.jsonl")) == rows
    before = workspace.path("train.jsonl").read_bytes()
    run(workspace, config, Runtime())
    assert workspace.path("train.jsonl").read_bytes() == before


def test_without_negatives_nothing_is_encoded(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedfit.models.encoder.Encoder.encode", None)
    workspace = Workspace(tmp_path)
    workspace.write(Passage, [passage(n) for n in range(3)])
    query = Query(
        query_id="q",
        passage_id="p1",
        text="what",
        style="question",
        split="train",
        kept=True,
        also_relevant=("p2", "x"),
    )
    workspace.write(Query, [query])
    run(workspace, resolve(overrides={"model": str(tiny_bert), "mine": {"negatives": 0}}), Runtime())
    (row,) = workspace.read(TrainRow)
    assert row.pos == (passage(1).content, passage(2).content)
    assert (row.query, row.neg, row.pos_scores, row.neg_scores, row.prompt) == ("what", (), (), (), "query: ")


def test_without_queries_there_is_nothing_to_mine(tiny_bert: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.write(Passage, [passage(0)])
    workspace.write(Query, [])
    with pytest.raises(InputError, match="No training query"):
        run(workspace, resolve(overrides={"model": str(tiny_bert)}), Runtime())
