"""Kept queries a second of the offline writer (openvino-genai) beside transformers and llama.cpp's server.

    python benchmarks/generation.py --quick      # 32 passages, a few minutes
    python benchmarks/generation.py              # 200 passages; writes benchmarks/results/generation.json

Every system writes two queries for each passage of 90 to 150 words, behind the same three-shot prompt, at temperature
0.9, and stops at the line's end. All read the beginning that prompts share once. A query counts as kept if the filters
of `embedfit generate` keep it, the round trip among all such passages of the corpora included. Quality: how often
greedy replies equal those of transformers in fp32. llama.cpp runs in an environment of its own, from a prebuilt wheel;
where there is none the entry says so. On a busy machine look at the figures by processor time.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import math
import os
import platform
import pydoc_data.topics
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from embedfit.config import resolve
from embedfit.errors import EmbedfitError
from embedfit.llm.protocol import LanguageModel, Reply, Request
from embedfit.llm.providers.local.model import LocalGenerator
from embedfit.llm.providers.openvino import OpenVinoGenerator
from embedfit.models.sources import resolve_generator
from embedfit.numerics.machine import Precision, gemm_rates
from embedfit.path.artefacts import Passage, Query
from embedfit.queries.ask import texts_of
from embedfit.queries.prompts import STYLES, Way, one_query
from embedfit.queries.stage import filtered
from embedfit.runtime import Runtime

HERE = Path(__file__).resolve().parent
OURS = "openvino-genai, as embedfit runs it"
LLAMA_CPP = "xllamacpp==2026.10.11549"
DATA = Path(os.environ.get("EMBEDFIT_DATA") or HERE.parents[1] / "shared" / "data")

LLAMA_SERVER = """
import sys, time
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_parallel, params.n_ctx, params.n_batch, params.cont_batching = 8, 8 * 1536, 2048, True
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[2])
params.hostnames = ["127.0.0.1"]
params.port = 0 if len(sys.argv) < 4 else int(sys.argv[3])
params.verbosity = 0
server = xllamacpp.Server(params)
print("READY", server.listening_address, flush=True)
sys.stdin.read()
"""


def passages(corpora: list[Path]) -> list[tuple[str, str]]:
    """(title, text) of 90 to 150 words, in turn from each corpus; from Python's own manual where there is none."""
    columns = []
    for corpus in corpora:
        rows = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]
        columns.append([(r.get("title", ""), r["text"]) for r in rows if 90 <= len(r["text"].split()) <= 150])
    if not columns:
        words = " ".join(pydoc_data.topics.topics.values()).split()
        columns = [[("", " ".join(words[i : i + 120])) for i in range(0, len(words), 120)]]
    return [pair for pairs in zip(*columns, strict=False) for pair in pairs]


def requests_for(rows: list[tuple[str, str]], *, temperature: float = 0.9) -> list[Request]:
    """Two requests a passage."""
    return [
        one_query(title, text, STYLES["question"], Way(max_tokens=48, temperature=temperature, top_p=0.95), seed=seed)
        for title, text in rows
        for seed in range(2)
    ]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads."""
    if not Path(f"/proc/{pid}/stat").is_file():
        return sum(os.times()[:2]) if pid == os.getpid() else math.nan
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(work: Callable[[], list[Reply]], count: int, pid: int | None = None) -> tuple[dict[str, Any], list[Reply]]:
    """Run work, which returns the reply to each request; pid: the process that does it, if another.

    On a busy machine look at passages per second of processor time: waiting for others is not in it.
    """
    pid = pid or os.getpid()
    before, start = cpu_seconds(pid), time.perf_counter()
    replies = work()
    wall, cpu = time.perf_counter() - start, cpu_seconds(pid) - before
    figures = {
        "passages": count,
        "passages_per_s": round(count / wall, 3),
        "passages_per_cpu_s": round(count / cpu, 3),
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "tokens_per_reply": round(sum(reply.output_tokens for reply in replies) / len(replies), 1),
        "load_average_1m": round(os.getloadavg()[0], 1),
    }
    return figures, replies


def kept(pool: list[tuple[str, str]], rows: list[tuple[str, str]], replies: list[Reply]) -> list[str]:
    """The queries that the filters of `embedfit generate` keep. pool: the passages of the round trip, rows first."""
    ids = {pair: str(number) for number, pair in enumerate(dict.fromkeys([*rows, *pool]))}  # equal passages are one
    passages = [Passage(passage_id=key, document_id=key, title=title, text=text) for (title, text), key in ids.items()]
    drafts = []
    for number, reply in enumerate(replies):
        ((text, reason),) = texts_of(reply, ["question"])
        place = ids[rows[number * len(rows) // len(replies)]]
        drafts.append(
            Query(
                query_id=str(number), passage_id=place, text=text, style="question", split="train",
                kept=not reason, reason=reason,
            )
        )  # fmt: skip
    found = filtered(passages, drafts, resolve(preset="offline"), Runtime())
    return [query.text for query in found if query.kept]


Result = tuple[dict[str, Any], list[Reply]]
#: (title, text) of passages → a system's figures and its replies.
Measure = Callable[[list[tuple[str, str]]], Result]


def run_model(model: LanguageModel, rows: list[tuple[str, str]]) -> Result:
    """complete() on all requests at once."""
    # One call loads the model, and reads the beginning that all prompts share, as in a run.
    list(model.complete(requests_for([("", "A short text.")], temperature=0.0)[:1]))
    requests = requests_for(rows)

    def work() -> list[Reply]:
        found = dict(model.complete(requests))
        replies = [reply for _, reply in sorted(found.items()) if isinstance(reply, Reply)]
        assert len(replies) == len(requests)
        return replies

    return timed(work, len(rows))


def save_for_transformers(model: Path, folder: Path) -> None:
    """A GGUF file as a Hugging Face folder in fp32, its tokenizer included."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loader: Any = AutoModelForCausalLM
    read = loader.from_pretrained(model.parent, gguf_file=model.name, dtype=torch.float32)
    del read.config.quantization_config  # transformers saves no model that it read from a GGUF file
    plain = type(read)(read.config)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name, padding_side="left").save_pretrained(folder)


