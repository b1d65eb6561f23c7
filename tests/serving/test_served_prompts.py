"""A folder's prompts through the server: each client's vectors are sentence-transformers', no prompt comes twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.testing import assert_allclose
from sentence_transformers import SentenceTransformer

from embedfit.embedders.tei import tei
from embedfit.integrations.langchain import EmbedfitEmbeddings, EmbedfitServerEmbeddings
from embedfit.integrations.llamaindex import EmbedfitEmbedding
from embedfit.models.encoder import Encoder
from embedfit.models.layout.modules import unit_rows
from embedfit.testing.server import RunningServer, running_server
from tests.models.tiny_families import save_family

PROMPTS = {"query": "find: ", "passage": "Text – ", "other": "x "}
TEXTS = ["mute the TV", "a", "The sound is off. " * 30, "naïve 東京 🙂\u2028", "x" * 500]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every trap at once: a default prompt, prompts out of the pooling, lower case, no norm."""
    target = tmp_path_factory.mktemp("prompts") / "model"
    save_family(
        "bert", target, after=list, pooling_mode=("mean", "max"), include_prompt=False,
        prompts=PROMPTS, default_prompt_name="passage",
    )  # fmt: skip
    (target / "sentence_bert_config.json").write_text('{"max_seq_length": 40, "do_lower_case": true}')
    return target


@pytest.fixture(scope="module")
def theirs(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


@pytest.fixture(scope="module")
def prompted(folder: Path) -> Iterator[RunningServer]:
    with running_server(folder, "--engine", "torch", "--precision", "fp32") as running:
        yield running


@pytest.mark.slow
def test_the_server_gives_the_vectors_of_encode_for_every_prompt(prompted: RunningServer, theirs: SentenceTransformer):
    cases = [
        (None, None),
        ("", ""),
        ("query", "find: "),
        ("passage", "Text – "),
        ("document", "Text – "),
        ("other", "x "),
    ]
    for name, prompt in cases:
        expected = theirs.encode(TEXTS) if prompt is None else theirs.encode(TEXTS, prompt=prompt)
        for normalize in (True, False):
            body = {"inputs": TEXTS, "prompt_name": name, "normalize": normalize}
            vectors = np.array(httpx.post(f"{prompted.url}/embed", json=body, timeout=60).json())
            assert_allclose(vectors, unit_rows(expected) if normalize else expected, atol=1e-5, rtol=1e-5)
    answer = httpx.post(f"{prompted.url}/v1/embeddings", json={"input": TEXTS, "model": "m"}, timeout=60).json()
    assert_allclose([row["embedding"] for row in answer["data"]], unit_rows(theirs.encode(TEXTS)), atol=1e-5)
    info = httpx.get(f"{prompted.url}/info").json()
    assert info["default_prompt"] == "Text – " and info["prompts"]["document"] == "Text – "


@pytest.mark.slow
def test_our_own_clients_agree_with_sentence_transformers(
    prompted: RunningServer, folder: Path, theirs: SentenceTransformer
):
    queries, passages = unit_rows(theirs.encode_query(TEXTS)), unit_rows(theirs.encode(TEXTS))
    endpoint = tei(prompted.url)
    for chain in (EmbedfitServerEmbeddings(prompted.url), EmbedfitEmbeddings(str(folder))):
        assert_allclose(chain.embed_documents(TEXTS), passages, atol=1e-5)
        assert_allclose(chain.embed_query(TEXTS[0]), queries[0], atol=1e-5)
    for index in (EmbedfitEmbedding.from_server(prompted.url), EmbedfitEmbedding.from_folder(str(folder))):
        assert_allclose(index.get_text_embedding_batch(TEXTS), passages, atol=1e-5)
        assert_allclose(index.get_query_embedding(TEXTS[0]), queries[0], atol=1e-5)
    for is_query, expected in ((True, queries), (False, passages)):
        assert_allclose(endpoint.embed(TEXTS, is_query=is_query), expected, atol=1e-5)
        assert_allclose(Encoder.load(folder).encode_unit(TEXTS, is_query=is_query), expected, atol=1e-5)
    endpoint.release()
