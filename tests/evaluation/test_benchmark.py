import io
import json
import random

import numpy as np
import pytest

from embedfit.errors import InputError, UsageError
from embedfit.evaluation.benchmark import BenchmarkResult, benchmark
from embedfit.evaluation.evalset import read_eval_set
from embedfit.evaluation.measure import of_model
from embedfit.files.beir import write_beir
from embedfit.files.retrieval import Entry, RetrievalData
from embedfit.index.build import Source
from embedfit.index.retriever import WINDOWS
from embedfit.index.scoring import Asked, Scores
from embedfit.models.encoder import Encoder
from embedfit.models.local import LocalModel
from embedfit.models.windows import windows_of_model
from embedfit.path.workspace import encode_whole
from embedfit.progress import LogLines
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
    result = benchmark([tiny, "bm25", f"hybrid:{tiny}"], beir, Runtime(vectors=cache), draws=200)
    assert BenchmarkResult.model_validate_json(encode_whole(result)) == result
    assert list(result.systems) == [tiny, "bm25", f"hybrid:{tiny}"]
    assert (result.queries, result.passages, result.beir) == (20, 20, "beir")
    assert list(result.systems["bm25"].metrics) == list(METRICS)
    assert {(row.a, row.b) for row in result.comparisons} == {("bm25", tiny), (f"hybrid:{tiny}", tiny)}
    model = result.systems[tiny].model
    assert (model["query_instruction"], model["max_tokens"]) == ("query: ", 128)
    assert result.systems[f"hybrid:{tiny}"].model == model


def test_one_model_and_its_folder_twice_give_equal_numbers(beir, tiny_bert, cache):
    tiny = str(tiny_bert)
    result = benchmark([tiny, f"{tiny}/", f"{tiny}|query: "], beir, Runtime(vectors=cache), draws=200)
    first, *others = result.systems.values()
    assert all(other.metrics == first.metrics for other in others)


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
    plain = benchmark([tiny, "bm25", f"hybrid:{tiny}"], long_beir, Runtime(vectors=cache), draws=200)
    result = benchmark([tiny, "bm25", f"hybrid:{tiny}"], long_beir, Runtime(vectors=cache), draws=200, windows=True)
    windowed, hybrid = f"windowed:{tiny}", f"hybrid:windowed:{tiny}"
    assert list(result.systems) == [tiny, windowed, "bm25", f"hybrid:{tiny}", hybrid]
    for name, row in plain.systems.items():
        assert result.systems[name].metrics == row.metrics
    assert result.systems[windowed].metrics != result.systems[tiny].metrics
    assert result.systems[hybrid].model == result.systems[tiny].model
    alone = benchmark([windowed], long_beir, Runtime(vectors=cache), draws=200)
    assert alone.systems[windowed].metrics == result.systems[windowed].metrics


def test_a_passage_that_fits_is_scored_as_before(beir, tiny_bert, cache):
    tiny = str(tiny_bert)
    result = benchmark([tiny], beir, Runtime(vectors=cache), draws=200, windows=True)
    first, second = result.systems.values()
    assert first.metrics == second.metrics


def test_a_windowed_score_is_the_best_of_the_windows_of_a_passage(long_beir, tiny_bert, cache):
    """By hand: every window encoded alone, every cosine compared."""
    eval_set = read_eval_set(long_beir, "human")
    encoder = Encoder.load(tiny_bert)
    windows = windows_of_model(eval_set.contents, encoder.tokenizer, encoder.layout, max_tokens=64)
    whole = encoder.encode(eval_set.contents)
    queries = encoder.encode(eval_set.queries, is_query=True)
    opened = of_model(
        LocalModel("tiny", tiny_bert), Source(contents=eval_set.contents), {"w": WINDOWS}, eval_set,
        Runtime(vectors=cache), words=lambda: None,
    )  # fmt: skip
    assert len(windows.texts) > 2 * len(eval_set.passage_ids)
    scores = Scores(opened.parts, Asked(texts=eval_set.queries, vectors=queries)).raw("windows")
    for passage in range(len(eval_set.passage_ids)):
        mine = [text for text, owner in zip(windows.texts, windows.owners, strict=True) if owner == passage]
        rows = [2 * encoder.encode([text])[0] + whole[passage] for text in mine]
        by_hand = [max(float(query @ row) / float(np.linalg.norm(row)) for row in rows) for query in queries]
        np.testing.assert_allclose(scores[:, passage], by_hand, atol=1e-3)  # float16


