"""Documents to a report: embedfit beside the same work by hand with sentence-transformers, each in its own process.

    python benchmarks/end_to_end.py --quick      # 40 passages of emanual and a short PDF; some six minutes
    python benchmarks/end_to_end.py              # two PDFs, the two 10-Ks, emanual, covid_qa; results/end_to_end.json
    python benchmarks/end_to_end.py --only emanual

embedfit: `embedfit run DOCS --preset offline`, from nothing: no stored vector, no reply in the ledger. By hand
(peers/by_hand.py, in an environment of its own): pypdf and chunks of 200 words, two queries a passage by transformers'
generate in batches, mine_hard_negatives, MultipleNegativesRankingLoss for an epoch, InformationRetrievalEvaluator
before and after on a fifth of the passages. Both start from MiniLM and write with SmolLM2-135M-Instruct, and by hand as
many queries are asked for as embedfit asked its model. Seconds are by stage; memory is the peak of the process with its
children. Scores are each on its own held-out queries, so they can't be compared with each other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import psutil
from generation import save_for_transformers
from train_throughput import SBERT, Environment, default_data, machine, python_of

from embedfit.files.atomic import atomic_file
from embedfit.models.sources import resolve_generator, resolve_model

HERE = Path(__file__).resolve().parent
BY_HAND = Environment("by-hand", (*SBERT.requirements, "pypdf==7.1.1"))
#: Stages of embedfit that answer to a step by hand.
STEPS = {
    "read": ("ingest",),
    "write queries": ("generate",),
    "mine": ("mine",),
    "train": ("train",),
    "merge": ("merge", "check"),
    "evaluate and report": ("choose", "evaluate", "report"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Documents, and further options of `embedfit run`. passages: of a corpus file, at most; 0: all."""

    name: str
    documents: tuple[str, ...]
    passages: int = 0
    options: tuple[str, ...] = ()


FEW = ("--set", "generate.queries_per_passage=2", "--set", "train.epochs=0.5")
QUICK = (
    Task(name="emanual-40", documents=("emanual/corpus.jsonl",), passages=40, options=FEW),
    Task(name="a-pdf", documents=("pdf_samples/ULTABEAUTY_2023Q4_EARNINGS.pdf",), options=FEW),
)
FULL = (
    Task(
        name="two-pdfs",
        documents=("pdf_samples/ULTABEAUTY_2023Q4_EARNINGS.pdf", "pdf_samples/FOOTLOCKER_2022_8K_dated_2022-08-19.pdf"),
        options=FEW,
    ),
    Task(name="10k", documents=("10k/lyft_2021.pdf", "10k/uber_2021.pdf")),
    Task(name="emanual", documents=("emanual/corpus.jsonl",)),
    Task(name="covid_qa", documents=("covid_qa/corpus.jsonl",)),
)


class Peak(threading.Thread):
    """The largest memory of a process and its children together, looked at five times a second."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.mb = 0
        self._process = psutil.Process(process)
        self._over = threading.Event()

    def run(self) -> None:
        """On the thread."""
        while not self._over.wait(0.2):
            total = 0
            try:
                for one in (self._process, *self._process.children(recursive=True)):
                    total += one.memory_info().rss
            except psutil.Error:
                continue
            self.mb = max(self.mb, total >> 20)

    def stop(self) -> int:
        """The peak in MB."""
        self._over.set()
        self.join()
        return self.mb


def watched(command: Sequence[str], log: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Seconds, CPU seconds and peak memory of a command. Raises CalledProcessError, and shows the log's end."""
    start, before = time.monotonic(), os.times()
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file, env=environment) as process:
        peak = Peak(process.pid)
        peak.start()
        status = process.wait()
    found = {"seconds": round(time.monotonic() - start, 1), "peak_mb": peak.stop()}
    now = os.times()
    found["cpu_seconds"] = round(now.children_user + now.children_system - before[2] - before[3], 1)
    if status:
        print("\n".join(log.read_text("utf-8", "replace").splitlines()[-15:]), flush=True)
        raise subprocess.CalledProcessError(status, list(command))
    return found


def documents_of(task: Task, data: Path, work: Path) -> list[str]:
    """The paths of a task's documents; of a part of a corpus, a file of its first passages."""
    paths = [data / name for name in task.documents]
    if task.passages:
        lines = paths[0].read_text("utf-8").splitlines()[: task.passages]
        paths = [work / f"{task.name}.jsonl"]
        paths[0].write_text("\n".join(lines) + "\n", "utf-8")
    return [str(path) for path in paths]


