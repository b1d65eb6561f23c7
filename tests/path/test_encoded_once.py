"""A run encodes each passage once a model: whatever a stage encodes, the later ones take from the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from embedfit.commands.indexing import index_run
from embedfit.index import tokens
from embedfit.models.encoder import Encoder
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import Chunk, VectorStore
from embedfit.numerics.arrays import Floats, Vectors
from embedfit.path.artefacts import CheckResult, Passage
from embedfit.runtime import Runtime
from embedfit.scale.executor import Tell
from embedfit.testing.run_folder import build_run


@pytest.mark.slow
def test_passages_are_encoded_once_a_model_in_all_stages_and_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: Counter[tuple[str, str]] = Counter()
    tokenised: Counter[tuple[str, str]] = Counter()
    every: Counter[str] = Counter()
    embed, encode, read = LocalModel.embed, Encoder.encode, tokens._read

    def embed_counted(self: LocalModel, texts: Sequence[str], *, is_query: bool) -> Vectors:
        if not is_query:
            embedded.update((self.tower(is_query=False).key, text) for text in texts)
        return embed(self, texts, is_query=is_query)

    def read_counted(state: tuple[LocalModel, Floats], chunk: Chunk, tell: Tell) -> object:
        tokenised.update((state[0].key, text) for text in chunk.texts)
        return read(state, chunk, tell)

    def encode_counted(self: Encoder, texts: Sequence[str], *, is_query: bool = False, **more: object) -> Vectors:
        if not is_query:
            every.update(dict.fromkeys(texts, 1))
        return encode(self, texts, is_query=is_query, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalModel, "embed", embed_counted)
    monkeypatch.setattr(Encoder, "encode", encode_counted)
    monkeypatch.setattr(tokens, "_read", read_counted)
    workspace, _ = build_run(tmp_path)
    index_run(
        workspace.root, runtime=Runtime(ledger=tmp_path / "ledger.sqlite", vectors=VectorStore(tmp_path / "vectors"))
    )
    stored = embedded | tokenised
    contents = {passage.content for passage in workspace.read(Passage)}
    models = {key for key, text in stored if text in contents}
    assert len(models) >= 3, "the base, the tuned and the merged model"
    assert {text for _, text in stored} >= contents
    assert set(embedded.values()) == set(tokenised.values()) == {1}
    # One pass gives a passage's one vector and its tokens. The check alone encodes passages before: those of its pairs.
    checked = {pair.passage for pair in workspace.load(CheckResult).pairs}
    again = {(key, text) for key, text in embedded.keys() & tokenised.keys() if text in contents}
    assert {text for _, text in again} <= checked
    assert len({key for key, _ in again}) <= 1
    # Nothing encodes beside the store.
    assert all(every[text] <= len(models) for text in contents)
