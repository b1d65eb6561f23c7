"""The whole of `benchmark` against sentence-transformers' own encoding and evaluator, query instruction included."""

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from embedfit.evaluation.benchmark import benchmark
from embedfit.files.beir import read_beir, write_beir
from embedfit.files.retrieval import Entry, RetrievalData
from embedfit.runtime import Runtime

PAIRS = {
    "hit@1": "accuracy@1", "hit@3": "accuracy@3", "hit@5": "accuracy@5", "hit@10": "accuracy@10", "mrr@10": "mrr@10",
    "ndcg@10": "ndcg@10", "map@100": "map@100", "recall@10": "recall@10", "precision@10": "precision@10",
}  # fmt: skip


def theirs(folder, data):
    evaluator = InformationRetrievalEvaluator(
        queries=data.queries,
        corpus={key: entry.content for key, entry in data.corpus.items()},
        relevant_docs={query: data.relevant(query) for query in data.queries},
        show_progress_bar=False,
    )
    return evaluator(SentenceTransformer(str(folder), device="cpu"))


def ours(folder, beir, tmp_path):
    result = benchmark([str(folder)], beir, Runtime(), draws=100)
    return result.systems[str(folder)].metrics


def assert_equal(mine, reference, tolerance):
    for metric, name in PAIRS.items():
        assert mine[metric] == pytest.approx(reference[f"cosine_{name}"], abs=tolerance), metric


def test_a_tiny_model_scores_as_in_sentence_transformers(tiny_bert, tmp_path):
    words = ["mute", "the", "tv", "sound", "query", "passage", "how", "of", "what", "is"]
    corpus = {f"p{n}": Entry(" ".join(words[(n * 3 + i * i) % 10] for i in range(n % 7 + 2))) for n in range(60)}
    queries = {f"q{n}": " ".join(words[(n + i) % 10] for i in range(n % 4 + 1)) for n in range(40)}
    qrels = {f"q{n}": {f"p{(7 * n + i) % 60}": 1 for i in range(n % 3 + 1)} for n in range(40)}
    data = RetrievalData(corpus=corpus, queries=queries, qrels=qrels)
    write_beir(tmp_path / "beir", data)
    # Passages of equal text tie exactly here and by rounding there, so a rank may differ within a tie.
    mine = ours(tiny_bert, tmp_path / "beir", tmp_path)
    assert_equal(mine, theirs(tiny_bert, data), 1e-9 if len({e.text for e in corpus.values()}) == 60 else 0.02)


@pytest.mark.slow
def test_minilm_scores_on_real_data_as_in_sentence_transformers(minilm, data_dir, tmp_path):
    beir = data_dir / "xquad_en"
    mine = ours(minilm, beir, tmp_path)
    assert_equal(mine, theirs(minilm, read_beir(beir)), 1e-3)  # scores that differ in the sixth digit may swap
