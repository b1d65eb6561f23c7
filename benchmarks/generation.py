"""Passages a second of the local generator beside transformers and llama.cpp's server, and whether its words suffer.

    python benchmarks/generation.py [--quick] [--json OUT] [--model FILE.gguf] [--corpus corpus.jsonl ...]

Every system writes two queries for each passage of 90 to 150 words, behind the same three-shot prompt, at
temperature 0.9, and stops at the line's end. Quality: how often greedy replies equal those of fp32 arithmetic,
and how likely fp32's own sampled replies are to each arithmetic (perplexity; equal is perfect).
llama.cpp runs in an environment of its own, from a prebuilt wheel; where there is none the entry says so.
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

from embedfit.llm.protocol import Reply, Request
from embedfit.llm.providers.local.gguf import read_gguf, read_shape, read_weights
from embedfit.llm.providers.local.llama import Arithmetic
from embedfit.llm.providers.local.model import LlamaBackend, LocalGenerator
from embedfit.llm.providers.local.prefix import Family, Leaf, Wave
from embedfit.llm.providers.local.probe import best_arithmetic, product_rates
from embedfit.models.sources import resolve_generator
from embedfit.queries.prompts import STYLES, Way, one_query

CPU = torch.device("cpu")
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


def timed(work: Callable[[], list[int]], count: int, pid: int | None = None) -> dict[str, float]:
    """Run work, which returns the number of tokens of each reply; pid: the process that does it, if another.

    On a busy machine look at passages per second of processor time: waiting for others is not in it.
    """
    pid = pid or os.getpid()
    before, start = cpu_seconds(pid), time.perf_counter()
    tokens = work()
    wall, cpu = time.perf_counter() - start, cpu_seconds(pid) - before
    return {
        "passages": count,
        "passages_per_s": round(count / wall, 3),
        "passages_per_cpu_s": round(count / cpu, 3),
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "tokens_per_reply": round(sum(tokens) / len(tokens), 1),
        "load_average_1m": round(os.getloadavg()[0], 1),
    }


def run_embedfit(model: Path, arithmetic: Arithmetic, rows: list[tuple[str, str]]) -> dict[str, float]:
    """LocalGenerator.complete on all requests at once."""
    local = LocalGenerator(model, arithmetic=arithmetic)
    list(local.complete(requests_for(rows[:1], temperature=0.0)[:1]))  # load, and read nothing of the passages below
    requests = requests_for(rows)

    def work() -> list[int]:
        replies = [reply for _, reply in local.complete(requests)]
        assert all(isinstance(reply, Reply) for reply in replies)
        return [reply.output_tokens for reply in replies if isinstance(reply, Reply)]

    return timed(work, len(rows))


def run_transformers(model: Path, dtype: torch.dtype, rows: list[tuple[str, str]]) -> dict[str, float]:
    """generate() in batches of 32, left-padded, two sequences a prompt, stopped at the line's end."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

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
    )
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(read_weights(file, shape), strict=False)
    plain = plain.to(dtype).eval()
    local = LocalGenerator(model, arithmetic=Arithmetic("fp32", CPU))
    tokenizer = local._tokenizer
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.eos_token
    requests = requests_for(rows)[::2]
    prompts = [list(tokens) for tokens in local._encode(requests)]
    newlines = [i for token, i in tokenizer.get_vocab().items() if "Ċ" in token]
    settings = GenerationConfig(
        do_sample=True,
        temperature=0.9,
        top_p=0.95,
        top_k=0,
        max_new_tokens=48,
        num_return_sequences=2,
        eos_token_id=[*local._writer.ends, *newlines],
        pad_token_id=tokenizer.eos_token_id,
    )

    def work() -> list[int]:
        lengths = []
        for start in range(0, len(prompts), 32):
            batch = tokenizer.pad({"input_ids": prompts[start : start + 32]}, return_tensors="pt")
            with torch.inference_mode():
                result = plain.generate(**batch, generation_config=settings)
            written = result[:, batch["input_ids"].shape[1] :]
            lengths.extend((written != settings.pad_token_id).sum(dim=1).tolist())
        return lengths

    return timed(work, len(rows))