def by_embedfit(task: Task, documents: list[str], work: Path) -> dict[str, Any]:
    """embedfit, from nothing."""
    run = work / f"run-{task.name}"
    environment = {**os.environ, "EMBEDFIT_HOME": str(work / f"home-{task.name}"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "embedfit", "run", *documents, "--preset", "offline", "--run", str(run), "--yes"]
    found = watched([*command, *task.options], work / "embedfit.log", environment)
    stages = {}
    for step, names in STEPS.items():
        files = [run / f"{name}.manifest.json" for name in names]
        stages[step] = round(sum(json.loads(file.read_text("utf-8"))["seconds"] for file in files if file.exists()), 1)
    queries = [json.loads(line) for line in (run / "queries.jsonl").read_text("utf-8").splitlines()]
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    return {
        **found,
        "stages": stages,
        "asked": len(queries),
        "kept": sum(bool(query.get("kept")) for query in queries),
        "decision": summary.get("decision"),
    }


def by_hand(task: Task, documents: list[str], asked: int, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The same by hand, which writes as many queries."""
    paths = work / "spec.json", work / "result.json"
    spec = {
        "documents": documents,
        "model": str(resolve_model("minilm")),
        "writer": str(work / "writer"),
        "queries": asked,
        "words": 200,
        "max_steps": 8 if task.options else 0,
        "out": str(work / "by-hand"),
    }
    paths[0].write_text(json.dumps(spec), "utf-8")
    paths[1].unlink(missing_ok=True)
    command = [python_of(BY_HAND, options.peers), str(HERE / "peers" / "by_hand.py"), *map(str, paths)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    found = watched(command, work / "by_hand.log", environment)
    return {**found, **json.loads(paths[1].read_text("utf-8"))}


def measure(task: Task, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Both ways, one after the other."""
    print(f"\n{task.name}: load {os.getloadavg()[0]:.1f}", flush=True)
    documents = documents_of(task, options.data, work)
    result: dict[str, Any] = {"load_before": round(os.getloadavg()[0], 1)}
    result["embedfit"] = ours = by_embedfit(task, documents, work)
    print(line("embedfit", ours), flush=True)
    if options.alone:
        return result
    result["by hand"] = theirs = by_hand(task, documents, ours["asked"], work, options)
    print(line("by hand", theirs), flush=True)
    result["times_as_fast"] = round(theirs["seconds"] / ours["seconds"], 2)
    result["times_as_fast_by_cpu"] = round(theirs["cpu_seconds"] / ours["cpu_seconds"], 2)
    result["times_as_fast_by_step"] = {
        step: round(theirs["stages"][step] / seconds, 2)
        for step, seconds in ours["stages"].items()
        if step in theirs["stages"] and seconds
    }
    print(
        f"embedfit takes {ours['seconds']:,.0f} s, by hand {theirs['seconds']:,.0f} s: {result['times_as_fast']} × "
        f"({result['times_as_fast_by_cpu']} × by CPU); by step {json.dumps(result['times_as_fast_by_step'])}",
        flush=True,
    )
    return result


def line(name: str, found: dict[str, Any]) -> str:
    """A way's figures for people."""
    steps = ", ".join(f"{step} {seconds:,.0f}" for step, seconds in found["stages"].items())
    return (
        f"{name:9} {found['seconds']:8,.0f} s ({found['cpu_seconds']:,.0f} CPU-s), {found['peak_mb']:,} MB,"
        f" {found['kept']} of {found['asked']} queries; {steps}"
    )


def main() -> None:
    """Measure every task, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small tasks, eight steps of training")
    parser.add_argument("--only", default="", help="names of tasks, separated by commas; the report keeps the others")
    parser.add_argument("--alone", action="store_true", help="embedfit alone")
    parser.add_argument("--data", type=Path, default=default_data())
    parser.add_argument("--peers", type=Path, default=Path(platformdirs.user_cache_dir("embedfit")) / "peers")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/end_to_end[_quick].json")
    options = parser.parse_args()
    out = options.out or HERE / "results" / f"end_to_end{'_quick' if options.quick else ''}.json"
    tasks = {task.name: task for task in (QUICK if options.quick else FULL)}
    chosen = [name for name in options.only.split(",") if name] or list(tasks)
    if unknown := [name for name in chosen if name not in tasks]:
        parser.error(f"no such task: {', '.join(unknown)}. There are: {', '.join(tasks)}")
    if not options.alone:
        python_of(BY_HAND, options.peers)
    kept = json.loads(out.read_text("utf-8"))["tasks"] if options.only and out.exists() else {}
    report: dict[str, Any] = {"machine": machine(), "by_hand": BY_HAND.requirements, "tasks": kept}
    with tempfile.TemporaryDirectory() as work:
        if not options.alone:
            save_for_transformers(resolve_generator(), Path(work) / "writer")
        for name in chosen:
            report["tasks"][name] = measure(tasks[name], options, Path(work))
            with atomic_file(out) as file:
                file.write(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten to {out}")


if __name__ == "__main__":
    main()
