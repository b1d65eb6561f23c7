"""An index over a model of two towers: passages by one, queries by the other, in every part of the retriever."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from embedfit.commands.indexing import index_documents
from embedfit.errors import ModelError
from embedfit.index.search import Index
from embedfit.index.tokens import TokenReader
from embedfit.models.encoder import Encoder
from embedfit.models.layout.towers import save_towers
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import VectorStore
from embedfit.numerics.arrays import Vectors
from embedfit.runtime import Runtime
from embedfit.testing.tiny_model import make_tiny_bert
from tests.models.tiny_families import save_family
from tests.models.tiny_towers import SHAPES

QUERIES = ["how old is the lamp", "when is the kite moved"]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("documents") / "things.jsonl"
    rows = [
        {"_id": thing, "title": "", "text": f"The {thing} is {n} years old. " * (1 + 20 * (n % 3))}
        for n, thing in enumerate("tv lamp oven bike kite sofa door roof".split())
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("shape", SHAPES)
def test_an_index_takes_the_right_tower(
    shape: str, documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_tiny_bert(tmp_path / "base", pooling="mean")
    folder = SHAPES[shape](base, tmp_path)
    runtime = Runtime(vectors=VectorStore(tmp_path / "vectors"))
    untuned = index_documents([documents], folder=tmp_path / "untuned", model=str(base), runtime=runtime)
    whole = Encoder.load(folder)
    passages, queries = (whole.tower(is_query=is_query) for is_query in (False, True))
    encoded: set[str] = set()
    encode = Encoder.encode

    def noted(self: Encoder, texts: Sequence[str], *, is_query: bool = False, **more: Any) -> Vectors:
        encoded.update(() if is_query else texts)
        return encode(self, texts, is_query=is_query, **more)

    monkeypatch.setattr(Encoder, "encode", noted)
    monkeypatch.setattr(TokenReader, "read", lambda *_: pytest.fail("the base's tokens are in the store"))
    index_documents([documents], folder=tmp_path / "tuned", model=str(folder), runtime=runtime)
    monkeypatch.undo()
    assert not encoded
    tuned = Index.open(tmp_path / "tuned" / "index")
    for name in ("one", "windows", "tokens"):
        mine, bases = getattr(tuned.parts, name), getattr(untuned.parts, name)
        np.testing.assert_array_equal(*((one if name == "one" else one.vectors) for one in (mine, bases)))
    assert tuned.stored.model.key != untuned.stored.model.key
    asked = tuned.asker.ask(QUERIES)
    assert_allclose(asked.vectors, queries.encode_unit(QUERIES, is_query=True), atol=1e-3)
    assert np.abs(asked.vectors - passages.encode_unit(QUERIES, is_query=True)).max() > 1e-2
    assert asked.tokens is not None and tuned.stored.tokens is not None
    expected = TokenReader(queries).queries(QUERIES, tuned.stored.tokens)[1]
    for (found, weights), (vectors, rare) in zip(asked.tokens, expected, strict=True):
        assert_allclose(found, vectors, atol=2e-3)
        assert_allclose(weights, rare)
    bases_own = TokenReader(passages).queries(QUERIES, tuned.stored.tokens)[1]
    difference = float(np.abs(asked.tokens[0][0] - bases_own[0][0]).max())
    assert (difference > 1e-2) == (shape == "query")  # a map changes no token's state
    assert [hit.passage_id for hit in tuned.search("lamp", 3)]


def test_a_changed_query_tower_is_another_model(documents: Path, tmp_path: Path) -> None:
    base = make_tiny_bert(tmp_path / "base", pooling="mean")
    folder = SHAPES["map"](base, tmp_path)
    index_documents([documents], folder=tmp_path / "index", model=str(folder))
    save_towers(folder, query=base, document=base)
    with pytest.raises(ModelError, match="other weights"):
        Index.open(tmp_path / "index" / "index")


def test_towers_with_other_tokens_have_no_late_interaction(documents: Path, tmp_path: Path) -> None:
    folder = tmp_path / "merged"
    save_towers(folder, query=save_family("bert", tmp_path / "query"), document=make_tiny_bert(tmp_path / "base"))
    with pytest.raises(ModelError, match="late interaction") as error:
        index_documents([documents], folder=tmp_path / "index", model=str(folder))
    assert "--no-tokens" in str(error.value.remedy)
    model = LocalModel("towers", folder)
    index = index_documents([documents], folder=tmp_path / "index", model=str(folder), tokens=False)
    assert_allclose(index.asker.ask(QUERIES).vectors, model.embed(QUERIES, is_query=True), atol=1e-3)
