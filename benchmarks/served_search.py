"""How fast `embedfit serve` searches, beside how fast it encodes the same queries.

    python benchmarks/served_search.py DATA/stackfaq        # a BEIR folder: its first 1,000 passages, its queries
    python benchmarks/served_search.py DATA/stackfaq --model runs/em/merged

One client sends batches of 16 queries, first to /embed (prompt "query") and then to /search (all parts of the default
retriever, ten passages each), several times in turn. The best rate of each is reported, because other programs may use
the machine, and also the CPU seconds of the server for a query, which those disturb less. "steps": milliseconds of a
request in each step of the search. Writes benchmarks/results/served_search.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from embedfit.asked.reading import read_queries
from embedfit.commands.indexing import index_documents
from embedfit.files.atomic import atomic_file
from embedfit.files.textfiles import lines_of
from embedfit.numerics.machine import cores, encoding_precision
from embedfit.progress import LogLines
from embedfit.runtime import Runtime
from embedfit.testing.server import running_server

OUT = Path(__file__).parent / "results" / "served_search.json"
PASSAGES, QUERIES, BATCH, ROUNDS = 1_000, 320, 16, 5


def rate(http: httpx.Client, server: psutil.Process, path: str, bodies: list[dict[str, Any]]) -> tuple[float, float]:
    """Queries a second, and CPU seconds a query."""
    before, started = server.cpu_times(), time.perf_counter()
    for body in bodies:
        http.post(path, json=body).raise_for_status()
    took, after = time.perf_counter() - started, server.cpu_times()
    return QUERIES / took, (after.user + after.system - before.user - before.system) / QUERIES


def steps(metrics: str) -> dict[str, float]:
    """Mean milliseconds of each step of a search."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples if family.name == "embedfit_search_step_duration" else ():
            if "le" not in sample.labels:
                found.setdefault(sample.labels["step"], {})[sample.name.rpartition("_")[2]] = sample.value
    return {name: round(1e3 * one["sum"] / one["count"], 2) for name, one in found.items()}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path, help="a BEIR folder")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    queries = [text for _, text in read_queries(options.data / "queries.jsonl")]
    queries = (queries * (1 + QUERIES // len(queries)))[:QUERIES]
    batches = [queries[start : start + BATCH] for start in range(0, QUERIES, BATCH)]
    bodies = {
        "/embed": [{"inputs": batch, "prompt_name": "query"} for batch in batches],
        "/search": [{"query": batch, "k": 10} for batch in batches],
    }
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        lines = [line for _, line in islice(lines_of(options.data / "corpus.jsonl"), PASSAGES)]
        corpus.write_text("".join(line.rstrip("\n") + "\n" for line in lines), "utf-8")
        runtime = Runtime(report=LogLines(sys.stderr))
        index_documents(corpus, folder=Path(folder) / "ix", model=options.model, runtime=runtime)
        with running_server(Path(folder) / "ix") as served, httpx.Client(base_url=served.url, timeout=120) as http:
            server = psutil.Process(served.process.pid)
            for path, some in bodies.items():
                rate(http, server, path, some[:3])
            measured = {path: [rate(http, server, path, some) for _ in range(ROUNDS)] for path, some in bodies.items()}
            info, metrics = http.get("/info").json(), http.get("/metrics").text
    result: dict[str, Any] = {
        "passages": info["index"]["passages"], "data": options.data.name, "model": options.model, "batch": BATCH,
        "embed": {"queries_a_second": round(max(one[0] for one in measured["/embed"]), 1),
                  "cpu_ms_a_query": round(1e3 * min(one[1] for one in measured["/embed"]), 2),
                  "engine": info["engine"]["name"], "precision": info["engine"]["precision"]},
        "search": {"queries_a_second": round(max(one[0] for one in measured["/search"]), 1),
                   "cpu_ms_a_query": round(1e3 * min(one[1] for one in measured["/search"]), 2),
                   "precision": encoding_precision(), "steps": steps(metrics)},
        "cores": cores(), "load": os.getloadavg()[0],
    }  # fmt: skip
    result["ratio"] = round(result["search"]["queries_a_second"] / result["embed"]["queries_a_second"], 2)
    print(json.dumps(result, indent=1))
    with atomic_file(options.out) as file:
        json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
