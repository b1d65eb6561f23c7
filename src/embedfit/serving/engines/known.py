"""The engine that was the fastest at an earlier start, and its capacity, kept in the cache.

Trying all engines and measuring one take most of a start's time.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from embedfit.errors import EmbedfitError
from embedfit.files.atomic import atomic_file
from embedfit.numerics.machine import cores, has_gpu
from embedfit.path.workspace import sha256_json
from embedfit.runtime import cache_folder
from embedfit.serving.engines.choice import EngineCandidate, EngineChoice
from embedfit.serving.engines.engine import Engine
from embedfit.serving.engines.warmup import warm_up
from embedfit.serving.scheduling.admission import GateResult
from embedfit.serving.scheduling.batcher import Capacity
from embedfit.serving.settings import PrecisionName


def place_of(
    content: str,
    tried: Sequence[EngineCandidate],
    *,
    max_batch_tokens: int,
    precision: PrecisionName = "auto",
    gate: str | None = None,
) -> Path:
    """The file of a choice. Its name changes with all that decides it.

    content: names the model's. tried: the engines to choose from. max_batch_tokens: the setting. precision: the one
    asked for. gate: names the content of the queries by which int8 is judged; None: it is not.
    """
    labels = [one.label for one in tried]
    about: dict[str, object] = {"content": content, "engines": labels, "precision": precision, "gate": gate}
    about |= {"cores": cores(), "cpu": _processor(), "gpu": has_gpu(), "max_batch_tokens": max_batch_tokens}
    return cache_folder() / "engines" / f"{sha256_json(about)[:32]}.json"


def known_choice(
    place: Path,
    tried: Sequence[EngineCandidate],
    choose: Callable[[], EngineChoice],
    calibrate: Callable[[Engine], Capacity],
    *,
    log: Callable[[str], None],
) -> tuple[EngineChoice, Capacity]:
    """The engine that is kept at a place, loaded, with its capacity.

    Else the engine that `choose` finds with the capacity that `calibrate` measures; both are kept then.
    """
    try:
        kept = json.loads(place.read_text("utf-8"))
        rates: dict[str, float | None] = {str(label): rate and float(rate) for label, rate in kept["rates"].items()}
        candidate = next(one for one in tried if one.label == kept["label"])
        verdict = None if kept["verdict"] is None else GateResult(**kept["verdict"])
        capacity = _capacity(kept["capacity"])
        found = EngineChoice(engine=candidate.load(), label=candidate.label, rates=rates, verdict=verdict)
    except (OSError, ValueError, TypeError, AttributeError, LookupError, OverflowError, StopIteration, EmbedfitError):
        found = choose()
        capacity = calibrate(found.engine)
        with suppress(EmbedfitError), atomic_file(place) as file:  # a cache may be read-only
            kept = {"label": found.label, "rates": found.rates, "verdict": found.verdict and asdict(found.verdict)}
            json.dump({**kept, "capacity": asdict(capacity)}, file)
    else:
        warm_up(found.engine)
        if found.verdict is not None:
            log(found.verdict.sentence("int8"))
        chosen = "was the fastest" if len(tried) > 1 else "was measured"
        log(f"{found.label} {chosen} at an earlier start; to measure again: rm {place}")
    return found, capacity


def _capacity(kept: dict[str, float]) -> Capacity:
    """A capacity as it was written. Raises ValueError for numbers that no engine has."""
    budget, overhead, rate = int(kept["budget"]), int(kept["overhead"]), float(kept["tokens_per_second"])
    if budget < 1 or overhead < 0 or not 0 < rate < math.inf:
        raise ValueError(kept)
    return Capacity(budget=budget, overhead=overhead, tokens_per_second=rate)


def _processor() -> str:
    """The CPU's name, which /proc has on Linux; elsewhere Python knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