def run_llama_cpp(model: Path, rows: list[tuple[str, str]]) -> dict[str, Any]:
    """llama.cpp's server with 8 slots, 8 requests at a time, prompt cache on."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            venv.create(folder, with_pip=True)
            python = Path(folder) / "bin" / "python"
            install = [str(python), "-m", "pip", "install", "-q", "--only-binary", ":all:", LLAMA_CPP]
            subprocess.run(install, check=True, capture_output=True, timeout=300)
        except (subprocess.SubprocessError, OSError) as error:
            return {"unavailable": f"no prebuilt wheel of llama.cpp could be installed ({type(error).__name__})"}
        command = [str(python), "-c", LLAMA_SERVER, str(model), str(torch.get_num_threads())]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server:
            try:
                address = next((line.split()[1] for line in server.stdout or () if line.startswith("READY")), None)
                if address is None:
                    return {"unavailable": "llama.cpp's server did not start"}
                ask(address, requests_for(rows[-1:])[0])
                requests = requests_for(rows)
                with concurrent.futures.ThreadPoolExecutor(8) as pool:
                    return timed(lambda: list(pool.map(lambda r: ask(address, r), requests)), len(rows), server.pid)
            finally:
                server.terminate()


def ask(address: str, request: Request) -> int:
    """One completion; returns the tokens of the reply."""
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
        return int(json.load(answer)["usage"]["completion_tokens"])


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
    model: Path, rows: list[tuple[str, str]], quick: bool
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Name and measurement of each system; slow ones get fewer passages."""
    best = best_arithmetic()
    yield f"embedfit local ({best.products})", lambda: run_embedfit(model, best, rows)
    few = rows[: 8 if quick else 64]
    if best.products != "fp32":
        yield "embedfit local (fp32, no fast products)", lambda: run_embedfit(model, Arithmetic("fp32", CPU), few)
    yield "transformers generate (bf16, batch 32)", lambda: run_transformers(model, torch.bfloat16, few)
    yield "transformers generate (fp32, batch 32)", lambda: run_transformers(model, torch.float32, few)
    yield "llama.cpp server (8 slots)", lambda: run_llama_cpp(model, few)


def save(path: Path | None, result: dict[str, Any]) -> None:
    """Write what is known so far: a run that is cut short keeps what it measured."""
    if path is not None:
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer passages")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--model", type=Path, help="a GGUF file; default: the one of the offline preset")
    parser.add_argument("--corpus", type=Path, nargs="*", help="corpus.jsonl files to take passages from")
    parser.add_argument("--no-quality", action="store_true", help="measure speed alone")
    options = parser.parse_args()
    corpora = options.corpus or [p for d in ("emanual", "covid_qa") if (p := SHARED / d / "corpus.jsonl").is_file()]
    model = options.model or resolve_generator()
    rows = passages(corpora)[: 32 if options.quick else 192]
    result: dict[str, Any] = {
        "what": "passages a second, 2 queries each, passages of 90 to 150 words, three-shot prompt",
        "hardware": hardware(),
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}
        | {"python": platform.python_version(), "llama.cpp": LLAMA_CPP},
        "systems": {},
    }
    for name, measure in systems(model, rows, options.quick):
        figures = result["systems"][name] = measure()
        shown = figures.get("unavailable") or (
            f"{figures['passages_per_s']:6.2f} passages/s {figures['passages_per_cpu_s']:6.2f} passages/cpu-s"
        )
        print(f"{name:45s} {shown}", flush=True)
        save(options.json, result)
    if not options.no_quality:
        kinds = [Arithmetic(kind, CPU) for kind in ("int8", "bf16")]
        result["quality"] = quality(model, kinds, rows[: 8 if options.quick else 50])
        for kind, figures in result["quality"].items():
            print(
                f"{kind}: greedy replies equal {figures['greedy_replies_equal']:.0%}, "
                f"perplexity of fp32 samples {figures['perplexity_of_fp32_samples']}"
            )
    save(options.json, result)


if __name__ == "__main__":
    sys.exit(main())
