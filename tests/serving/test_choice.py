from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedfit.errors import InputError, ModelError, ServingError
from embedfit.models.architecture import Architecture, Dense
from embedfit.models.layout.modules import Head
from embedfit.models.layout.reading import read_architecture
from embedfit.serving.engines.choice import EngineCandidate, candidates, choose
from embedfit.serving.engines.engine import batch_of
from embedfit.serving.engines.warmup import calibrate
from embedfit.serving.scheduling.admission import GateResult, compare, content_of, evaluation_of, remembered, trial_of
from embedfit.serving.settings import ServeSettings
from tests.serving.conftest import FakeEngine


class TimedEngine(FakeEngine):
    """Vectors of another precision at another speed."""

    def __init__(self, precision: str = "fp32", *, noise: float = 0.0) -> None:
        super().__init__()
        self.precision = precision
        self.noise = noise
        self.random = np.random.default_rng(0)

    def pooled(self, batch, stream):
        vectors = np.stack([np.cos(np.outer(np.arange(1, 33), ids)).sum(1) for ids in batch.ids])
        return (vectors + self.noise * self.random.normal(0, vectors.std(), vectors.shape)).astype(np.float32)


def candidate(engine: TimedEngine) -> EngineCandidate:
    return EngineCandidate(name="fake", precision=engine.precision, streams=1, load=lambda: engine)


def verdict(passed: bool) -> GateResult:
    return GateResult(passed=passed, exact=0.5, fast=0.4, least_cosine=0.9, queries=1, passages=1, source="here")


def choose_from(engines, *, rates=None, precision="auto", gate=None):
    """rates: what each precision's engine reaches."""
    return choose(
        [candidate(engine) for engine in engines],
        max_tokens=32,
        precision=precision,
        gate=gate,
        log=lambda _: None,
        measure=lambda engine, _: rates[engine.precision],
    )


def test_the_fastest_stays():
    rates = dict(fp32=100, bf16=300)
    engines = [TimedEngine("fp32"), TimedEngine("bf16")]
    assert choose_from(engines, rates=rates).engine is engines[1]


def test_bf16_that_is_slower_is_not_taken():
    rates = dict(fp32=100, bf16=80)
    engines = [TimedEngine("fp32"), TimedEngine("bf16")]
    assert choose_from(engines, rates=rates).engine is engines[0]


def test_int8_is_taken_only_with_a_passing_verdict():
    rates = dict(fp32=100, int8=300)
    engines = [TimedEngine("fp32"), TimedEngine("int8")]
    passing = choose_from(engines, rates=rates, gate=lambda *_: verdict(True))
    assert passing.engine is engines[1]
    assert passing.verdict is not None
    failing = choose_from(engines, rates=rates, gate=lambda *_: verdict(False))
    assert failing.engine is engines[0]
    assert failing.verdict == verdict(False)
    assert choose_from(engines, rates=rates, gate=None).engine is engines[0]


def test_slow_int8_is_not_even_measured():
    rates = dict(fp32=100, int8=90)
    engines = [TimedEngine("fp32"), TimedEngine("int8")]
    assert choose_from(engines, rates=rates, gate=lambda *_: pytest.fail("measured")).engine is engines[0]


def test_demanded_int8_that_fails_the_gate_is_an_error():
    rates = dict(fp32=100, int8=300)
    with pytest.raises(ServingError, match="gate"):
        choose_from([TimedEngine("fp32"), TimedEngine("int8")], rates=rates, precision="int8",
                    gate=lambda *_: verdict(False))  # fmt: skip


def test_an_engine_that_can_not_be_loaded_is_passed_over():
    rates = dict(fp32=100)
    said: list[str] = []

    def broken():
        raise ModelError("no such graph")

    good = TimedEngine("fp32")
    found = choose(
        [EngineCandidate(name="broken", precision="fp32", streams=1, load=broken), candidate(good)],
        max_tokens=32, precision="auto", gate=None, log=said.append, measure=lambda engine, _: rates[engine.precision],
    )  # fmt: skip
    assert found.engine is good
    assert "no such graph" in said[0]
    with pytest.raises(ModelError, match="no such graph"):
        choose(
            [EngineCandidate(name="broken", precision="fp32", streams=1, load=broken)],
            max_tokens=32, precision="auto", gate=None, log=said.append,
        )  # fmt: skip


def write_beir(folder: Path, count: int = 30) -> Path:
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"p{i}", "title": "", "text": f"passage {i}"}) + "\n" for i in range(count))
    )
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{i}", "text": f"query {i}"}) + "\n" for i in range(count))
    )
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\tp{i}\t1\n" for i in range(count))
    )
    return folder


