"""The demo: the whole path on the help topics that every CPython ships, offline, measured on hand-written questions."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from pydoc_data.topics import topics

from embedfit.commands import runs
from embedfit.files.beir import write_beir
from embedfit.files.retrieval import Entry, RetrievalData
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Longer topics are left out of the corpus, because the retention check needs text outside it.
MAX_TOPIC_WORDS = 1_400
PASSAGE_WORDS = 110


def corpus() -> tuple[dict[str, Entry], dict[str, list[str]]]:
    """Passages by id, and the ids of each topic's passages. A passage is a few whole paragraphs."""
    entries: dict[str, Entry] = {}
    of_topic: dict[str, list[str]] = {}
    for topic in sorted(topics):
        if len(topics[topic].split()) > MAX_TOPIC_WORDS:
            continue
        heading, paragraphs = _paragraphs(topics[topic])
        for number, text in enumerate(_packed(paragraphs)):
            identifier = f"{topic}-{number}"
            entries[identifier] = Entry(text=text, title=heading)
            of_topic.setdefault(topic, []).append(identifier)
    return entries, of_topic


def human_queries(of_topic: dict[str, list[str]]) -> tuple[dict[str, str], dict[str, dict[str, float]]]:
    """The hand-written questions, and for each its topic's passages. Topics that this Python lacks are left out."""
    written = tomllib.loads(resources.files("embedfit.commands").joinpath("demo_queries.toml").read_text("utf-8"))
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, float]] = {}
    for topic, texts in written.items():
        for number, text in enumerate(texts if topic in of_topic else ()):
            queries[f"{topic}?{number}"] = text
            qrels[f"{topic}?{number}"] = dict.fromkeys(of_topic[topic], 1)
    return queries, qrels


def demo(run_folder: str | Path, *, assignments: Sequence[str] = (), runtime: Runtime | None = None) -> runs.RunResult:
    """Write the corpus and its questions beside the run, and run the whole path with the offline preset."""
    entries, of_topic = corpus()
    queries, qrels = human_queries(of_topic)
    folder = Workspace(run_folder).path("demo-data")
    write_beir(folder, RetrievalData(corpus=entries, queries=queries, qrels=qrels))
    return runs.run(
        folder / "corpus.jsonl",
        run=run_folder,
        eval_beir=folder,
        preset="offline",
        settings={"generate": {"domain": "the reference manual of the Python programming language"}},
        assignments=assignments,
        yes=True,  # the offline preset makes no paid call
        runtime=runtime,
    )


def _paragraphs(text: str) -> tuple[str, list[str]]:
    blocks = [" ".join(block.split()) for block in re.split(r"\n\s*\n", text)]
    heading = re.sub(r"[\s*=\-~]+$", "", blocks[0]).strip()
    return heading, [block for block in blocks[1:] if re.search(r"[A-Za-z]", block)]


def _packed(paragraphs: Sequence[str]) -> list[str]:
    packed: list[str] = []
    for paragraph in paragraphs:
        if packed and len(packed[-1].split()) + len(paragraph.split()) <= PASSAGE_WORDS:
            packed[-1] += " " + paragraph
        else:
            packed.append(paragraph)
    return packed