def run_llama_cpp(model: Path, rows: list[tuple[str, str]]) -> Result:
    """llama.cpp's server with 8 slots, 8 requests at a time, prompt cache on."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            venv.create(folder, with_pip=True)
            python = Path(folder) / "bin" / "python"
            install = [str(python), "-m", "pip", "install", "-q", "--only-binary", ":all:", LLAMA_CPP]
            subprocess.run(install, check=True, capture_output=True, timeout=300)
        except (subprocess.SubprocessError, OSError) as error:
            return unavailable(f"no prebuilt wheel of llama.cpp could be installed ({type(error).__name__})")
        command = [str(python), "-c", LLAMA_SERVER, str(model), str(torch.get_num_threads())]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server:
            try:
                address = next((line.split()[1] for line in server.stdout or () if line.startswith("READY")), None)
                if address is None:
                    return unavailable("llama.cpp's server did not start")
                ask(address, requests_for(rows[-1:])[0])
                requests = requests_for(rows)
                with concurrent.futures.ThreadPoolExecutor(8) as pool:
                    return timed(lambda: list(pool.map(lambda r: ask(address, r), requests)), len(rows), server.pid)
            finally:
                server.terminate()


def unavailable(why: str) -> Result:
    return {"unavailable": why}, []


def ask(address: str, request: Request) -> Reply:
    """One completion."""
    # A text to continue is no conversation: it goes to the endpoint without a chat template.
    plain = request.messages[0].role == "text"
    prompt: dict[str, Any] = (
        {"prompt": request.messages[0].content}
        if plain
        else {"messages": [dataclasses.asdict(message) for message in request.messages]}
    )
    body = prompt | {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": 0,
        "max_tokens": request.max_tokens,
        "stop": list(request.stop),
        "seed": request.seed,
    }
    call = urllib.request.Request(
        f"{address}/v1/{'' if plain else 'chat/'}completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(call, timeout=600) as answer:
        found = json.load(answer)
    choice, used = found["choices"][0], found["usage"]
    return Reply(
        text=choice["text"] if plain else choice["message"]["content"],
        input_tokens=int(used["prompt_tokens"]),
        output_tokens=int(used["completion_tokens"]),
        finish="length" if choice["finish_reason"] == "length" else "stop",
    )


def quality(exact: LanguageModel, others: dict[str, LanguageModel], rows: list[tuple[str, str]]) -> dict[str, Any]:
    """How far greedy replies agree with those of exact arithmetic."""
    greedy = requests_for(rows, temperature=0.0)[::2]
    truth = texts(exact, greedy)
    report: dict[str, Any] = {}
    for name, model in others.items():
        mine = texts(model, greedy)
        pairs = list(zip(mine, truth, strict=True))
        report[name] = {
            "prompts": len(rows),
            "greedy_replies_equal": round(sum(a == b for a, b in pairs) / len(rows), 3),
            "greedy_first_three_words_equal": round(
                sum(a.split()[:3] == b.split()[:3] for a, b in pairs) / len(rows), 3
            ),
            "examples": [{"fp32": b, name: a} for a, b in pairs[:5]],
        }
    return report


def texts(model: LanguageModel, requests: list[Request]) -> list[str]:
    replies = dict(model.complete(requests))
    return [reply.text for _, reply in sorted(replies.items()) if isinstance(reply, Reply)]


def hardware() -> dict[str, Any]:
    """The processor, its instructions for matrix products, and what a product of each kind reaches."""
    name, flags = platform.processor(), set[str]()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8")
    return {
        "cpu": name,
        "threads": torch.get_num_threads(),
        "instructions": [flag for flag in wanted if flag in flags],
        "teraflops_probe": {kind: round(rate / 1e12, 3) for kind, rate in gemm_rates("fp32", "bf16").items()},
    }


def transformers(folder: Path) -> dict[str, LanguageModel]:
    """What embedfit runs Hugging Face folders by: transformers in batches, each shared beginning read once."""
    kinds: tuple[Precision, ...] = ("fp32", "bf16")
    return {f"transformers, {kind}": LocalGenerator(folder, precision=kind, max_samples=32) for kind in kinds}


def systems(
    model: Path, quick: bool, folder: Path
) -> Iterator[tuple[str, int, Callable[[list[tuple[str, str]]], Result]]]:
    """Name, passages at most (slow ones get fewer) and measurement of each system; embedfit's own choice first."""
    everything, few = (32, 16) if quick else (200, 64)
    yield OURS, everything, lambda rows: run_openvino(model, rows)
    for name, peer in transformers(folder).items():
        yield name, few, partial(run_model, peer)
    yield "llama.cpp server", everything, lambda rows: run_llama_cpp(model, rows)