def rows_of(texts, is_query):
    # A query and its passage share their number, so that the exact engine finds every one.
    return [[int(text.split()[1]) + 1] * 3 for text in texts]


def test_the_gate_lets_equal_engines_pass_and_stops_a_noisy_one(tmp_path):
    trial = trial_of(write_beir(tmp_path / "beir"), rows_of)
    same = compare(TimedEngine(), TimedEngine("int8"), trial, 0)
    assert same.passed
    assert same.exact == same.fast == pytest.approx(1.0)
    assert same.least_cosine == pytest.approx(1.0, abs=1e-5)
    noisy = compare(TimedEngine(), TimedEngine("int8", noise=2.0), trial, 0)
    assert not noisy.passed
    assert noisy.fast < noisy.exact - 0.005
    assert "fails" in noisy.sentence("fake int8")
    width = TimedEngine().pooled(batch_of([[1]], 0), 0).shape[1]
    turned = np.roll(np.eye(width, dtype=np.float32), 1, axis=0)
    module = Dense(path="map", inputs=width, outputs=width, bias=False, activation="Identity")
    plain = Architecture.plain(pooling="mean", max_tokens=8, hidden_size=width)
    after = Head(replace(plain, modules=(*plain.modules[:2], module)), {"map": {"linear.weight": turned}})
    mapped = compare(TimedEngine(), TimedEngine("int8"), trial, 0, after=after)
    assert mapped.passed and mapped.exact < same.exact  # queries, and they alone, go through the map


def test_the_gate_finds_the_evaluation_of_the_run_that_made_the_model(tmp_path):
    write_beir(tmp_path / "run" / "eval")
    model = tmp_path / "run" / "merged"
    model.mkdir()
    assert evaluation_of(str(model), None) is None
    (tmp_path / "run" / "embedfit.toml").write_text("")
    assert evaluation_of(str(model), None) == (tmp_path / "run" / "eval").resolve()
    assert evaluation_of("minilm", str(tmp_path / "run")) == tmp_path / "run" / "eval"
    assert evaluation_of("minilm", str(tmp_path / "run" / "eval")) == tmp_path / "run" / "eval"
    with pytest.raises(InputError, match="qrels"):
        evaluation_of("minilm", str(model))


def test_a_verdict_is_measured_once(tmp_path):
    path, calls = tmp_path / "gates" / "v.json", []
    for _ in range(2):
        assert remembered(path, lambda: calls.append(1) or verdict(True)) == verdict(True)
    assert calls == [1]
    path.write_text("{}")
    assert remembered(path, lambda: verdict(False)) == verdict(False)


def test_another_evaluation_has_another_name(tmp_path):
    one = write_beir(tmp_path / "one")
    before = content_of(one)
    (one / "queries.jsonl").write_text("")
    assert content_of(one) != before


def tried_with(folder, gated, **settings):
    return candidates(folder, read_architecture(folder), ServeSettings(**settings), threads=2, gated=gated)


@pytest.mark.parametrize(
    ("engine", "precision", "gated", "expected"),
    [
        ("openvino", "fp32", True, {("openvino", "fp32")}),
        ("openvino", "int8", True, {("openvino", "fp32"), ("openvino", "int8")}),
        ("onnx", "auto", True, {("onnx", "fp32")}),
        ("torch", "fp32", False, {("torch", "fp32")}),
    ],
)
def test_settings_decide_what_is_tried(tiny_bert, engine, precision, gated, expected):
    tried = tried_with(tiny_bert, gated, engine=engine, precision=precision)
    assert {(one.name, one.precision) for one in tried} == expected


def test_int8_without_queries_to_check_on_is_not_tried(tiny_bert):
    tried = tried_with(tiny_bert, False)
    assert "int8" not in {one.precision for one in tried}


def test_what_no_engine_does_is_an_error(tiny_bert):
    with pytest.raises(ServingError, match="torch"):
        tried_with(tiny_bert, True, engine="torch", precision="int8")


def test_calibration_gives_a_budget_that_holds_the_longest_row():
    capacity = calibrate(FakeEngine(), max_tokens=128, max_batch_tokens=512)
    assert 128 <= capacity.budget <= 512
    assert capacity.overhead >= 0
    assert capacity.tokens_per_second > 0
    assert calibrate(FakeEngine(), max_tokens=600, max_batch_tokens=512).budget == 600
