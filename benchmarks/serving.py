"""How fast embedfit serves on a CPU, beside infinity-emb and a plain sentence-transformers server.

    python benchmarks/serving.py --quick      # some five minutes; writes benchmarks/results/serving_quick.json
    python benchmarks/serving.py              # all cases; writes benchmarks/results/serving.json

Same model (all-MiniLM-L6-v2), same requests (OpenAI's route), same load generator, one server at a time.
Each peer runs in an environment of its own, which is made on first use; infinity with each of its CPU engines.
Tokens are those of the requests, counted alike for all. Tokens per CPU-second (of all threads of the server)
say the same of a machine that other programs use at the same time. Each server is started twice: "ready" is the time
of the second start until /health answers 200, when what a server keeps in its cache is there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import platformdirs
import psutil

from embedfit.files.atomic import atomic_file
from embedfit.models.graphs.export import to_onnx
from embedfit.models.sources import resolve_model
from embedfit.models.tokenizer import load_tokenizer
from embedfit.numerics.machine import cores, gemm_rate

HERE = Path(__file__).resolve().parent
#: The system with which peers are compared: it gives the vectors that they give.
OWN = "embedfit fp32"
ENVIRONMENTS = Path(platformdirs.user_cache_dir("embedfit")) / "benchmark-environments"
INFINITY = (
    "infinity-emb[server,torch,optimum]==0.0.78",
    "transformers<4.49",
    "optimum[onnxruntime]==1.24.0",
    "click<8.2",
    "pyarrow<19",
    "datasets<4",
    "torch==2.13.0",
)
PLAIN = ("sentence-transformers==6.2.0", "torch==2.13.0", "fastapi", "uvicorn")


@dataclass(frozen=True)
class System:
    """A server: the environment it needs, and its command for a model and a port."""

    name: str
    command: Callable[[str, int], list[str]]
    requirements: tuple[str, ...] = ()
    path: str = "/v1/embeddings"


def python(name: str) -> str:
    return str(ENVIRONMENTS / name / "bin" / "python")


def embedfit(*flags: str) -> Callable[[str, int], list[str]]:
    return lambda model, port: [sys.executable, "-m", "embedfit", "serve", model, "--port", str(port), *flags]


def infinity(engine: str, folder: str = "") -> Callable[[str, int], list[str]]:
    """folder: of the model beside the one given, with another ONNX file in it."""
    return lambda model, port: [
        python("infinity"), str(HERE / "peers" / "serve_infinity.py"), "v2", "--model-id", model + folder,
        "--engine", engine, "--device", "cpu", "--port", str(port), "--host", "127.0.0.1", "--log-level", "error",
        "--served-model-name", model,
    ]  # fmt: skip


def with_onnx(model: Path) -> Path:
    """Copies of the model folder with onnx/model.onnx, and beside it with a quantised one: infinity reads either."""
    folder = Path(platformdirs.user_cache_dir("embedfit")) / "serving-benchmark" / "model"
    quantised = folder.with_name("model-int8")
    if not (quantised / "onnx" / "model_quantized.onnx").exists():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        shutil.copytree(model, folder, dirs_exist_ok=True)
        shutil.copytree(model, quantised, dirs_exist_ok=True)
        source = to_onnx(folder)
        (quantised / "onnx").mkdir(exist_ok=True)
        quantize_dynamic(
            source,
            quantised / "onnx" / "model_quantized.onnx",
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul"],
        )
    return folder


def systems(gate: str | None) -> list[System]:
    own = [
        System(OWN, embedfit("--precision", "fp32")),
        System("embedfit (auto)", embedfit(*(["--gate-beir", gate] if gate else []))),
    ]
    return [
        *own,
        System("infinity torch", infinity("torch"), INFINITY, "/embeddings"),
        System("infinity ONNX fp32", infinity("optimum"), INFINITY, "/embeddings"),
        System("infinity ONNX int8", infinity("optimum", "-int8"), INFINITY, "/embeddings"),
        System(
            "sentence-transformers",
            lambda model, port: [
                python("plain"),
                str(HERE / "peers" / "serve_sentence_transformers.py"),
                model,
                str(port),
            ],
            PLAIN,
        ),
    ]


def make_environment(name: str, requirements: tuple[str, ...]) -> None:
    folder = ENVIRONMENTS / name
    done = folder / "requirements.txt"
    if done.exists() and done.read_text() == "\n".join(requirements):
        return
    print(f"making the environment {name}: pip install {' '.join(requirements)}", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    subprocess.run([python(name), "-m", "pip", "install", "--quiet", *requirements], check=True)
    done.write_text("\n".join(requirements))


def workloads(model: Path) -> dict[str, list[tuple[dict[str, object], int]]]:
    """Requests and their tokens, from the text that every CPython ships."""
    tokenizer = load_tokenizer(model)
    words = " ".join(topics.values()).split()
    random_numbers = random.Random(3)

    def text(tokens: int) -> str:
        start = random_numbers.randrange(len(words) - 600)
        encoding = tokenizer.encode(" ".join(words[start : start + 2 * tokens + 20]), add_special_tokens=False)
        end = encoding.offsets[min(tokens, len(encoding.ids)) - 1][1]
        return " ".join(words[start : start + 2 * tokens + 20])[:end]

    def requests(lengths: list[int]) -> list[tuple[dict[str, object], int]]:
        made = []
        for length in lengths:
            content = text(length - 2)
            made.append(({"input": [content], "model": str(model)}, len(tokenizer.encode(content).ids)))
        return made

    log_uniform = [round(6 * (256 / 6) ** random_numbers.random()) for _ in range(400)]
    return {
        "short queries": requests([random_numbers.randint(6, 16) for _ in range(400)]),
        "256-token passages": requests([256] * 100),
        "mixed": requests(log_uniform),
    }


@contextmanager
def running(system: System, model: str, log: Path) -> Iterator[tuple[psutil.Process, int, float]]:
    """The server's process, its port, and the seconds that it took until it was ready."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {**os.environ, "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1"}
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(system.command(model, port), stdout=output, stderr=output, env=environment)
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{system.name} did not start:\n{log.read_text()[-3000:]}") from None
                time.sleep(0.05)
        yield psutil.Process(process.pid), port, round(time.monotonic() - started, 2)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def whole(process: psutil.Process) -> tuple[float, float]:
    """CPU seconds and resident MiB of a server and its children."""
    family = [process, *process.children(recursive=True)]
    seconds = sum(one.cpu_times().user + one.cpu_times().system for one in family)
    return seconds, sum(one.memory_info().rss for one in family) / 2**20


