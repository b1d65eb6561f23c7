"""Golden answers prove that an index finds what it found when it was built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedfit.commands.indexing import update_index
from embedfit.errors import ModelError
from embedfit.index.search import Index
from embedfit.index.store.golden import share_found
from embedfit.index.store.manifest import Golden
from embedfit.models.store.vectors import VectorStore
from embedfit.runtime import Runtime
from embedfit.serving.loading import proven
from tests.index.sinks.corpora import documents_index
from tests.index.sinks.ranking import first_stage


def test_an_index_finds_its_golden_answers(tiny_bert: Path, tmp_path: Path) -> None:
    index = documents_index(tmp_path, tiny_bert, count=20)
    golden, plain = index.stored.manifest.golden, first_stage(index)
    assert len(golden) == 8
    for one in golden:  # sentences of passages, and what a search finds for them
        assert any(one.query in passage.content for passage in index.passages())
        assert [index.passage(number).passage_id for number in one.passages] == [
            hit.passage_id for hit in plain.search(one.query, 10)
        ]
    assert proven(index) == 1
    texts = [one.query for one in golden]
    other = np.roll(index.asker.ask(texts).vectors, 1, axis=0) * -1
    assert share_found(index.parts, index.retriever, golden, other) < 0.95
    runtime = Runtime(vectors=VectorStore(tmp_path / "vectors"))
    changed = update_index(tmp_path / "ix", remove=[index.passage(3).document_id], runtime=runtime)
    assert proven(changed) == 1
    assert all(number < 19 for one in changed.stored.manifest.golden for number in one.passages)


def test_an_index_that_finds_other_passages_is_not_served(tiny_bert: Path, tmp_path: Path) -> None:
    index = documents_index(tmp_path, tiny_bert, count=20)
    wrong = tuple(
        Golden(query=one.query, passages=tuple(set(range(20)) - {*one.passages}))
        for one in index.stored.manifest.golden
    )
    manifest = index.stored.manifest.model_copy(update={"golden": wrong})
    with pytest.raises(ModelError, match="finds only 0%"):
        proven(Index(replace(index.stored, manifest=manifest), index.asker))
