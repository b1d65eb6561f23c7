"""LlamaIndex's EmbeddingQAFinetuneDataset: one JSON object with queries, corpus and relevant_docs, all by id."""

from __future__ import annotations

import json
from pathlib import Path

from embedfit.errors import InputError
from embedfit.files.atomic import atomic_file
from embedfit.files.retrieval import Entry, Qrels, RetrievalData
from embedfit.files.textfiles import json_of


def read_llamaindex(path: Path) -> RetrievalData:
    """LlamaIndex's EmbeddingQAFinetuneDataset: queries, corpus and relevant_docs, all by id."""
    value = json_of(path)
    parts = []
    for name in ("queries", "corpus", "relevant_docs"):
        part = value.get(name) if isinstance(value, dict) else None
        if not isinstance(part, dict):
            raise InputError(f"{path}: {name} is missing, or is not an object.")
        parts.append(part)
    queries, corpus, relevant = parts
    for name, part in (("queries", queries), ("corpus", corpus)):
        wrong = next((key for key, text in part.items() if not isinstance(text, str)), None)
        if wrong is not None:
            raise InputError(f"{path}: {name}[{wrong!r}] is not a text.")
    qrels: Qrels = {}
    for query_id, passages in relevant.items():
        if not isinstance(passages, list):
            raise InputError(f"{path}: relevant_docs[{query_id!r}] is not a list of ids.")
        if not all(isinstance(passage_id, (str, int)) for passage_id in passages):
            raise InputError(f"{path}: relevant_docs[{query_id!r}] holds something that is no id.")
        qrels[query_id] = {str(passage_id): 1 for passage_id in passages}
    return RetrievalData(corpus={key: Entry(text) for key, text in corpus.items()}, queries=dict(queries), qrels=qrels)


def write_llamaindex(path: Path, data: RetrievalData) -> None:
    """Write LlamaIndex's EmbeddingQAFinetuneDataset. A title becomes the beginning of its passage's text."""
    value = {
        "queries": data.queries,
        "corpus": {key: entry.content for key, entry in data.corpus.items()},
        "relevant_docs": {
            query_id: [passage_id for passage_id, score in judged.items() if score > 0]
            for query_id, judged in data.qrels.items()
        },
        "mode": "text",
    }
    with atomic_file(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")
