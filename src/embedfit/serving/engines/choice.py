"""The choice of a model's engine on this machine: candidates are tried, and the fastest stays."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from embedfit.errors import EmbedfitError, MissingDependency, ServingError
from embedfit.models.architecture import Architecture
from embedfit.models.graphs.cache import cached_graph
from embedfit.models.layout.modules import Head
from embedfit.numerics.machine import device, encoding_precision, has_gpu
from embedfit.serving.engines.engine import Engine
from embedfit.serving.engines.warmup import tokens_a_second
from embedfit.serving.scheduling.admission import GateResult
from embedfit.serving.settings import PrecisionName, ServeSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCandidate:
    """An engine that may be tried. load reads the model; it may fail with an EmbedfitError."""

    name: str
    precision: str
    streams: int
    load: Callable[[], Engine]

    @property
    def label(self) -> str:
        """The candidate's name for people: "openvino fp32, 2 streams"."""
        streams = f", {self.streams} streams" if self.streams > 1 else ""
        return f"{self.name} {self.precision}{streams}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """The engine that stays, and the tokens per second of every one that was tried (None: it failed).

    verdict: the quality gate's, if int8 was fast enough to reach it.
    """

    engine: Engine
    label: str
    rates: dict[str, float | None]
    verdict: GateResult | None = None


#: The verdict on a fast engine (second) beside an exact one (first); label is the fast one's.
QualityGate = Callable[[Engine, Engine, str], GateResult]

#: A candidate must be faster by this factor than those before it, which answer a lone request sooner.
_FASTER = 1.05


def candidates(
    folder: Path, layout: Architecture, settings: ServeSettings, *, threads: int, gated: bool
) -> list[EngineCandidate]:
    """Every engine that the settings and the installed packages allow, the exact one first.

    gated: there are queries to check int8 on; without them it is not tried.
    """
    engine, precision = settings.engine, settings.precision
    if engine in ("auto", "torch") and has_gpu():
        return _torch(folder, layout, precision, threads)
    found: list[EngineCandidate] = []
    if engine == "auto" and not layout.family.exports:  # no graph of this family is right
        engine = "torch"
    if engine in ("auto", "openvino") and _installed("openvino", engine == "openvino", "serve"):
        found = _openvino(folder, layout, precision, threads, gated=gated)
    if engine == "onnx" or (engine == "auto" and not found):
        if _installed("onnxruntime", engine == "onnx", "onnx") and precision in ("auto", "fp32"):
            found = _onnx(folder, layout, threads)
    if engine == "torch" or (engine == "auto" and not found):
        found = _torch(folder, layout, precision, threads)
    if not found:
        raise ServingError(
            f"No engine runs this model with --engine {engine} --precision {precision}.",
            remedy="Use --engine auto --precision auto.",
        )
    return found


def choose(
    tried: list[EngineCandidate],
    *,
    max_tokens: int,
    precision: PrecisionName,
    gate: QualityGate | None,
    log: Callable[[str], None],
    measure: Callable[[Engine, int], float] = tokens_a_second,
) -> EngineChoice:
    """The fastest candidate on short and long rows; int8 only if the gate lets it pass.

    measure(engine, max_tokens): its speed. Raises the last error if no engine can be loaded, and ServingError if int8
    was demanded and fails the gate.
    """
    rates: dict[str, float | None] = {}
    exact, fast = _Best(), _Best()
    failure: EmbedfitError | None = None
    for candidate in tried:
        try:
            engine = candidate.load()
        except EmbedfitError as error:
            log(f"{candidate.label} can't be used: {error.message}")
            rates[candidate.label], failure = None, error
            continue
        rate = measure(engine, max_tokens) if len(tried) > 1 else 0.0
        rates[candidate.label] = rate
        (fast if candidate.precision == "int8" else exact).offer(engine, candidate.label, rate)
    result: GateResult | None = None
    wanted = precision == "int8" or fast.rate > exact.rate * _FASTER
    if gate is not None and fast.engine is not None and exact.engine is not None and wanted:
        result = gate(exact.engine, fast.engine, fast.label)
        log(result.sentence(fast.label))
        if result.passed:
            return EngineChoice(engine=fast.engine, label=fast.label, rates=rates, verdict=result)
    if precision == "int8":
        raise failure or ServingError(
            "int8 does not pass the quality gate on these queries.", remedy="Use --precision auto."
        )
    if exact.engine is None:
        raise failure or ServingError("There is no engine to try.")
    return EngineChoice(engine=exact.engine, label=exact.label, rates=rates, verdict=result)


@dataclass(slots=True)
class _Best:
    """The fastest engine so far; slower ones are let go, since each holds a model."""

    engine: Engine | None = None
    label: str = ""
    rate: float = 0.0

    def offer(self, engine: Engine, label: str, rate: float) -> None:
        if self.engine is None or rate > self.rate * _FASTER:
            self.engine, self.label, self.rate = engine, label, rate


def _openvino(
    folder: Path, layout: Architecture, precision: PrecisionName, threads: int, *, gated: bool
) -> list[EngineCandidate]:
    from embedfit.serving.engines.openvino_engine import OpenVinoEngine, is_bf16_supported  # an optional dependency

    def load(kind: str, streams: int) -> Engine:
        graph, head = cached_graph(folder, "openvino"), Head.load(folder, layout)
        return OpenVinoEngine.load(graph, head=head, precision=kind, threads=threads, streams=streams)

    kinds = {
        "auto": ["fp32", *(["bf16"] if is_bf16_supported() else []), *(["int8"] if gated else [])],
        "int8": ["fp32", "int8"],  # the exact engine, with which int8 is compared, must stay loaded
    }.get(precision, [precision])
    many = threads if threads <= 4 else threads // 2
    return [
        EngineCandidate(name="openvino", precision=kind, streams=streams, load=partial(load, kind, streams))
        for kind in kinds
        for streams in dict.fromkeys((1, many))
    ]


def _onnx(folder: Path, layout: Architecture, threads: int) -> list[EngineCandidate]:
    from embedfit.serving.engines.onnx_engine import OnnxEngine  # an optional dependency

    def load() -> Engine:
        head = Head.load(folder, layout)
        return OnnxEngine(cached_graph(folder, "onnx"), head=head, precision="fp32", threads=threads)

    return [EngineCandidate(name="onnx", precision="fp32", streams=1, load=load)]


def _torch(folder: Path, layout: Architecture, precision: PrecisionName, threads: int) -> list[EngineCandidate]:
    from embedfit.serving.engines.torch_engine import TorchEngine  # loads torch, which other engines don't need

    if precision == "int8":
        return []
    where, kind = device(), encoding_precision() if precision == "auto" else precision
    load = partial(TorchEngine.load, folder, layout=layout, precision=kind, threads=threads, device=where)
    return [EngineCandidate(name="torch", precision=kind, streams=1, load=load)]


def _installed(package: str, demanded: bool, extra: str) -> bool:
    if importlib.util.find_spec(package) is not None:
        return True
    if demanded:
        raise MissingDependency(package, extra=extra, needed_for=f"--engine {package}")
    return False