def measure(process: psutil.Process, port: int, path: str, requests: list[Any], **mode: object) -> dict[str, Any]:
    before, _ = whole(process)
    job = {"host": "127.0.0.1", "port": port, "path": path, "requests": requests, **mode}
    done = subprocess.run(
        [sys.executable, str(HERE / "serving_load.py")],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    after, memory = whole(process)
    result |= {
        "cpu_seconds": round(after - before, 2),
        "tokens_per_cpu_second": round(result["tokens"] / max(after - before, 1e-9)),
        "memory_mib": round(memory),
    }
    return result


def benchmark(
    system: System, model: Path, loads: dict[str, Any], clients: list[int], seconds: float
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def add(**row: object) -> None:
        rows.append({"system": system.name, **row})
        print(
            "  ".join(f"{key}={value}" for key, value in rows[-1].items() if key not in ("tokens", "seconds")),
            flush=True,
        )

    log = Path(platformdirs.user_cache_dir("embedfit")) / "serving-benchmark.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with running(system, str(model), log) as (_, _, first):
        pass
    with running(system, str(model), log) as (process, port, again):
        add(ready_seconds_first=first, ready_seconds=again)
        measure(process, port, system.path, loads["mixed"], mode="closed", clients=4, seconds=min(3, seconds))
        best = 0.0
        for load, requests in loads.items():
            for count in clients:
                result = measure(process, port, system.path, requests, mode="closed", clients=count, seconds=seconds)
                add(load=load, loop="closed", clients=count, **result)
                best = max(best, result["requests_per_second"]) if load == "mixed" else best
        for factor in (0.5, 2.0):
            result = measure(
                process,
                port,
                system.path,
                loads["mixed"],
                mode="open",
                rate=factor * best,
                seconds=2 * seconds,
            )
            add(load="mixed", loop="open", rate=round(factor * best, 1), times_sustainable=factor, **result)
    return rows


def hardware() -> dict[str, Any]:
    flags: set[str] = set()
    name = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("flags"):
            flags = set(line.split(":", 1)[1].split())
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
    return {
        "cpu": name,
        "cores": cores(),
        "flags": sorted(flag for flag in flags if flag.startswith(("amx", "avx512_", "avx512f", "avx_vnni"))),
        "gemm_tflops": {kind: round(gemm_rate(kind) / 1e12, 3) for kind in ("fp32", "bf16")},
        "load_average": [round(value, 1) for value in os.getloadavg()],
    }


def versions(name: str) -> dict[str, str]:
    executable = sys.executable if name == "embedfit" else python(name)
    wanted = ("embedfit", "openvino", "infinity-emb", "sentence-transformers", "transformers", "optimum",
              "onnxruntime", "torch", "uvicorn", "fastapi")  # fmt: skip
    code = (
        "import importlib.metadata as m, json, sys\nout = {}\nfor n in sys.argv[1:]:\n"
        "    try: out[n] = m.version(n)\n    except m.PackageNotFoundError: pass\nprint(json.dumps(out))"
    )
    done = subprocess.run([executable, "-c", code, *wanted], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="short queries and mixed texts, 1 and 32 clients, 3 s each"
    )
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--gate-beir", help="BEIR folder that decides whether embedfit may serve int8")
    parser.add_argument(
        "--only", action="append", help="a part of a system's name; other systems' rows stay in the output"
    )
    parser.add_argument("--seconds", type=float, default=0.0, help="of each case")
    parser.add_argument("--output", type=Path, help="default: results/serving[_quick].json")
    arguments = parser.parse_args()
    data = Path(os.environ.get("EMBEDFIT_DATA") or HERE.parents[1] / "shared" / "data") / "emanual"
    gate = arguments.gate_beir or (str(data) if data.is_dir() else None)
    model = with_onnx(resolve_model(arguments.model))
    loads = workloads(model)
    if arguments.quick:
        del loads["256-token passages"]
    clients = [1, 32] if arguments.quick else [1, 8, 32, 256]
    seconds = arguments.seconds or (3.0 if arguments.quick else 8.0)
    output = arguments.output or HERE / "results" / f"serving{'_quick' if arguments.quick else ''}.json"
    about = {
        "model": arguments.model,
        "quick": arguments.quick,
        "seconds_a_case": seconds,
        "int8_gate": Path(gate).name if gate else None,
        "hardware": hardware(),
    }
    rows: list[dict[str, Any]] = []
    environments = {"embedfit": versions("embedfit")}
    before = json.loads(output.read_text()) if arguments.only and output.exists() else None
    for system in systems(gate):
        if arguments.only and not any(part in system.name for part in arguments.only):
            continue
        if system.requirements:
            name = "infinity" if system.requirements == INFINITY else "plain"
            make_environment(name, system.requirements)
            environments[name] = versions(name)
        try:
            rows += benchmark(system, model, loads, clients, seconds)
        except RuntimeError as error:
            print(error, flush=True)
            rows.append({"system": system.name, "error": str(error).splitlines()[0]})
        write(output, about, rows, environments, before)
    report(rows)


def write(
    output: Path,
    about: dict[str, Any],
    rows: list[dict[str, Any]],
    environments: dict[str, dict[str, str]],
    before: dict[str, Any] | None,
) -> None:
    """Write what is measured so far. before: an earlier file, whose rows of other systems stay."""
    if before is not None:
        measured = {row["system"] for row in rows}
        rows = [row for row in before["rows"] if row["system"] not in measured] + rows
        environments = before["versions"] | environments
    date = datetime.now(timezone.utc).date().isoformat()
    document = {"date": date, **about, "versions": environments, "rows": rows}
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output) as file:
        file.write(json.dumps(document, indent=1) + "\n")


def report(rows: list[dict[str, Any]]) -> None:
    """The mixed load, one line a system and number of clients, and how many times as fast embedfit is."""
    columns = {
        "clients": "clients",
        "requests_per_second": "requests/s",
        "tokens_per_second": "tokens/s",
        "tokens_per_cpu_second": "tokens/CPU-s",
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "memory_mib": "MiB",
    }
    print(f"\n{'mixed load':26}" + "".join(f"{title:>13}" for title in columns.values()))
    mixed = [row for row in rows if row.get("load") == "mixed" and row.get("loop") == "closed"]
    for row in mixed:
        print(f"{row['system']:26}" + "".join(f"{row[column] or 0:>13}" for column in columns))
    for row in rows:
        if "ready_seconds" in row:
            print(
                f"{row['system']:26} ready after {row['ready_seconds']} s (first start {row['ready_seconds_first']} s)"
            )
    own = {row["clients"]: row for row in mixed if row["system"] == OWN}
    for row in mixed:
        ours = own.get(row["clients"])
        if ours is not None and not row["system"].startswith("embedfit"):
            times = {
                name: ours[column] / max(row[column] or 0, 1e-9)
                for name, column in (("tokens/s", "tokens_per_second"), ("tokens/CPU-s", "tokens_per_cpu_second"))
            }
            shown = ", ".join(f"{value:.1f} × {name}" for name, value in times.items())
            p99 = f"p99 {ours['p99_ms']} ms against {row['p99_ms']}"
            print(f"{OWN} is {shown} of {row['system']} with {row['clients']} clients ({p99})")


if __name__ == "__main__":
    main()