def run_openvino(model: Path, rows: list[tuple[str, str]]) -> Result:
    try:
        return run_model(OpenVinoGenerator(model), rows)
    except EmbedfitError as error:
        return unavailable(str(error))


def line(name: str, figures: dict[str, Any]) -> str:
    """A system's figures for people."""
    if "unavailable" in figures:
        return f"{name:38} {figures['unavailable']}"
    return (
        f"{name:38} {figures['passages_per_s']:6.2f} passages/s, {figures['kept']:4.0%} kept, "
        f"{figures['kept_per_s']:6.2f} kept/s, {figures['kept_per_cpu_s']:6.2f} kept/CPU-s; embedfit is "
        f"{figures['embedfit_times_kept_per_s']:.2f} × as fast, {figures['embedfit_times_kept_per_cpu_s']:.2f} × by CPU"
    )


def save(path: Path, result: dict[str, Any]) -> None:
    """Write what is known so far: a run that is cut short keeps what it measured."""
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer passages")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/generation[_quick].json")
    parser.add_argument("--model", type=Path, help="a GGUF file; default: the one of the offline preset")
    parser.add_argument("--corpus", type=Path, nargs="*", help="corpus.jsonl files to take passages from")
    parser.add_argument("--no-quality", action="store_true", help="measure speed alone")
    options = parser.parse_args()
    corpora = options.corpus or [p for d in ("emanual", "covid_qa") if (p := DATA / d / "corpus.jsonl").is_file()]
    model = options.model or resolve_generator()
    out = options.json or HERE / "results" / f"generation{'_quick' if options.quick else ''}.json"
    pool = passages(corpora)
    result: dict[str, Any] = {
        "what": "2 queries for each passage of 90 to 150 words, three-shot prompt, those that the filters keep",
        "model": model.name,
        "passages_of": [path.parent.name for path in corpora] or ["Python's manual"],
        "hardware": hardware(),
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy", "openvino", "openvino-genai")}
        | {"python": platform.python_version(), "llama.cpp": LLAMA_CPP},
        "systems": {},
    }
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / model.stem
        save_for_transformers(model, folder)
        for name, count, measure in systems(model, options.quick, folder):
            rows = pool[:count]
            figures, replies = measure(rows)
            result["systems"][name] = figures
            if replies:
                add_kept(figures, kept(pool, rows, replies), len(replies), result["systems"][OURS])
            print(line(name, figures), flush=True)
            save(out, result)
        if not options.no_quality:
            exact, half = transformers(folder).values()
            others = {OURS: OpenVinoGenerator(model), "transformers, bf16": half}
            result["quality"] = quality(exact, others, pool[: 24 if options.quick else 50])
            for name, found in result["quality"].items():
                print(f"{name}: {found['greedy_replies_equal']:.0%} of greedy replies equal those of fp32")
    save(out, result)
    print(f"written to {out}")


def add_kept(figures: dict[str, Any], queries: list[str], asked: int, ours: dict[str, Any]) -> None:
    """Add to a system's figures what the filters kept, and how many times as fast ours is."""
    figures["kept"] = round(len(queries) / asked, 3)
    figures["kept_per_s"] = round(len(queries) / figures["wall_s"], 2)
    figures["kept_per_cpu_s"] = round(len(queries) / figures["cpu_s"], 2)
    figures["examples"] = queries[:5]
    for unit in ("kept_per_s", "kept_per_cpu_s"):
        figures[f"embedfit_times_{unit}"] = round(ours[unit] / max(figures[unit], 1e-9), 2)


if __name__ == "__main__":
    sys.exit(main())
