"""The engine that was the fastest at an earlier start, kept in the cache: trying all takes most of a start's time."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from embedfit.errors import EmbedfitError
from embedfit.files.atomic import atomic_file
from embedfit.numerics.machine import cores
from embedfit.path.workspace import sha256_json
from embedfit.runtime import cache_folder
from embedfit.serving.engines.choice import EngineCandidate, EngineChoice
from embedfit.serving.scheduling.admission import GateResult
from embedfit.serving.settings import PrecisionName


def place_of(
    content: str, tried: Sequence[EngineCandidate], *, precision: PrecisionName = "auto", gate: str | None = None
) -> Path:
    """The file of a choice. Its name changes with all that decides it.

    content: names the model's. tried: the engines to choose from. precision: the one asked for. gate: names the content
    of the queries by which int8 is judged; None: it is not.
    """
    labels = [one.label for one in tried]
    about: dict[str, object] = {"content": content, "engines": labels, "precision": precision, "gate": gate}
    about |= {"cores": cores(), "cpu": _processor()}
    return cache_folder() / "engines" / f"{sha256_json(about)[:32]}.json"


def known_choice(
    place: Path, tried: Sequence[EngineCandidate], choose: Callable[[], EngineChoice], *, log: Callable[[str], None]
) -> EngineChoice:
    """The engine that is kept at a place, loaded; else the one that `choose` finds, which is kept then."""
    try:
        kept = json.loads(place.read_text("utf-8"))
        rates: dict[str, float | None] = {str(label): rate and float(rate) for label, rate in kept["rates"].items()}
        candidate = next(one for one in tried if one.label == kept["label"])
        verdict = None if kept["verdict"] is None else GateResult(**kept["verdict"])
        found = EngineChoice(engine=candidate.load(), label=candidate.label, rates=rates, verdict=verdict)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, StopIteration, EmbedfitError):
        found = choose()
        with atomic_file(place) as file:
            kept = {"label": found.label, "rates": found.rates, "verdict": found.verdict and asdict(found.verdict)}
            json.dump(kept, file)
    else:
        if found.verdict is not None:
            log(found.verdict.sentence("int8"))
        log(f"{found.label} was the fastest at an earlier start; to try all again: rm {place}")
    return found


def _processor() -> str:
    """The CPU's name, which /proc has on Linux; elsewhere Python knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
