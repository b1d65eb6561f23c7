import json
import random

import numpy as np
import pytest

from embedfit.errors import InputError, UsageError
from embedfit.evaluation.benchmark import benchmark
from embedfit.evaluation.evalset import read_eval_set
from embedfit.evaluation.ranking import Dense
from embedfit.interchange import Entry, RetrievalData, write_beir
from embedfit.models.encoder import Encoder
from embedfit.models.windows import blended, windows_of_model
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


@pytest.fixture
def long_beir(tmp_path):
    """Passages of some 300 tokens; what a query asks for stands at the end."""
    generator = random.Random(0)
    filler = ["mute", "the", "tv", "sound", "what", "is", "how"]
    texts = {f"p{n}": " ".join(generator.choices(filler, k=290)) + f" of to query of {n * 'to '}" for n in range(6)}
    folder = tmp_path / "long"
    write_beir(
        folder,
        RetrievalData(
            corpus={name: Entry(text, "title") for name, text in texts.items()},
            queries={f"q{n}": texts[f"p{n}"][-60:] for n in range(6)},
            qrels={f"q{n}": {f"p{n}": 1} for n in range(6)},
        ),
    )
    return folder


def test_windows_are_rows_of_their_own_and_change_no_other(long_beir, tiny_bert, cache):
    tiny = str(tiny_bert)
    plain = benchmark([tiny, "bm25", f"hybrid:{tiny}"], long_beir, Runtime(), cache=cache, draws=200)
    result = benchmark([tiny, "bm25", f"hybrid:{tiny}"], long_beir, Runtime(), cache=cache, draws=200, windows=True)
    windowed, hybrid = f"windowed:{tiny}", f"hybrid:windowed:{tiny}"
    assert list(result["systems"]) == [tiny, windowed, "bm25", f"hybrid:{tiny}", hybrid]
    for name, row in plain["systems"].items():
        assert result["systems"][name]["metrics"] == row["metrics"]
    assert result["systems"][windowed]["metrics"] != result["systems"][tiny]["metrics"]
    assert result["systems"][hybrid]["model"] == result["systems"][tiny]["model"]
    alone = benchmark([windowed], long_beir, Runtime(), cache=cache, draws=200)
    assert alone["systems"][windowed]["metrics"] == result["systems"][windowed]["metrics"]


def test_a_passage_that_fits_is_scored_as_before(beir, tiny_bert, cache):
    tiny = str(tiny_bert)
    result = benchmark([tiny], beir, Runtime(), cache=cache, draws=200, windows=True)
    first, second = result["systems"].values()
    assert first["metrics"] == second["metrics"]


def test_a_windowed_score_is_the_best_of_the_windows_of_a_passage(long_beir, tiny_bert):
    """By hand: every window encoded alone, every cosine compared."""
    eval_set = read_eval_set(long_beir, "human")
    encoder = Encoder.load(tiny_bert)
    windows = windows_of_model(eval_set.contents, encoder.tokenizer, encoder.layout, max_tokens=64)
    whole = encoder.encode(eval_set.contents)
    queries = encoder.encode(eval_set.queries, is_query=True)
    dense = Dense(queries, blended(encoder.encode(windows.texts), whole, windows.starts), windows.starts)
    assert len(windows.texts) > 2 * len(eval_set.passage_ids)
    scores = dense.scores(0, len(queries))
    for passage in range(len(eval_set.passage_ids)):
        mine = [text for text, owner in zip(windows.texts, windows.owners, strict=True) if owner == passage]
        rows = [2 * encoder.encode([text])[0] + whole[passage] for text in mine]
        by_hand = [max(float(query @ row) / float(np.linalg.norm(row)) for row in rows) for query in queries]
        np.testing.assert_allclose(scores[:, passage], by_hand, atol=1e-5)


def test_bm25_alone(beir, cache):
    result = benchmark(["bm25"], beir, Runtime(), cache=cache, draws=200)
    assert result["comparisons"] == []
    assert result["systems"]["bm25"]["metrics"]["hit@10"] == 1.0


@pytest.mark.parametrize(
    "models", [[], ["bm25", "bm25"], ["titan-v2:1"], ["windowed:bm25"], ["windowed:titan-v2"], ["hybrid:windowed:bm25"]]
)
def test_wrong_models_are_refused(beir, models):
    with pytest.raises(UsageError):
        benchmark(models, beir, Runtime())


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="no-such"):
        benchmark(["bm25"], tmp_path / "no-such", Runtime())
