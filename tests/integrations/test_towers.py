"""The classes for LangChain and LlamaIndex over a model of two towers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sentence_transformers import SentenceTransformer

import embedfit
from embedfit.integrations.langchain import EmbedfitEmbeddings
from embedfit.integrations.llamaindex import EmbedfitEmbedding
from embedfit.testing.tiny_model import make_tiny_bert
from tests.models.tiny_towers import SHAPES

TEXTS = ["how to mute the tv", "The sound is off. " * 30]


@pytest.mark.parametrize("shape", SHAPES)
def test_queries_and_passages_take_their_towers(shape: str, tmp_path: Path) -> None:
    folder = SHAPES[shape](make_tiny_bert(tmp_path / "base", pooling="mean"), tmp_path)
    theirs = SentenceTransformer(str(folder), device="cpu")
    queries, passages = theirs.encode_query(TEXTS), theirs.encode_document(TEXTS)
    assert np.abs(queries - passages).max() > 1e-2
    chain, llama = EmbedfitEmbeddings(str(folder)), EmbedfitEmbedding.from_folder(str(folder))
    assert_allclose(chain.embed_documents(TEXTS), passages, atol=1e-2)  # in the machine's fastest precision
    assert_allclose(chain.embed_query(TEXTS[0]), queries[0], atol=1e-2)
    assert_allclose(llama.get_text_embedding_batch(TEXTS), passages, atol=1e-2)
    assert_allclose(llama.get_query_embedding(TEXTS[0]), queries[0], atol=1e-2)
    assert_allclose(embedfit.encode(folder, TEXTS, is_query=True), queries, atol=1e-2)
    assert_allclose(embedfit.load_base(str(folder)).encode(TEXTS), passages, atol=1e-2)
