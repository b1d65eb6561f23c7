"""Kept queries a second of the local generator beside openvino-genai, transformers and llama.cpp's server.

    python benchmarks/generation.py --quick      # 32 passages, a few minutes
    python benchmarks/generation.py              # 200 passages; writes benchmarks/results/generation.json

Every system writes two queries for each passage of 90 to 150 words, behind the same three-shot prompt, at temperature
0.9, and stops at the line's end. All read the beginning that prompts share once. A query counts as kept if the filters
of `embedfit generate` keep it, the round trip among all such passages of the corpora included. Quality: how often
greedy replies equal those of fp32 arithmetic, and how likely fp32's own sampled replies are to each arithmetic
(perplexity; equal is perfect). llama.cpp runs in an environment of its own, from a prebuilt wheel; where there is none
the entry says so. On a busy machine look at the figures by processor time.
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from embedfit.config import resolve
from embedfit.errors import EmbedfitError
from embedfit.llm.protocol import LanguageModel, Reply, Request
from embedfit.llm.providers.local.generic import GenericBackend
from embedfit.llm.providers.local.gguf import read_gguf, read_shape, read_weights
from embedfit.llm.providers.local.llama import Arithmetic
from embedfit.llm.providers.local.model import LlamaBackend, LocalGenerator
from embedfit.llm.providers.local.prefix import Family, Leaf, Wave
from embedfit.llm.providers.local.probe import best_arithmetic, product_rates
from embedfit.llm.providers.openvino import OpenVinoGenerator
from embedfit.models.sources import resolve_generator
from embedfit.path.artefacts import Passage, Query
from embedfit.queries.ask import texts_of
from embedfit.queries.prompts import STYLES, Way, one_query
from embedfit.queries.stage import filtered
from embedfit.runtime import Runtime

CPU = torch.device("cpu")
HERE = Path(__file__).resolve().parent
OURS = "embedfit local"
LLAMA_CPP = "xllamacpp==2026.10.11549"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

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
    passages = [
        Passage(passage_id=str(number), document_id=str(number), title=title, text=text)
        for number, (title, text) in enumerate(dict.fromkeys([*rows, *pool]))
    ]
    drafts = []
    for number, reply in enumerate(replies):
        ((text, reason),) = texts_of(reply, ["question"])
        place = str(number * len(rows) // len(replies))
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


def save_for_transformers(model: Path, folder: Path, **settings: int | None) -> None:
    """A GGUF file as a Hugging Face folder without a tokenizer. settings: what the configuration has besides."""
    from transformers import LlamaConfig, LlamaForCausalLM

    file = read_gguf(model)
    shape = read_shape(file)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.context,
        rms_norm_eps=shape.epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_base},
        tie_word_embeddings=True,
        **settings,
    )
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(read_weights(file, shape), strict=False)
    plain.save_pretrained(folder)


def with_transformers(model: Path, folder: Path) -> LanguageModel:
    """The model by transformers in bf16, in batches, the shared beginning's keys computed once: `local`'s other way."""
    save_for_transformers(model, folder)
    local = LocalGenerator(model, arithmetic=Arithmetic("fp32", CPU), max_samples=32)
    backend = GenericBackend(folder, Arithmetic("bf16", CPU))
    local.__dict__["_loaded"] = (local._tokenizer, backend, local._writer)
    return local


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


def quality(model: Path, arithmetics: list[Arithmetic], rows: list[tuple[str, str]]) -> dict[str, Any]:
    """Greedy agreement with fp32, and the perplexity of fp32's sampled replies under each arithmetic."""
    greedy = requests_for(rows, temperature=0.0)[::2]
    sampled = requests_for(rows)[::2]
    exact = LocalGenerator(model, arithmetic=Arithmetic("fp32", CPU))
    truth, samples = texts(exact, greedy), texts(exact, sampled)
    report: dict[str, Any] = {}
    for arithmetic in [Arithmetic("fp32", CPU), *arithmetics]:
        local = exact if arithmetic.products == "fp32" else LocalGenerator(model, arithmetic=arithmetic)
        mine = texts(local, greedy)
        same = sum(a == b for a, b in zip(mine, truth, strict=True))
        first = sum(a.split()[:3] == b.split()[:3] for a, b in zip(mine, truth, strict=True))
        report[arithmetic.products] = {
            "prompts": len(rows),
            "greedy_replies_equal": same / len(rows),
            "greedy_first_three_words_equal": first / len(rows),
            "perplexity_of_fp32_samples": round(perplexity(local, sampled, samples), 4),
            "examples": [{"fp32": b, arithmetic.products: a} for a, b in zip(mine[:5], truth[:5], strict=True)],
        }
    return report


