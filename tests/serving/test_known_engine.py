"""The engine of an earlier start is taken again without trying all."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedfit.errors import ModelError
from embedfit.serving.engines.choice import EngineCandidate, EngineChoice
from embedfit.serving.engines.known import known_choice, place_of
from embedfit.serving.scheduling.admission import GateResult
from embedfit.serving.scheduling.batcher import Capacity
from tests.serving.conftest import FakeEngine

ENGINES = {"fp32": FakeEngine(), "bf16": FakeEngine()}


def candidates(broken: str = "") -> list[EngineCandidate]:
    def load(precision: str) -> FakeEngine:
        if precision == broken:
            raise ModelError("It can't be loaded.")
        return ENGINES[precision]

    return [
        EngineCandidate(name="fake", precision=one, streams=1, load=lambda one=one: load(one))  # type: ignore[misc]
        for one in ENGINES
    ]


def calibrated(engine: FakeEngine) -> Capacity:
    return Capacity(budget=512, overhead=9, tokens_per_second=1_000.5)


class Choosing:
    """Counts how often all engines are tried."""

    def __init__(self, precision: str, verdict: GateResult | None = None) -> None:
        self.times = 0
        self.precision, self.verdict = precision, verdict

    def __call__(self) -> EngineChoice:
        self.times += 1
        rates: dict[str, float | None] = {"fake fp32": 100.0, "fake bf16": 300.0, "other": None}
        return EngineChoice(
            engine=ENGINES[self.precision], label=f"fake {self.precision}", rates=rates, verdict=self.verdict
        )


def test_all_are_tried_once(tmp_path: Path) -> None:
    place, choosing, said = tmp_path / "engines" / "one.json", Choosing("bf16"), list[str]()
    first = known_choice(place, candidates(), choosing, calibrated, log=said.append)
    assert said == []
    again = known_choice(place, candidates(), choosing, calibrated, log=said.append)
    assert choosing.times == 1
    assert again == first and again[0].engine is ENGINES["bf16"]
    assert again[1] == calibrated(FakeEngine())
    assert f"rm {place}" in said[0]
    place.unlink()
    known_choice(place, candidates(), choosing, calibrated, log=said.append)
    assert choosing.times == 2


@pytest.mark.parametrize(
    "kept", ["", "nonsense", "[]", "{}", '{"label": "fake bf16"}', '{"label": "gone", "rates": {}}', '{"rates": 3}',
             '{"label": "fake bf16", "rates": {}, "verdict": null}',
             '{"label": "fake bf16", "rates": {}, "verdict": null, "capacity": {"budget": 512, "overhead": 9}}',
             '{"label": "fake bf16", "rates": {}, "verdict": null, "capacity": {"budget": 512, "overhead": 9,'
             ' "tokens_per_second": NaN}}',
             '{"label": "fake bf16", "rates": {}, "verdict": null, "capacity": {"budget": Infinity, "overhead": 9,'
             ' "tokens_per_second": 9}}',
             '{"label": "fake bf16", "rates": {"a": "fast"}}', '{"label": "fake bf16", "rates": []}']
)  # fmt: skip
def test_a_damaged_file_is_written_anew(tmp_path: Path, kept: str) -> None:
    place, choosing = tmp_path / "one.json", Choosing("fp32")
    place.write_text(kept)
    assert known_choice(place, candidates(), choosing, calibrated, log=lambda _: None)[0].label == "fake fp32"
    assert known_choice(place, candidates(), choosing, calibrated, log=lambda _: None)[0].label == "fake fp32"
    assert choosing.times == 1


def test_an_engine_that_no_longer_loads_is_chosen_anew(tmp_path: Path) -> None:
    place = tmp_path / "one.json"
    known_choice(place, candidates(), Choosing("bf16"), calibrated, log=lambda _: None)
    found, _ = known_choice(place, candidates(broken="bf16"), Choosing("fp32"), calibrated, log=lambda _: None)
    assert found.label == "fake fp32"


def test_whatever_decides_a_choice_has_another_place() -> None:
    one = place_of("content", candidates(), max_batch_tokens=99)
    assert one == place_of("content", candidates(), max_batch_tokens=99)
    others = (
        place_of("other", candidates(), max_batch_tokens=99),
        place_of("content", candidates()[:1], max_batch_tokens=99),
        place_of("content", candidates(), max_batch_tokens=98),
        place_of("content", candidates(), max_batch_tokens=99, precision="int8"),
        place_of("content", candidates(), max_batch_tokens=99, gate="queries"),
        place_of("content", candidates(), max_batch_tokens=99, gate="other queries"),
    )
    assert len({one, *others}) == 7


def test_the_verdict_of_the_gate_is_kept(tmp_path: Path) -> None:
    """A model that is checked on queries is not compiled in all precisions at each start."""
    verdict = GateResult(
        passed=True, exact=0.5, fast=0.51, least_cosine=0.99, queries=7, passages=9, source="the run's own queries"
    )
    choosing, said = Choosing("bf16", verdict), list[str]()
    place = tmp_path / "one.json"
    first = known_choice(place, candidates(), choosing, calibrated, log=said.append)
    assert known_choice(place, candidates(), choosing, calibrated, log=said.append) == first
    assert first[0].verdict == verdict and choosing.times == 1
    assert any("passes the quality gate" in line for line in said)
