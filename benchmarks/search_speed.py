"""How long a search among 100,000 passages takes, one query at a time, beside what one would write by hand.

    python benchmarks/search_speed.py                                  # 100,000 passages, some 4 GB of disk for a while
    python benchmarks/search_speed.py --passages 10000
    python benchmarks/search_speed.py --faiss PATH/TO/python           # an interpreter that has faiss-cpu and numpy
    python benchmarks/search_speed.py --approximate                    # 1,000,000 windows: lists beside exact search

The index is made up: unit vectors of 384 numbers, three windows a passage, texts of 80 words with Zipf's frequencies,
100 tokens of 128 bytes a passage. What is measured is whole: the query's text goes in, ten passages with their texts
and reasons come out; the model that reads the query is real (MiniLM). The ten are compared with those that the plain
formula finds in float32. Beside it: numpy's product of float32 vectors with a partition, faiss' flat index of float32
and of float16 vectors, each over the same rows, and bm25s over the same texts. None of these reads a query with a
model, none sums anything, so each is a lower bound for one part.

--approximate makes up one vector of a third of a million passages, three windows each, close to one of 3,000 topics,
with texts of 12 words, and measures the first stage by approximate lists and by the exact search that is without them:
milliseconds a query, the recall of the best fifty, and seconds and bytes of the lists.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import torch

from embedfit.files.atomic import atomic_file
from embedfit.index import approximate, scoring
from embedfit.index import retriever as retrievers
from embedfit.index.build import Built
from embedfit.index.scoring import Asked, Parts, Rows, Scores, Tokens, find
from embedfit.index.search import Index
from embedfit.index.store.folder import Origin, write
from embedfit.index.store.manifest import Identity
from embedfit.index.tokens import WIDTH, TokenSpace
from embedfit.models.local import local_model
from embedfit.numerics.machine import cores, encoding_precision, gemm_rate
from embedfit.path.artefacts import Passage
from embedfit.progress import LogLines
from embedfit.retrieval.bm25 import Bm25

HERE = Path(__file__).parent
OUT = HERE / "results" / "search_speed.json"
WINDOWS = 3
TOKENS = 100
TOPICS = 3_000
WORDS = 80
VOCABULARY = 50_000
QUERIES = 60
FAISS = """
import sys, time, json, numpy as np, faiss
rows, queries = np.load(sys.argv[1]), np.load(sys.argv[2])
faiss.omp_set_num_threads(int(sys.argv[3]))
result = {"version": faiss.__version__}
for name, kind in (("float32", None), ("float16", faiss.ScalarQuantizer.QT_fp16)):
    index = faiss.IndexFlatIP(rows.shape[1]) if kind is None else faiss.IndexScalarQuantizer(
        rows.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    for start in range(0, len(rows), 65536):
        index.train(rows[:1000]); index.add(rows[start:start + 65536].astype(np.float32))
    took = []
    for query in queries:
        started = time.perf_counter(); index.search(query[None], 10); took.append(time.perf_counter() - started)
    result[name] = 1000 * sorted(took)[len(took) // 2]
print(json.dumps(result))
"""


def unit_rows(rng: np.random.Generator, count: int, width: int) -> np.ndarray[Any, np.dtype[np.float16]]:
    """Random unit rows, a block at a time."""
    result = np.empty((count, width), np.float16)
    for start in range(0, count, 65_536):
        rows = rng.standard_normal((min(65_536, count - start), width), np.float32)
        result[start : start + len(rows)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return result


def texts_of(rng: np.random.Generator, count: int, words: int) -> list[str]:
    """Texts whose words have Zipf's frequencies."""
    shares = 1 / np.arange(1, VOCABULARY + 1)
    drawn = rng.choice(VOCABULARY, (count, words), p=shares / shares.sum())
    vocabulary = np.array([f"w{number:x}q" for number in range(VOCABULARY)])
    return [" ".join(row) for row in vocabulary[drawn]]


def made_up(folder: Path, count: int, texts: Sequence[str], width: int, model: Any) -> None:  # noqa: ANN401 - LocalModel
    """Write the index."""
    rng = np.random.default_rng(0)
    starts = WINDOWS * np.arange(count + 1)
    tokens = rng.integers(-127, 128, (TOKENS * count, WIDTH), np.int8)
    parts = Parts(
        size=count,
        one=unit_rows(rng, count, width),
        windows=Rows(unit_rows(rng, WINDOWS * count, width), starts),
        words=Bm25(texts),
        tokens=Tokens(tokens, TOKENS * np.arange(count + 1)),
    )
    vocabulary = model.encoder().tokenizer.get_vocab_size(with_added_tokens=True)
    space = TokenSpace(
        projection=np.linalg.qr(rng.standard_normal((2 * model.layout.hidden_size, WIDTH)))[0].astype(np.float32),
        holders=rng.integers(0, count, vocabulary),
        passages=count,
    )
    chosen = retrievers.DEFAULT.with_deviations({"one": 0.05, "windows": 0.05})
    passages = [
        Passage(passage_id=f"{number:07}", document_id=f"d{number // 100}", title="", text=text)
        for number, text in enumerate(texts)
    ]
    identity = Identity(name="minilm", key=model.key, instruction=model.instruction)
    write(folder, Built(parts=parts, retriever=chosen, tokens=space), passages, Origin(model=identity))


def near_topics(
    rng: np.random.Generator, topics: np.ndarray[Any, np.dtype[np.float32]], own: np.ndarray[Any, np.dtype[np.int64]]
) -> np.ndarray[Any, np.dtype[np.float16]]:
    """Unit rows whose cosine with their topic is about .7. own: (R,) the topic of each."""
    result = np.empty((len(own), topics.shape[1]), np.float16)
    for start in range(0, len(own), 65_536):
        rows = topics[own[start : start + 65_536]]
        rows = rows + rng.standard_normal(rows.shape, np.float32) / np.float32(topics.shape[1] ** 0.5)
        result[start : start + len(rows)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return result


def approximate_beside_exact(windows: int, width: int = 384) -> dict[str, Any]:
    """The first stage by lists and without them."""
    rng = np.random.default_rng(0)
    count = windows // WINDOWS
    topics = unit_rows(rng, TOPICS, width).astype(np.float32)
    own = rng.integers(0, TOPICS, count)
    texts = texts_of(rng, count, 12)
    parts = Parts(
        size=count,
        one=near_topics(rng, topics, own),
        windows=Rows(near_topics(rng, topics, np.repeat(own, WINDOWS)), WINDOWS * np.arange(count + 1)),
        words=Bm25(texts),
    )
    retriever = retrievers.DEFAULT.without_tokens().with_deviations({"one": 0.05, "windows": 0.05})
    asked = Asked(
        texts=texts_of(rng, 200, 8), vectors=near_topics(rng, topics, rng.integers(0, TOPICS, 200)).astype(np.float32)
    )
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        about = approximate.write(Path(folder), parts, retriever, asked, LogLines(sys.stderr))
        result = {
            "windows": windows,
            "passages": count,
            "lists_and_recall_s": time.perf_counter() - started,
            "lists_bytes": sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()),
            "manifest": about,
        }
        near = replace(parts, near=approximate.opened(Path(folder), about, retriever))
        queries = {text: Asked(texts=[text], vectors=asked.vectors[number][None])
                   for number, text in enumerate(asked.texts[:QUERIES])}  # fmt: skip
        for name, searched in (("approximate", near), ("exact", parts)):
            result[f"{name}_ms"] = median_ms(
                lambda text, searched=searched: find(Scores(searched, queries[text]), retriever, 50), list(queries)
            )
        words = parts.words
        assert words is not None
        result["words_ms"] = median_ms(words.coverage, list(queries))
    result["ratio_to_exact"] = result["approximate_ms"] / result["exact_ms"]
    return result


def median_ms(job: Callable[[str], Any], queries: Sequence[str]) -> float:
    """Median milliseconds of a job over queries, after three that warm up."""
    for query in queries[:3]:
        job(query)
    took = []
    for query in queries:
        started = time.perf_counter()
        job(query)
        took.append(1000 * (time.perf_counter() - started))
    return statistics.median(took)


def measured(index: Index, queries: Sequence[str]) -> dict[str, Any]:
    """The whole and its pieces, in milliseconds a query; and how far the result is from the plain formula's."""
    asked = {query: index.asker.ask([query]) for query in queries}
    one_stage = index.retriever.without_tokens()
    words = index.parts.words
    assert words is not None

    def searched(query: str) -> Any:  # noqa: ANN401 - timed only
        return find(Scores(index.parts, asked[query]), index.retriever, 10)

    result: dict[str, Any] = {
        "search_ms": median_ms(lambda query: index.search(query, 10), queries),
        "reading_the_query_ms": median_ms(lambda query: index.asker.ask([query]), queries),
        "both_stages_ms": median_ms(searched, queries),
        "first_stage_ms": median_ms(lambda query: find(Scores(index.parts, asked[query]), one_stage, 10), queries),
        "words_ms": median_ms(words.coverage, queries),
    }
    quick = [searched(query)[0] for query in queries]
    enough, scoring.SHORT_FROM = scoring.SHORT_FROM, 1 << 60
    result["plain_formula_ms"] = median_ms(searched, queries[:10])
    plain = [searched(query)[0] for query in queries]
    scoring.SHORT_FROM = enough
    result["same_ten"] = sum(a.passages.tolist() == b.passages.tolist() for a, b in zip(quick, plain, strict=True))
    result["largest_difference"] = max(
        float(np.abs(a.scores - b.scores).max()) for a, b in zip(quick, plain, strict=True)
    )
    started = time.perf_counter()
    for _ in index.search_all(queries, 10):
        pass
    result["queries_a_second_many_at_once"] = len(queries) / (time.perf_counter() - started)
    return result


def numpy_ms(rows: np.ndarray[Any, np.dtype[np.float32]], vectors: dict[str, Any]) -> float:
    """A product and a partition."""
    return median_ms(lambda query: np.argpartition(-(rows @ vectors[query]), 10)[:10], list(vectors))


def peers(index: Index, queries: Sequence[str], texts: Sequence[str], faiss: str | None) -> dict[str, Any]:
    """What single parts take elsewhere, in milliseconds a query."""
    windows = index.parts.windows
    assert index.parts.one is not None and windows is not None
    vectors = {query: index.asker.ask([query]).vectors[0] for query in queries}
    rows = np.concatenate([index.parts.one, windows.vectors])
    result: dict[str, Any] = {"numpy_float32_ms": numpy_ms(rows.astype(np.float32), vectors)}
    lexical = bm25s.BM25()
    lexical.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    result["bm25s_ms"] = median_ms(
        lambda query: lexical.retrieve(bm25s.tokenize([query], show_progress=False), k=10, show_progress=False), queries
    )
    if faiss:
        with tempfile.TemporaryDirectory() as folder:
            np.save(f"{folder}/rows.npy", rows)
            np.save(f"{folder}/queries.npy", np.stack([vectors[query] for query in queries]))
            command = [faiss, "-c", FAISS, f"{folder}/rows.npy", f"{folder}/queries.npy", str(cores())]
            answer = subprocess.run(
                command, check=True, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
            )
        result["faiss_flat_ms"] = json.loads(answer.stdout)
    return result


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--faiss", help="a Python that has faiss-cpu")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--approximate", action="store_true", help="measure approximate lists beside exact search")
    parser.add_argument("--windows", type=int, default=1_000_002, help="with --approximate")
    options = parser.parse_args()
    torch.set_num_threads(cores())
    load, began = os.getloadavg()[0], time.perf_counter()
    if options.approximate:
        target = HERE / "results" / "search_speed_approximate.json" if options.out == OUT else options.out
        save(approximate_beside_exact(options.windows), load, target)
        return
    rng = np.random.default_rng(1)
    texts = texts_of(rng, options.passages, WORDS)
    queries = texts_of(rng, QUERIES, 8)
    model = local_model("minilm", "minilm")
    with tempfile.TemporaryDirectory() as folder:
        made_up(Path(folder), options.passages, texts, model.layout.width, model)
        print(f"made up and written in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        started = time.perf_counter()
        index = Index.open(folder)
        opened = time.perf_counter() - started
        result = {
            "passages": options.passages,
            "windows": WINDOWS * options.passages,
            "tokens": TOKENS * options.passages,
            "queries": QUERIES,
            "open_s": opened,
            **measured(index, queries),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "peers": peers(index, queries, texts, options.faiss),
        }
    save(result, load, options.out)


def save(result: dict[str, Any], load: float, target: Path) -> None:
    """Write a result with versions and the machine."""
    result |= {
        "versions": {name: version(name) for name in ("embedfit", "torch", "transformers", "numpy", "bm25s")},
        "hardware": {
            "machine": platform.machine(), "cores": cores(), "gemm_tflops": gemm_rate("fp32") / 1e12,
            "precision": encoding_precision(), "load_at_start": load, "load_at_end": os.getloadavg()[0],
        },
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    with atomic_file(target) as file:
        json.dump(result, file, indent=1)
    print(target, file=sys.stderr)


if __name__ == "__main__":
    main()
