import json

import pytest

from embedfit.errors import InputError, UsageError
from embedfit.evaluation.benchmark import benchmark
from embedfit.interchange import Entry, RetrievalData, write_beir
from embedfit.retrieval.metrics import METRICS
from embedfit.runtime import Runtime

from .conftest import passages_of


@pytest.fixture
def beir(tmp_path):
    passages = passages_of(4, 5)
    folder = tmp_path / "beir"
    write_beir(
        folder,
        RetrievalData(
            corpus={passage.passage_id: Entry(passage.text, passage.title) for passage in passages},
            queries={f"q{n}": passage.text[:30] for n, passage in enumerate(passages)},
            qrels={f"q{n}": {passage.passage_id: 1} for n, passage in enumerate(passages)},
        ),
    )
    return folder


def test_systems_side_by_side(beir, tiny_bert, cache):
    tiny = str(tiny_bert)
    result = benchmark([tiny, "bm25", f"hybrid:{tiny}"], beir, Runtime(), cache=cache, draws=200)
    assert json.loads(json.dumps(result)) == result
    assert list(result["systems"]) == [tiny, "bm25", f"hybrid:{tiny}"]
    assert (result["queries"], result["passages"], result["beir"]) == (20, 20, "beir")
    assert list(result["systems"]["bm25"]["metrics"]) == list(METRICS)
    assert {(row["a"], row["b"]) for row in result["comparisons"]} == {("bm25", tiny), (f"hybrid:{tiny}", tiny)}
    model = result["systems"][tiny]["model"]
    assert (model["query_instruction"], model["max_tokens"]) == ("query: ", 128)
    assert result["systems"][f"hybrid:{tiny}"]["model"] == model


def test_one_model_and_its_folder_twice_give_equal_numbers(beir, tiny_bert, cache):
    tiny = str(tiny_bert)
    result = benchmark([tiny, f"{tiny}/", f"{tiny}|query: "], beir, Runtime(), cache=cache, draws=200)
    first, *others = result["systems"].values()
    assert all(other["metrics"] == first["metrics"] for other in others)


def test_bm25_alone(beir, cache):
    result = benchmark(["bm25"], beir, Runtime(), cache=cache, draws=200)
    assert result["comparisons"] == []
    assert result["systems"]["bm25"]["metrics"]["hit@10"] == 1.0


@pytest.mark.parametrize("models", [[], ["bm25", "bm25"], ["titan-v2:1"]])
def test_wrong_models_are_refused(beir, models):
    with pytest.raises(UsageError):
        benchmark(models, beir, Runtime())


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="no-such"):
        benchmark(["bm25"], tmp_path / "no-such", Runtime())
