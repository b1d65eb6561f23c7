"""What ten times as many passages cost: time and memory of each stage, and exact search from the disk.

    python benchmarks/scale.py --quick          # 2,000 and 8,000 passages, some 3 minutes
    python benchmarks/scale.py --sizes 10000 100000 1000000
    python benchmarks/scale.py --sizes 1000000 --keep ~/scale       # the same command goes on where it was stopped

Passages are made up: 40 words with Zipf's frequencies. The model is a random one of two layers and 32 dimensions, so
that encoding doesn't hide what the rest costs. Each stage runs in a process of its own: ingest (one JSONL file),
encode, mine (three queries each of up to 50,000 spread passages), index (one vector and words), evaluate (200 queries,
the same retriever). A stage's seconds begin after the imports. Its memory is what it holds of its own, without mapped
files, above what the process held before. The exponent is the slope of the processor's seconds between two sizes: 1 is
linear.

Search: the exact 50 best of 20,000 queries among 524,288 rows of 384 numbers, read from shards on the disk. Its rate is
2·Q·N·H operations over the seconds, beside the rate of the matrix product alone with as many threads.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from embedfit.files.atomic import atomic_file

OUT = Path(__file__).parent / "results" / "scale.json"
STAGES = ("ingest", "encode", "mine", "index", "evaluate")
#: Folders that a stage makes.
MADE = {"ingest": ("run",), "encode": ("vectors",), "index": ("index",)}
VOCABULARY = 3_000
WORDS = 40
ASKED = 200
QUERIED, EACH = 50_000, 3
WIDTH, K = 384, 50


# --- what is measured, in a process of its own


def _words() -> list[str]:
    """Made-up words of two to four syllables."""
    rng = np.random.default_rng(0)
    syllables = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]
    found = {"".join(rng.choice(syllables, rng.integers(2, 5))) for _ in range(2 * VOCABULARY)}
    return sorted(found)[:VOCABULARY]


def make_corpus(folder: Path, passages: int) -> None:
    """Write the corpus and the model."""
    from embedfit.testing.tiny_model import make_tiny_bert

    words = np.array(_words())
    frequencies = 1 / np.arange(1, len(words) + 1)
    rng = np.random.default_rng(1)
    order = rng.permutation(len(words))
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for start in range(0, passages, 10_000):
            drawn = rng.choice(order, (min(10_000, passages - start), WORDS), p=frequencies / frequencies.sum())
            for number, row in enumerate(drawn, start):
                record = {"_id": f"p{number:08}", "title": "", "text": " ".join(words[row]) + "."}
                file.write(json.dumps(record) + "\n")
    make_tiny_bert(folder / "model", pooling="mean", words=words.tolist())


def _opened(folder: Path, workers: str) -> tuple[Any, Any, Any]:
    from embedfit.config import resolve
    from embedfit.models.store.vectors import VectorStore
    from embedfit.path.workspace import Workspace
    from embedfit.runtime import Runtime
    from embedfit.scale.executor import open_executor

    mined = {"teacher": "none", "negatives": 7}
    settings = {"docs": [str(folder / "corpus.jsonl")], "model": str(folder / "model"), "mine": mined}
    runtime = Runtime(vectors=VectorStore(folder / "vectors"), executor=open_executor(workers))
    return Workspace(folder / "run"), resolve(overrides=settings), runtime


def ingest(folder: Path, workers: str) -> None:
    from embedfit.corpus import stage

    stage.run(*_opened(folder, workers))


def encode(folder: Path, workers: str) -> None:
    from embedfit.models.local import local_model
    from embedfit.path.artefacts import Passage

    workspace, config, runtime = _opened(folder, workers)
    contents = workspace.lines(Passage).map(lambda passage: passage.content)
    runtime.vectors.stored(local_model("base", config.model), contents, is_query=False)


def ask(folder: Path) -> None:
    """Write queries of spread passages: words of the passage."""
    from embedfit.path.artefacts import Passage, Query

    workspace, _, _ = _opened(folder, "inline")
    passages = workspace.lines(Passage).where(lambda passage: passage.split == "train")
    rng = np.random.default_rng(2)
    queries = []
    for place in np.unique(np.linspace(0, len(passages) - 1, min(QUERIED, len(passages)), dtype=np.int64)).tolist():
        passage = passages[place]
        for number in range(EACH):
            text = " ".join(rng.choice(passage.text.split(), 5).tolist())
            queries.append(
                Query(
                    query_id=f"{passage.passage_id}-{number}", passage_id=passage.passage_id, text=text,
                    style="question", split="train", kept=True,
                )
            )  # fmt: skip
    workspace.write(Query, queries)


def mine(folder: Path, workers: str) -> None:
    from embedfit.mining import stage

    stage.run(*_opened(folder, workers))


def index(folder: Path, workers: str) -> None:
    from embedfit.index.build import Source, build
    from embedfit.index.store.folder import Origin, write
    from embedfit.index.store.manifest import Identity
    from embedfit.models.local import local_model
    from embedfit.path.artefacts import Passage

    workspace, config, runtime = _opened(folder, workers)
    passages, model = workspace.lines(Passage), local_model("base", config.model)
    source = Source(contents=passages.map(lambda passage: passage.content), queries=(), asked=())
    built = build(source, model, _retriever(), runtime.vectors, runtime.report)
    identity = Identity(name="base", key=model.key, instruction=model.instruction)
    target = folder / "index"
    target.mkdir()
    write(target, built, passages, Origin(model=identity))


def _retriever() -> Any:  # noqa: ANN401 - a Retriever
    from embedfit.index.retriever import DEFAULT

    return DEFAULT.without_tokens()


def evaluate(folder: Path, workers: str) -> None:
    from embedfit.evaluation.evalset import EvalSet
    from embedfit.evaluation.measure import Group, measure, of_model
    from embedfit.index.build import Source
    from embedfit.models.local import local_model
    from embedfit.path.artefacts import Passage, Query
    from embedfit.progress import Silent
    from embedfit.retrieval.bm25 import Bm25

    workspace, config, runtime = _opened(folder, workers)
    passages = sorted(workspace.read(Passage), key=lambda passage: passage.passage_id)
    queries = workspace.read(Query)
    asked = queries[:: max(1, len(queries) // ASKED)][:ASKED]
    contents = tuple(passage.content for passage in passages)
    whole = EvalSet(
        kind="human",
        passage_ids=tuple(passage.passage_id for passage in passages),
        titles=("",) * len(passages),
        texts=contents,
        contents=contents,
        documents=tuple(passage.document_id for passage in passages),
        pages=(0,) * len(passages),
        document_names={},
        query_ids=tuple(query.query_id for query in asked),
        queries=tuple(query.text for query in asked),
        styles=("",) * len(asked),
        relevant=tuple({query.passage_id: 1.0} for query in asked),
        numbers={passage.passage_id: number for number, passage in enumerate(passages)},
    )
    rows = {"default": _retriever()}
    source = Source(contents=contents, queries=(), asked=())
    model = local_model("base", config.model)

    def opened() -> Any:  # noqa: ANN401 - Opened
        words = Bm25(contents, executor=runtime.executor)
        return of_model(model, source, rows, whole, runtime, words=lambda: words)

    measure([Group(open=opened, rows=rows)], whole, Silent())


@dataclass
class Memory:
    """The most bytes that this process held of its own above what it held at the start, looked at now and then."""

    start: int = 0
    most: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    @staticmethod
    def held() -> int:
        """The bytes of this process that no file stands for."""
        for line in Path("/proc/self/status").read_text("ascii").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) << 10
        return 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look while something runs."""
        self.start = self.held()

        def look() -> None:
            while not self.done.wait(0.05):
                self.most = max(self.most, self.held() - self.start)

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield
        finally:
            self.done.set()
            watcher.join()
            self.most = max(self.most, self.held() - self.start)


