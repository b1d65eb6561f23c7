"""The endpoint test against an endpoint in this process; the example runs it against a real server."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest

from embedfit.commands.indexing import index_documents
from embedfit.deploy.account.calls import Aws
from embedfit.deploy.artefact import resolve_artefact
from embedfit.deploy.probe import probe, texts_of
from embedfit.index.retriever import DEFAULT
from embedfit.models.encoder import Encoder
from embedfit.path.artefacts import Passage, Query
from embedfit.path.workspace import Workspace
from tests.json_forms import printed
from tests.serving.conftest import write_corpus


class Endpoint:
    """boto3's runtime client, as far as it is used. spoil: changes the vectors."""

    def __init__(self, folder, spoil=lambda vectors: vectors, rows=4):
        self.encoder = Encoder.load(folder, precision="fp32")
        self.spoil, self.rows, self.sizes = spoil, rows, []

    def invoke_endpoint(self, EndpointName, Body, **_):
        from botocore.exceptions import ClientError

        texts = json.loads(Body)["inputs"]
        self.sizes.append(len(texts))
        if len(texts) > self.rows:
            text = json.dumps({"error": f"batch size {len(texts)} > maximum allowed batch size {self.rows}"})
            raise ClientError(
                {"Error": {"Code": "ModelError"}, "OriginalStatusCode": 422, "OriginalMessage": text}, "InvokeEndpoint"
            )
        vectors = self.spoil(self.encoder.encode(texts))
        return {"Body": io.BytesIO(json.dumps(vectors.tolist()).encode())}


def run(client, folder, **arguments):
    aws = Aws(session=None, region="us-east-1", _clients={"sagemaker-runtime": client})
    return probe(aws, "up", folder, texts_of(folder), requests=5, concurrency=2, **arguments)


def test_the_same_model_agrees(tiny_bert):
    client = Endpoint(tiny_bert)
    result = run(client, tiny_bert)
    assert result.agrees and result.lowest_cosine > 0.9999
    printed("embedfit deploy sagemaker test", json.dumps(asdict(result)))
    assert result.dimensions == 32 and result.queries == result.passages == 8
    assert 0 < result.p50_ms <= result.p95_ms <= result.p99_ms
    assert result.requests_per_second > 0 and result.texts_per_second > 0
    assert [size for size in client.sizes if size > 4] == [8]  # the container's limit is learnt from one refusal


@pytest.mark.parametrize(
    "spoil",
    [
        lambda vectors: vectors + np.random.default_rng(0).normal(0, 0.05, vectors.shape),
        lambda vectors: np.roll(vectors, 1, axis=1),
        lambda vectors: vectors[:, :16],
    ],
    ids=["noise", "another model", "another dimension"],
)
def test_another_model_does_not(tiny_bert, spoil):
    assert not run(Endpoint(tiny_bert, spoil), tiny_bert).agrees


def test_queries_go_with_the_instruction_and_passages_without(tiny_bert):
    sent = []

    class Listening(Endpoint):
        def invoke_endpoint(self, EndpointName, Body, **_):
            sent.append(json.loads(Body))
            return super().invoke_endpoint(EndpointName, Body)

    run(Listening(tiny_bert, rows=32), tiny_bert)
    texts = texts_of(tiny_bert)
    assert sent[0]["inputs"] == [f"query: {text}" for text in texts.queries]
    assert sent[1]["inputs"] == list(texts.passages)
    assert not any(body.get("prompt_name") for body in sent)  # the text is put there here


def test_the_texts_of_a_run_are_its_test_queries(tmp_path):
    run_folder = tmp_path / "em"
    (run_folder / "merged").mkdir(parents=True)
    (run_folder / "embedfit.toml").write_text("")
    assert len(texts_of(run_folder / "merged").queries) == 8  # built in, as long as there are none
    workspace = Workspace(run_folder)
    workspace.write(
        Passage, [Passage(passage_id=f"p{n}", document_id="d", title="T", text=f"text {n}") for n in range(3)]
    )
    query = Query(query_id="q", passage_id="p0", text="?", style="question", split="train", kept=True)
    workspace.write(
        Query,
        [
            replace(query, query_id="a", text="train"),
            replace(query, query_id="b", text="first", split="test", passage_id="p2"),
            replace(query, query_id="c", text="again", split="test", passage_id="p2"),
            replace(query, query_id="d", text="dropped", kept=False, passage_id="p1"),
        ],
    )
    texts = texts_of(run_folder / "merged")
    assert texts.queries == ("first", "train") and texts.passages == ("T text 2", "T text 0")


def test_queries_are_ranked_in_the_index_of_the_run_by_both_vectors(tiny_bert, tmp_path):
    run_folder = tmp_path / "run"
    index_documents(write_corpus(tmp_path), folder=run_folder, model=str(tiny_bert))
    shutil.copytree(tiny_bert, run_folder / "merged")
    same = run(Endpoint(tiny_bert), run_folder / "merged")
    assert same.same_ten == same.golden == 1 and same.agrees
    noise = np.random.default_rng(0).normal(0, 1, (100, 32))
    result = run(Endpoint(tiny_bert, lambda vectors: vectors + noise[: len(vectors)]), run_folder / "merged")
    assert result.same_ten < 1 and result.golden < 1 and not result.agrees
    assert not replace(same, golden=0.5).agrees
    assert run(Endpoint(tiny_bert), tiny_bert).same_ten is None


def test_a_plan_says_where_the_other_parts_run(tiny_bert, tmp_path):
    run_folder = tmp_path / "run"
    shutil.copytree(tiny_bert, run_folder / "merged")
    (run_folder / "embedfit.toml").write_text("")
    chosen = {"retriever": DEFAULT.as_json()}
    (run_folder / "retriever.json").write_text(json.dumps(chosen))
    artefact = resolve_artefact(str(run_folder), aliases={}, user_folder=tmp_path, device="gpu")
    note = next(note for note in artefact.notes if "words, tokens (late interaction) run where the index is" in note)
    assert f"embedfit serve {run_folder}" in note