def texts(local: LocalGenerator, requests: list[Request]) -> list[str]:
    replies = dict(local.complete(requests))
    return [reply.text for _, reply in sorted(replies.items()) if isinstance(reply, Reply)]


def perplexity(local: LocalGenerator, requests: list[Request], replies: list[str]) -> float:
    """Of the replies' tokens behind their prompts, by the steps that generation takes."""
    backend = local._backend
    assert isinstance(backend, LlamaBackend)
    llama = backend._model
    total, count = 0.0, 0
    for prompt, reply in zip(local._encode(requests), replies, strict=True):
        forced = local._tokenizer(reply + "\n", add_special_tokens=False)["input_ids"]
        wave = Wave((), (Family(prompt, (Leaf((), (0,)),)),))
        state, hidden = llama.start(llama.read_root(()), wave, len(forced))
        for token in forced:
            total -= torch.log_softmax(llama.logits(hidden)[0], dim=-1)[token].item()
            count += 1
            hidden = llama.write(state, torch.tensor([token]))
    return math.exp(total / count)


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
        "teraflops_probe": {kind: round(rate / 1e12, 3) for kind, rate in product_rates().items()},
    }


def systems(
    model: Path, quick: bool, work: Path
) -> Iterator[tuple[str, int, Callable[[list[tuple[str, str]]], Result]]]:
    """Name, passages at most (slow ones get fewer) and measurement of each system; ours with its own choice first."""
    everything, few = (32, 8) if quick else (200, 64)
    best = best_arithmetic()
    yield OURS, everything, lambda rows: run_model(LocalGenerator(model, arithmetic=best), rows)
    yield "openvino-genai", everything, lambda rows: run_openvino(model, rows)
    if best.products != "fp32":
        exact = Arithmetic("fp32", CPU)
        yield "embedfit local, fp32", few, lambda rows: run_model(LocalGenerator(model, arithmetic=exact), rows)
    yield "transformers, bf16", few, lambda rows: run_model(with_transformers(model, work), rows)
    yield "llama.cpp server", everything, lambda rows: run_llama_cpp(model, rows)


def run_openvino(model: Path, rows: list[tuple[str, str]]) -> Result:
    try:
        return run_model(OpenVinoGenerator(model), rows)
    except EmbedfitError as error:
        return unavailable(str(error))


def line(name: str, figures: dict[str, Any]) -> str:
    """A system's figures for people."""
    if "unavailable" in figures:
        return f"{name:24} {figures['unavailable']}"
    return (
        f"{name:24} {figures['passages_per_s']:6.2f} passages/s, {figures['kept']:4.0%} kept, "
        f"{figures['kept_per_s']:6.2f} kept/s, {figures['kept_per_cpu_s']:6.2f} kept/CPU-s; embedfit local is "
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
    corpora = options.corpus or [p for d in ("emanual", "covid_qa") if (p := SHARED / d / "corpus.jsonl").is_file()]
    model = options.model or resolve_generator()
    out = options.json or HERE / "results" / f"generation{'_quick' if options.quick else ''}.json"
    pool = passages(corpora)
    result: dict[str, Any] = {
        "what": "2 queries for each passage of 90 to 150 words, three-shot prompt, those that the filters keep",
        "model": model.name,
        "hardware": hardware(),
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy", "openvino")}
        | {"python": platform.python_version(), "llama.cpp": LLAMA_CPP},
        "systems": {},
    }
    with tempfile.TemporaryDirectory() as work:
        for name, count, measure in systems(model, options.quick, Path(work)):
            rows = pool[:count]
            figures, replies = measure(rows)
            result["systems"][name] = figures
            if replies:
                queries = kept(pool, rows, replies)
                figures["kept"] = round(len(queries) / len(replies), 3)
                figures["kept_per_s"] = round(len(queries) / figures["wall_s"], 2)
                figures["kept_per_cpu_s"] = round(len(queries) / figures["cpu_s"], 2)
                figures["examples"] = queries[:5]
                ours = result["systems"][OURS]
                for unit in ("kept_per_s", "kept_per_cpu_s"):
                    figures[f"embedfit_times_{unit}"] = round(ours[unit] / max(figures[unit], 1e-9), 2)
            print(line(name, figures), flush=True)
            save(out, result)
    rows = pool[: 32 if options.quick else 200]
    if not options.no_quality:
        kinds = [Arithmetic(kind, CPU) for kind in ("int8", "bf16")]
        result["quality"] = quality(model, kinds, rows[: 8 if options.quick else 50])
        for kind, figures in result["quality"].items():
            print(
                f"{kind}: greedy replies equal {figures['greedy_replies_equal']:.0%}, "
                f"perplexity of fp32 samples {figures['perplexity_of_fp32_samples']}"
            )
    save(out, result)
    print(f"written to {out}")


if __name__ == "__main__":
    sys.exit(main())
