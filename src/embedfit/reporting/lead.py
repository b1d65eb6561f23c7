"""What a run found, in the few lines that a terminal shows."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from embedfit.reporting.evidence import results_of
from embedfit.reporting.wording import tuning, verdict


def lead_lines(summary: Mapping[str, Any], run: str) -> list[str]:
    """What to search with, what tuning added, and what to do next. summary: summary.json; run: the run's folder."""
    results = results_of(summary)
    said = verdict(results)
    word = shlex.quote(run)
    lines = [
        f"{said.action}: {said.sentence}.",
        tuning(results),
        f'Next: embedfit index --run {word}; embedfit search --run {word} "…"; embedfit serve {word}',
    ]
    return [line for line in lines if line]