def test_bm25_alone(beir, cache):
    result = benchmark(["bm25"], beir, Runtime(vectors=cache), draws=200)
    assert result.comparisons == ()
    assert result.systems["bm25"].metrics["hit@10"] == 1.0


@pytest.mark.parametrize(
    "models", [[], ["bm25", "bm25"], ["titan-v2:1"], ["windowed:bm25"], ["windowed:titan-v2"], ["hybrid:windowed:bm25"]]
)
def test_wrong_models_are_refused(beir, models):
    with pytest.raises(UsageError):
        benchmark(models, beir, Runtime())


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="no-such"):
        benchmark(["bm25"], tmp_path / "no-such", Runtime())


@pytest.fixture
def graded_beir(tmp_path):
    """What BEIR folders hold: grades, fractions, equal passages, a query that is a passage, unknown ids."""
    texts = ["mute the tv", "mute the tv", "the tv is mute", "what is mute", "how to query", "to query the tv", "sound"]
    queries = {"q1": "mute the tv", "q2": "how to query", "d4": "how to query", "q3": "sound", "q4": "no answer"}
    qrels = {
        "q1": {"d0": 2, "d1": 1, "d2": 3, "d5": 0}, "q2": {"d4": 1, "d5": 4, "gone": 2},
        "d4": {"d5": 1, "d4": 1}, "q3": {"d6": 1, "d0": -1}, "q4": {"d0": 0},
    }  # fmt: skip
    corpus = {f"d{number}": Entry(text, "") for number, text in enumerate(texts)}
    write_beir(tmp_path / "graded", RetrievalData(corpus=corpus, queries=queries, qrels=qrels))
    return tmp_path / "graded", corpus, queries, qrels


def test_in_trec_evals_convention_the_numbers_are_beirs(graded_beir, tiny_bert, cache):
    import pytrec_eval

    folder, corpus, queries, qrels = graded_beir
    encoder = Encoder.load(tiny_bert)
    passages = encoder.encode_unit([entry.content for entry in corpus.values()])
    scores = encoder.encode_unit(list(queries.values()), is_query=True) @ passages.T
    run = {
        query: {passage: float(one) for passage, one in zip(corpus, row, strict=True) if passage != query}
        for query, row in zip(queries, scores, strict=True)
    }
    judged = {query: grades for query, grades in qrels.items() if max(grades.values()) > 0}
    names = {"ndcg_cut_10": "ndcg@10", "recall_100": "recall@100", "map_cut_100": "map@100", "P_10": "precision@10"}
    theirs = pytrec_eval.RelevanceEvaluator(judged, set(names)).evaluate(run)
    result = benchmark([str(tiny_bert)], folder, Runtime(vectors=cache), draws=50, convention="trec_eval")
    ours = result.systems[str(tiny_bert)].metrics
    for name, own in names.items():
        assert ours[own] == pytest.approx(np.mean([one[name] for one in theirs.values()]), abs=1e-6), name
    assert result.convention == "trec_eval"


def test_in_sentence_transformers_convention_the_numbers_are_its_evaluators(graded_beir, tiny_bert, cache):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    folder, corpus, queries, qrels = graded_beir
    asked = {query: text for query, text in queries.items() if query not in corpus}  # it knows no rule for these
    relevant = {query: {passage for passage, grade in qrels[query].items() if grade > 0} for query in asked}
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": query, "text": text}) + "\n" for query, text in asked.items())
    )
    evaluator = InformationRetrievalEvaluator(
        asked, {name: entry.content for name, entry in corpus.items()}, {k: v for k, v in relevant.items() if v},
        write_csv=False, show_progress_bar=False,
    )  # fmt: skip
    theirs = evaluator(SentenceTransformer(str(tiny_bert), device="cpu"))
    lines = io.StringIO()
    result = benchmark([str(tiny_bert)], folder, Runtime(report=LogLines(lines), vectors=cache), draws=50)
    ours = result.systems[str(tiny_bert)].metrics
    for own, name in [("ndcg@10", "ndcg@10"), ("mrr@10", "mrr@10"), ("hit@1", "accuracy@1"), ("map@100", "map@100")]:
        assert ours[own] == pytest.approx(theirs[f"cosine_{name}"], abs=1e-6), name
    assert lines.getvalue().count("--convention trec_eval") == 1
