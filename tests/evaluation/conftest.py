"""A small run folder with real (tiny, random) models, and vectors that stay in the test's own folder."""

from __future__ import annotations

import shutil

import pytest
import torch

from embedfit.choosing import stage as choosing
from embedfit.config import resolve, save
from embedfit.files.beir import write_beir
from embedfit.files.retrieval import Entry, RetrievalData
from embedfit.models.folder import read_tensors, save_model
from embedfit.models.layout.reading import read_architecture
from embedfit.models.store.vectors import VectorStore
from embedfit.path.artefacts import Document, Passage, Query, TrainRow
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime

TOPICS = ("mute the sound", "reset the remote", "pair a speaker", "update the set", "lock a channel", "save energy")


@pytest.fixture
def cache(tmp_path):
    return VectorStore(tmp_path / "vectors")


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "run")


def passages_of(documents=3, each=4):
    return [
        Passage(
            passage_id=f"d{document}-{number}",
            document_id=f"d{document}",
            title=f"Chapter {number}",
            text=f"To {TOPICS[(document + number) % len(TOPICS)]} hold the button {number} of part {document}.",
            page=number + 1,
            split=("train", "dev", "test")[document % 3],
        )
        for document in range(documents)
        for number in range(each)
    ]


def build_run(workspace, tiny_bert, *, other_model=None, documents=3, each=4, **settings):
    """Fill a run folder up to the merge stage. Returns its configuration."""
    config = resolve(overrides={"model": str(tiny_bert), "docs": ["manuals"], **settings})
    workspace.root.mkdir(parents=True)
    save(config, workspace.path("embedfit.toml"))
    passages = passages_of(documents, each)
    workspace.write(
        Document,
        [
            Document(document_id=f"d{n}", path=f"manuals/{n}.md", sha256="0" * 64, characters=1000)
            for n in range(documents)
        ],
    )
    workspace.write(Passage, passages)
    queries = [
        Query(
            query_id=f"q{number}",
            passage_id=passage.passage_id,
            text=f"how to {TOPICS[number % len(TOPICS)]}?" if number % 2 else f"button {number} part",
            style="question" if number % 2 else "keywords",
            split=passage.split,
            kept=number % 5 != 0,
            reason="" if number % 5 else "too short",
            call_id=f"call{number}",
        )
        for number, passage in enumerate(passages)
    ]
    workspace.write(Query, queries)
    workspace.write(TrainRow, [TrainRow(query="a", pos=("b",)), TrainRow(query="c", pos=("d",))])
    kept = [query for query in queries if query.kept]
    write_beir(
        workspace.path("eval"),
        RetrievalData(
            corpus={passage.passage_id: Entry(passage.text, passage.title) for passage in passages},
            queries={query.query_id: query.text for query in kept},
            qrels={query.query_id: {query.passage_id: 1} for query in kept},
        ),
    )
    shutil.copytree(tiny_bert, workspace.path("finetuned"))
    shutil.copytree(other_model or tiny_bert, workspace.path("merged"))
    workspace.write_json("merge.json", {"decision": {"ship": "merged", "alpha": 0.4, "why": "better on dev"}})
    choosing.run(workspace, config, Runtime(ledger=workspace.path("ledger.sqlite")))
    return config


@pytest.fixture(scope="session")
def other_bert(tiny_bert, tmp_path_factory):
    """The tiny BERT with other weights."""
    folder = tmp_path_factory.mktemp("models") / "other-bert"
    generator = torch.Generator().manual_seed(5)
    tensors = {
        name: tensor + 0.2 * torch.randn(tensor.shape, generator=generator) if tensor.ndim > 1 else tensor
        for name, tensor in read_tensors(tiny_bert).items()
    }
    save_model(folder, tensors, base=tiny_bert, layout=read_architecture(tiny_bert))
    return folder
