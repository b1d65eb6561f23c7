import json
import shutil

import numpy as np
import pytest

from embedfit.errors import ArtifactMissing, InputError
from embedfit.evaluation.search import search
from embedfit.models.encoder import Encoder
from embedfit.models.local import LocalModel
from embedfit.retrieval.bm25 import Bm25
from embedfit.retrieval.fusion import weighted_sum
from embedfit.retrieval.topk import top_k

from .conftest import build_run, passages_of


def test_base_and_tuned_are_side_by_side(workspace, tiny_bert):
    build_run(workspace, tiny_bert)
    found = search(workspace, "mute the sound", k=3)
    assert list(found["systems"]) == ["base", "merged", "hybrid_merged"]
    encoder = Encoder.load(tiny_bert)
    passages = sorted(passages_of(), key=lambda passage: passage.passage_id)
    ids, scores = top_k(
        encoder.encode(["mute the sound"], is_query=True), encoder.encode([p.content for p in passages]), 3
    )
    base, merged = found["systems"]["base"], found["systems"]["merged"]
    assert [hit["passage_id"] for hit in base] == [passages[row].passage_id for row in ids[0]]
    assert [hit["score"] for hit in base] == pytest.approx(scores[0].tolist(), abs=1e-5)
    assert [(hit["rank"], hit["rank_in_base"]) for hit in merged] == [(1, 1), (2, 2), (3, 3)]
    assert "mute the sound" in found["bm25"][0]["text"]
    assert json.loads(json.dumps(found)) == found


def test_a_second_search_encodes_no_passage(workspace, tiny_bert, monkeypatch):
    build_run(workspace, tiny_bert)
    search(workspace, "mute")
    asked = []
    original = LocalModel.embed

    def spy(self, texts, *, is_query):
        asked.append((len(texts), is_query))
        return original(self, texts, is_query=is_query)

    monkeypatch.setattr(LocalModel, "embed", spy)
    search(workspace, "reset")
    assert asked == [(1, True), (1, True)]


def test_bm25_finds_nothing_where_no_word_matches(workspace, tiny_bert):
    build_run(workspace, tiny_bert)
    assert search(workspace, "zebra")["bm25"] == []


def test_an_empty_query_is_refused(workspace, tiny_bert):
    build_run(workspace, tiny_bert)
    with pytest.raises(InputError, match="empty"):
        search(workspace, "  ")


def test_without_a_merged_model_the_command_is_named(workspace, tiny_bert):
    build_run(workspace, tiny_bert)
    shutil.rmtree(workspace.path("merged"))
    with pytest.raises(ArtifactMissing, match="embedfit merge"):
        search(workspace, "mute")


def test_a_folder_that_is_no_run_is_named(workspace):
    with pytest.raises(ArtifactMissing, match="not a run folder"):
        search(workspace, "mute")


def test_the_hybrid_fuses_as_the_merge_stage_said(workspace, tiny_bert):
    build_run(workspace, tiny_bert)
    found = search(workspace, "mute the sound", k=12)
    contents = {passage.passage_id: passage.content for passage in passages_of()}
    dense = {hit["passage_id"]: hit["score"] for hit in found["systems"]["merged"]}
    ids = sorted(contents)
    lexical = Bm25([contents[key] for key in ids]).scores("mute the sound")
    fused = weighted_sum(np.array([dense[key] for key in ids], np.float32), lexical, weight=0.6)
    hits = found["systems"]["hybrid_merged"]
    assert [hit["passage_id"] for hit in hits[:3]] == [ids[row] for row in np.argsort(-fused, kind="stable")[:3]]
    assert [hit["score"] for hit in hits] == pytest.approx(sorted(fused.tolist(), reverse=True), abs=1e-4)