def measured(stage: Callable[[Path, str], None], folder: Path, workers: str) -> dict[str, float]:
    """Run a stage here and measure it."""
    for module in ("corpus.stage", "mining.stage", "index.build", "evaluation.measure", "models.local"):
        importlib.import_module(f"embedfit.{module}")
    import torch

    torch.set_num_threads(1)
    memory, started, processor = Memory(), time.perf_counter(), os.times()
    with memory.watched():
        stage(folder, workers)
    ended = os.times()
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": sum(ended[:4]) - sum(processor[:4]),
        "own_bytes": memory.most,
    }


# --- exact search


def make_vectors(folder: Path, rows: int) -> None:
    """Store random unit rows."""
    from embedfit.models.store.shards import Shards

    rng = np.random.default_rng(3)
    shards = Shards(folder / "rows", folder / ".lock")
    for start in range(0, rows, 32_768):
        vectors = rng.standard_normal((min(32_768, rows - start), WIDTH), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        shards.add([_key(start + row) for row in range(len(vectors))], [row.tobytes() for row in vectors])


def _key(number: int) -> bytes:
    return b"%016x" % (number * 0x9E3779B97F4A7C15 % (1 << 64))


def search(folder: Path, workers: str, rows: int, queries: int) -> dict[str, float]:
    """The exact best rows of random queries; seconds, operations a second, and those of the product alone."""
    from embedfit.models.store.shards import Shards, StoredVectors, keys_of
    from embedfit.retrieval.topk import top_k
    from embedfit.scale.executor import open_executor

    rng = np.random.default_rng(4)
    asked = rng.standard_normal((queries, WIDTH), np.float32)
    memory, started, processor = Memory(), time.perf_counter(), os.times()
    with memory.watched():
        shards = Shards(folder / "rows", folder / ".lock")
        stored = StoredVectors(shards.find(keys_of([_key(row) for row in range(rows)])))
        ids, _ = top_k(asked, stored, K, executor=open_executor(workers))
    seconds, ended = time.perf_counter() - started, os.times()
    operations = 2.0 * queries * rows * WIDTH
    used = sum(ended[:4]) - sum(processor[:4])
    return {
        "rows": rows,
        "queries": queries,
        "seconds": seconds,
        "processor_seconds": used,
        "gflops": operations / seconds / 1e9,
        "gflops_of_processor": operations / used / 1e9,
        "product_gflops": product_gflops(asked[:256], stored[: min(rows, 65_536)]),
        "own_bytes": memory.most,
        "checksum": int(ids.sum()),
    }


def product_gflops(queries: Any, rows: Any) -> float:  # noqa: ANN401 - arrays
    """The rate of the matrix product alone, by the processor's seconds: the median of ten."""
    took = []
    for _ in range(10):
        started = time.process_time()
        queries @ rows.T
        took.append(time.process_time() - started)
    return float(2.0 * len(queries) * rows.size / np.median(took) / 1e9)


# --- all sizes


def child(*arguments: str) -> dict[str, float]:
    """What this file prints when it is started with these arguments, in one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def one_size(passages: int, folder: Path) -> dict[str, dict[str, float]]:
    """Every stage over so many passages. A stage that folder/STAGE.json tells of is done already."""
    if not (folder / "model").exists():
        child("--stage", "make_corpus", "--folder", str(folder), "--rows", str(passages))
    result = {}
    for stage in STAGES:
        known = folder / f"{stage}.json"
        if not known.exists():
            if stage == "mine":
                child("--stage", "ask", "--folder", str(folder))
            for made in MADE.get(stage, ()):  # by an attempt that was stopped
                shutil.rmtree(folder / made, ignore_errors=True)
            save(child("--stage", stage, "--folder", str(folder)), known)
        result[stage] = json.loads(known.read_text("utf-8"))
        print(f"{passages:>10,} {stage:<9}", *(f"{key} {value:,.1f}" for key, value in result[stage].items()),
              file=sys.stderr, flush=True)  # fmt: skip
    result["disk"] = {
        "corpus_bytes": (folder / "corpus.jsonl").stat().st_size,
        "index_bytes": sum(path.stat().st_size for path in (folder / "index").rglob("*") if path.is_file()),
        "vectors_bytes": sum(path.stat().st_size for path in (folder / "vectors").rglob("*.shard")),
    }
    return result


def growth(sizes: dict[int, dict[str, dict[str, float]]]) -> dict[str, list[dict[str, float]]]:
    """For each stage and each two following sizes the slope of the processor's seconds, and what a passage adds."""
    ordered = sorted(sizes.items())
    return {
        stage: [
            {
                "from": small,
                "to": large,
                "exponent": math.log(after[stage]["processor_seconds"] / before[stage]["processor_seconds"])
                / math.log(large / small),
                "bytes_a_passage": (after[stage]["own_bytes"] - before[stage]["own_bytes"]) / (large - small),
                "passages_a_second": (large - small)
                / max(1e-3, after[stage]["processor_seconds"] - before[stage]["processor_seconds"]),
            }
            for (small, before), (large, after) in pairwise(ordered)
        ]
        for stage in STAGES
    }


def workers_compared(folder: Path, rows: int, queries: int) -> dict[str, Any]:
    """Exact search here, and a quarter of the queries by one worker and by two: equal results, and how much faster."""
    child("--stage", "make_vectors", "--folder", str(folder), "--rows", str(rows))

    def found(workers: str, queries: int = queries // 4) -> dict[str, float]:
        common = ("--stage", "search", "--folder", str(folder), "--rows", str(rows), "--queries", str(queries))
        one = child(*common, "--workers", workers)
        print(
            f"search by {workers}: {one['seconds']:,.1f} s, {one['gflops']:,.1f} GFLOP/s", file=sys.stderr, flush=True
        )
        return one

    inline, again, compared = found("inline", queries), found("inline"), {}
    checksums = {again["checksum"]}
    for kind in ["processes:", *(["ray:local,"] if find_spec("ray") else [])]:
        one, two = found(f"{kind}1"), found(f"{kind}2")
        checksums |= {one["checksum"], two["checksum"]}
        compared[kind.split(":")[0]] = {
            "queries": one["queries"],
            "one_worker_seconds": one["seconds"],
            "two_workers_seconds": two["seconds"],
            "two_against_one": one["seconds"] / two["seconds"],
        }
    return {
        "inline": inline,
        "workers": compared,
        "share_of_product": inline["gflops_of_processor"] / inline["product_gflops"],
        "same_result": len(checksums) == 1,
        "ten_million_rows_hours": inline["processor_seconds"] * 10_000_000 / rows / 3600,
    }


def run_child(options: argparse.Namespace) -> None:
    """Do one stage and print what it took."""
    folder, result = options.folder, {}
    if options.stage in STAGES:
        result = measured(globals()[options.stage], folder, options.workers)
    elif options.stage == "search":
        result = search(folder, options.workers, options.rows, options.queries)
    elif options.stage == "ask":
        ask(folder)
    else:
        {"make_corpus": make_corpus, "make_vectors": make_vectors}[options.stage](folder, options.rows)
    print(json.dumps(result))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="2,000 and 8,000 passages, 65,536 × 2 rows")
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rows", type=int, default=524_288, help="of the exact search; 0: no search")
    parser.add_argument("--queries", type=int, default=20_000, help="of the exact search")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--scratch", type=Path, help="a folder on a disk with room; default: the temporary one")
    parser.add_argument("--keep", type=Path, help="a folder that stays, from which the same command goes on")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", default="inline", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stage:
        run_child(options)
        return
    if options.quick:
        options.sizes, options.rows, options.queries = [2_000, 8_000], 131_072, 1_000
    load, sizes = os.getloadavg()[0], {}
    result: dict[str, Any] = {"sizes": sizes}
    for passages in sorted(options.sizes):
        with working_folder(options, str(passages)) as folder:
            sizes[passages] = one_size(passages, folder)
        save(result | {"growth": growth(sizes)} | about(load), options.out)
    if options.rows:
        with working_folder(options, "search") as folder:
            result["search"] = workers_compared(folder, options.rows, options.queries)
    result |= {"growth": growth(sizes)} | about(load)
    save(result, options.out)
    print(json.dumps(result, indent=1))


@contextmanager
def working_folder(options: argparse.Namespace, name: str) -> Iterator[Path]:
    """A folder for one size, which is deleted afterwards unless --keep says otherwise."""
    if options.keep:
        (options.keep / name).mkdir(parents=True, exist_ok=True)
        yield options.keep / name
        return
    with tempfile.TemporaryDirectory(prefix="scale-", dir=options.scratch) as made:
        yield Path(made)


def save(result: dict[str, Any], path: Path) -> None:
    """Write what is known so far: the largest size takes long."""
    with atomic_file(path) as file:
        file.write(json.dumps(result, indent=1))


def about(load: float) -> dict[str, Any]:
    """Versions and hardware."""
    from embedfit.numerics.machine import cores, encoding_precision, gemm_rate

    return {
        "versions": {one: version(one) for one in ("embedfit", "torch", "numpy", "bm25s")},
        "hardware": {
            "machine": platform.machine(),
            "cores": cores(),
            "gemm_tflops": gemm_rate("fp32") / 1e12,
            "precision": encoding_precision(),
            "load_at_start": load,
            "load_at_end": os.getloadavg()[0],
        },
    }


if __name__ == "__main__":
    main()
