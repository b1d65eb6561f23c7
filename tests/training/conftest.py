from pathlib import Path

import numpy as np
import pytest

from embedfit.models.encoder import Encoder
from embedfit.path.artefacts import Passage, Query, TrainRow
from embedfit.path.workspace import Workspace
from embedfit.training.trunk import Trunk


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch, one_thread):
    """Tiny tensors are slower in two threads, and other tests want the cores."""
    monkeypatch.setattr("embedfit.training.stage.cores", lambda: 1)


def make_trunk(folder: Path) -> Trunk:
    return Trunk(Encoder.load(folder, precision="fp32"))


def random_texts(count: int, *, seed: int = 0, longest: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(5, 60, rng.integers(3, longest + 1)).astype(np.int32) for _ in range(count)]


WORDS = "red green blue fast slow loud quiet bright dark warm cold sharp soft heavy light round flat deep".split()


def make_run(root: Path, *, rows: int = 24, negatives: int = 2) -> Workspace:
    """A run folder with made-up passages, each of which answers the queries that name two of its words."""
    rng = np.random.default_rng(1)
    workspace = Workspace(root)
    root.mkdir(parents=True, exist_ok=True)
    texts = [" ".join(rng.choice(WORDS, 8)) for _ in range(rows + 8)]
    passages = [
        Passage(passage_id=f"p{i}", document_id="d", title="", text=text, split="train" if i < rows else "dev")
        for i, text in enumerate(texts)
    ]
    queries = [
        Query(query_id=f"q{i}", passage_id=p.passage_id, text=" ".join(p.text.split()[:3]), style="question",
              split=p.split, kept=True)
        for i, p in enumerate(passages)
    ]  # fmt: skip
    workspace.write(Passage, passages)
    workspace.write(Query, queries)
    workspace.write(
        TrainRow,
        [
            TrainRow(query=q.text, pos=(p.content,), neg=tuple(rng.choice(texts[:rows], negatives, replace=False)))
            for p, q in zip(passages[:rows], queries, strict=False)
        ],
    )
    return workspace
