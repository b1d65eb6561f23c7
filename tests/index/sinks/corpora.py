"""Indexes that the tests of sinks hand over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from embedfit.commands.indexing import index_documents
from embedfit.index.build import Source, build
from embedfit.index.retriever import EXPANDED
from embedfit.index.search import Index
from embedfit.index.sinks.handover import export
from embedfit.index.sinks.sink import kind_of
from embedfit.index.store.folder import Origin, write
from embedfit.index.store.manifest import Identity
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import VectorStore
from embedfit.path.artefacts import Passage
from embedfit.progress import Silent
from embedfit.runtime import Runtime

LONG = "The pump has a filter, and each spring the filter must be cleaned before the pump is started again. " * 12
TOPICS = ("pump", "filter", "valve", "motor", "cable", "lamp", "door", "brake", "wheel", "clock")
#: Queries that try the parts: words of one passage, of many, of none, repeated ones, other scripts.
QUERIES = ("clean the pump filter", "note 7", "brake brake cable", "Ünïcode 😀", "nothing of this kind", "泵", "a")
#: Ids that break what builds its commands from texts, ids that look like dates, which name their documents
#: too, and a very long one.
ODD_IDS = (
    "it's", 'say "hi"', "😀/ü", "a;DROP TABLE x;--", "{1:2}", "%s %(a)s", "tab\there", "back\\slash", "2024-01-07",
    "1999", "".join(hashlib.sha256(bytes([n])).hexdigest() for n in range(100)),
)  # fmt: skip
DATED = ODD_IDS[-3:-1]


def documents_index(folder: Path, model: Path, *, count: int = 40, odd: bool = True) -> Index:
    """An index of `count` short and long passages with fields."""
    ids = [*(ODD_IDS if odd else ()), *(f"p{n:03}" for n in range(count))][:count]
    rows = [
        {"_id": one, "title": one if one in DATED else f"Pümp 😀 {TOPICS[n % 10]}", "text": text_of(n),
         "year": 2000 + n,
         "tags": ["a", "b'; --"] if n % 2 else ["c"], "day": f"2024-01-{n % 28 + 1:02}", "even": n % 2 == 0}
        for n, one in enumerate(ids)
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    runtime = Runtime(vectors=VectorStore(folder / "vectors"))
    return index_documents(folder / "corpus.jsonl", folder=folder / "ix", model=str(model), runtime=runtime)


def text_of(number: int) -> str:
    """The text of a passage: every third one is several windows long."""
    first, second = TOPICS[number % 10], TOPICS[number * 3 % 10]
    return f"Note {number} about the {first} and the {second}. {LONG if number % 3 == 0 else ''} 离心泵 {number}."


def expanded_index(folder: Path, model_folder: Path, *, queries: Sequence[Sequence[str]]) -> Index:
    """An index with written queries, a passage for each list of them."""
    passages = [
        Passage(passage_id=f"p{n:03}", document_id=f"d{n}", title=TOPICS[n % 10], text=text_of(n))
        for n in range(len(queries))
    ]
    model = LocalModel("tiny", model_folder)
    source = Source(contents=[one.content for one in passages], queries=queries)
    built = build(source, model, EXPANDED, VectorStore(folder / "vectors"), Silent())
    (folder / "ix").mkdir(parents=True)
    identity = Identity(name=str(model_folder), key=model.key, instruction=model.instruction)
    write(folder / "ix", built, passages, Origin(model=identity))
    return Index.open(folder / "ix")


def hand(index: Index, url: str) -> None:
    """Hand an index over, in batches of seven."""
    export(index, kind_of(url).open(url), Silent(), batch_rows=7)
