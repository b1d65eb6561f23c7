"""Which engine runs a model on this machine: candidates are tried, the fastest stays."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from embedfit.errors import EmbedfitError, MissingDependency, ServingError
from embedfit.models.export import cached_graph
from embedfit.models.hardware import best_precision, device
from embedfit.models.layout import Layout
from embedfit.serving.engine import Engine
from embedfit.serving.settings import EngineName, PrecisionName
from embedfit.serving.warmup import example_batch, seconds_a_batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An engine that may be tried. load reads the model; it may fail with an EmbedfitError."""

    name: str
    precision: str
    streams: int
    load: Callable[[], Engine]

    @property
    def label(self) -> str:
        """For people: "openvino fp32, 2 streams"."""
        streams = f", {self.streams} streams" if self.streams > 1 else ""
        return f"{self.name} {self.precision}{streams}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The engine that stays, and the tokens per second of every one that was tried (None: it failed)."""

    engine: Engine
    label: str
    rates: dict[str, float | None]


def candidates(
    folder: Path, layout: Layout, *, engine: EngineName, precision: PrecisionName, threads: int
) -> list[Candidate]:
    """Every engine that the settings and the installed packages allow, most promising first."""
    if device().type == "cuda" and engine in ("auto", "torch"):
        return list(_torch(folder, layout, precision, threads))
    found: list[Candidate] = []
    if engine in ("auto", "openvino") and _installed("openvino", engine == "openvino", "serve"):
        found += _openvino(folder, layout, precision, threads)
    if engine == "onnx" or (engine == "auto" and not found):
        if _installed("onnxruntime", engine == "onnx", "onnx") and precision in ("auto", "fp32"):
            found += _onnx(folder, layout, threads)
    if engine == "torch" or (engine == "auto" and not found):
        found += _torch(folder, layout, precision, threads)
    if not found:
        raise ServingError(
            f"No engine runs this model with --engine {engine} --precision {precision}.",
            remedy="Use --engine auto --precision auto.",
        )
    return found


def choose(tried: list[Candidate], *, max_tokens: int, log: Callable[[str], None]) -> Choice:
    """The fastest candidate on short and long rows; one candidate is not timed.

    Raises the last error where none can be loaded.
    """
    rates: dict[str, float | None] = {}
    best: tuple[float, Candidate, Engine] | None = None
    failure: EmbedfitError | None = None
    for candidate in tried:
        try:
            engine = candidate.load()
        except EmbedfitError as error:
            log(f"{candidate.label} can't be used: {error.message}")
            rates[candidate.label], failure = None, error
            continue
        rate = _rate(engine, max_tokens) if len(tried) > 1 else 0.0
        rates[candidate.label] = rate
        if best is None or rate > best[0]:
            best = (rate, candidate, engine)
    if best is None:
        raise failure or ServingError("There is no engine to try.")
    return Choice(engine=best[2], label=best[1].label, rates=rates)


def _rate(engine: Engine, max_tokens: int) -> float:
    """Tokens a second of all streams, over a batch of queries and one of passages."""
    queries, passages = example_batch(16, min(16, max_tokens)), example_batch(2, min(256, max_tokens))
    seconds = seconds_a_batch(engine, queries) + seconds_a_batch(engine, passages)
    return engine.streams * (queries.padded_tokens + passages.padded_tokens) / seconds


def _openvino(folder: Path, layout: Layout, precision: PrecisionName, threads: int) -> Iterator[Candidate]:
    from embedfit.serving.engine_openvino import OpenVinoEngine, is_bf16_supported  # an optional dependency

    def loader(kind: str, streams: int) -> Callable[[], Engine]:
        def load() -> Engine:
            path = cached_graph(folder, "openvino")
            return OpenVinoEngine.load(path, pooling=layout.pooling, precision=kind, threads=threads, streams=streams)

        return load

    kinds = [kind for kind in ("fp32", "bf16") if precision in ("auto", kind)]
    if precision == "auto" and not is_bf16_supported():
        kinds.remove("bf16")
    for kind in kinds:
        for streams in dict.fromkeys((1, threads)) if threads <= 4 else (1,):
            yield Candidate(name="openvino", precision=kind, streams=streams, load=loader(kind, streams))


def _onnx(folder: Path, layout: Layout, threads: int) -> Iterator[Candidate]:
    from embedfit.serving.engine_onnx import OnnxEngine  # an optional dependency

    def load() -> Engine:
        return OnnxEngine(cached_graph(folder, "onnx"), pooling=layout.pooling, precision="fp32", threads=threads)

    yield Candidate(name="onnx", precision="fp32", streams=1, load=load)


def _torch(folder: Path, layout: Layout, precision: PrecisionName, threads: int) -> Iterator[Candidate]:
    from embedfit.serving.engine_torch import TorchEngine  # not needed where another engine runs

    where = device()
    kind = best_precision() if precision == "auto" else precision
    if kind == "int8":
        return

    def load() -> Engine:
        return TorchEngine.load(folder, pooling=layout.pooling, precision=kind, threads=threads, device=where)

    yield Candidate(name="torch", precision=kind, streams=1, load=load)


def _installed(package: str, demanded: bool, extra: str) -> bool:
    if importlib.util.find_spec(package) is not None:
        return True
    if demanded:
        raise MissingDependency(package, extra=extra, needed_for=f"--engine {package}")
    return False


def compute_device() -> str:
    """For x-compute-type: "cpu", or the GPU's kind."""
    return "gpu" if torch.cuda.is_available() else "cpu"
