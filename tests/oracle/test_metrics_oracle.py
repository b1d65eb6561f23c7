"""Our metrics against InformationRetrievalEvaluator and pytrec_eval, on random and on real data, ties included."""

import numpy as np
import pytest
import pytrec_eval
import torch
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from embedfit.files.beir import read_beir
from embedfit.retrieval.metrics import judge, rank, score

KS = (1, 3, 5, 10, 100)
TREC_NAMES = {"hit": "success", "recall": "recall", "precision": "P", "ndcg": "ndcg_cut", "map": "map_cut"}


def random_case(seed, *, grades=2):
    """Queries that tie often: scores are small integers. Ids sort differently as text and as numbers."""
    rng = np.random.default_rng(seed)
    n, q = int(rng.integers(1, 150)), int(rng.integers(1, 25))
    passages = [f"p{i}" for i in rng.permutation(n)]
    scores = rng.integers(0, int(rng.integers(2, 50)), (q, n)).astype(np.float32)
    relevant = {}
    for row in range(q):
        chosen = rng.choice(n, size=int(rng.integers(1, min(n, 12) + 1)), replace=False)
        relevant[f"q{row}"] = {passages[i]: int(rng.integers(1, grades)) if grades > 2 else 1 for i in chosen}
    return passages, scores, relevant


def real_case(data_dir, name):
    """Word overlap of human queries with passages: real texts, real judgements, many equal scores."""
    beir = read_beir(data_dir / name)
    passages = list(beir.corpus)
    words = {}

    def vector(text):
        return {words.setdefault(word, len(words)) for word in text.lower().split()}

    bags = [vector(beir.corpus[passage].content) for passage in passages]
    relevant = {query: grades for query, grades in beir.qrels.items() if beir.relevant(query)}
    queries = [vector(beir.queries[query]) for query in relevant]
    hot = np.zeros((len(bags), len(words)), dtype=np.float32)
    for row, bag in enumerate(bags):
        hot[row, list(bag)] = 1
    asked = np.zeros((len(queries), len(words)), dtype=np.float32)
    for row, bag in enumerate(queries):
        asked[row, list(bag)] = 1
    return passages, asked @ hot.T, relevant


class RowNumbers:
    """Stands in for a model: a query's vector is its row number, and the score function looks the row up."""

    def __init__(self):
        self.similarity_fn_name = "rows"

    def encode_query(self, queries, **_):
        return torch.arange(len(queries), dtype=torch.float64)[:, None]


def sentence_transformers_means(passages, scores, relevant, chunk):
    matrix = torch.from_numpy(scores)

    def look_up(queries, corpus):
        return matrix[queries[:, 0].long()][:, corpus[:, 0].long()]

    evaluator = InformationRetrievalEvaluator(
        queries=dict.fromkeys(relevant, "?"),
        corpus=dict.fromkeys(passages, "!"),
        relevant_docs={query: set(of_query) for query, of_query in relevant.items()},
        corpus_chunk_size=chunk,
        mrr_at_k=list(KS),
        ndcg_at_k=list(KS),
        accuracy_at_k=list(KS),
        precision_recall_at_k=list(KS),
        map_at_k=list(KS),
        score_functions={"rows": look_up},
    )
    corpus = torch.arange(len(passages), dtype=torch.float64)[:, None]
    return evaluator.compute_all_metrics(RowNumbers(), corpus_embeddings=corpus)["rows"]


def assert_equals_sentence_transformers(passages, scores, relevant, chunk):
    best = rank(scores, passages, max(KS))
    rankings = [[passages[column] for column in row] for row in best]
    names = {"hit": "accuracy@k", **{name: f"{name}@k" for name in ("precision", "recall", "ndcg", "mrr", "map")}}
    ours = score(judge(rankings, list(relevant.values())), [f"{name}@{k}" for name in names for k in KS])
    theirs = sentence_transformers_means(passages, scores, relevant, chunk)
    for name, their_name in names.items():
        for k in KS:
            assert ours[f"{name}@{k}"].mean() == pytest.approx(theirs[their_name][k], abs=1e-9), f"{name}@{k}"


def assert_equals_trec_eval(passages, scores, relevant):
    best = rank(scores, passages, len(passages), "trec_eval")
    rankings = [[passages[column] for column in row] for row in best]
    names = [f"{name}@{k}" for name in TREC_NAMES for k in KS] + [f"mrr@{len(passages)}"]
    ours = score(judge(rankings, list(relevant.values())), names, "trec_eval")
    cuts = ",".join(map(str, KS))
    measures = {f"{name}.{cuts}" for name in TREC_NAMES.values()} | {"recip_rank"}
    run = {query: dict(zip(passages, row.tolist(), strict=True)) for query, row in zip(relevant, scores, strict=True)}
    theirs = pytrec_eval.RelevanceEvaluator(relevant, measures).evaluate(run)
    for row, query in enumerate(relevant):
        for name, their_name in TREC_NAMES.items():
            for k in KS:
                expected = theirs[query][f"{their_name}_{k}"]
                assert ours[f"{name}@{k}"][row] == pytest.approx(expected, abs=1e-9), (query, name, k)
        assert ours[names[-1]][row] == pytest.approx(theirs[query]["recip_rank"], abs=1e-9), query


@pytest.mark.parametrize("seed", range(25))
def test_random_rankings_agree_with_information_retrieval_evaluator(seed):
    passages, scores, relevant = random_case(seed)
    assert_equals_sentence_transformers(passages, scores, relevant, chunk=1 + seed * 7)


@pytest.mark.parametrize("seed", range(25))
def test_random_graded_rankings_agree_with_trec_eval(seed):
    assert_equals_trec_eval(*random_case(seed, grades=5))


def test_scores_that_differ_beyond_float32_agree_with_trec_eval():
    rng = np.random.default_rng(3)
    passages = [f"p{i}" for i in range(60)]
    scores = 0.7 + rng.random((30, 60)) * 1e-6
    relevant = {f"q{row}": {f"p{rng.integers(30)}": 1, f"p{rng.integers(30, 60)}": 2} for row in range(30)}
    assert_equals_trec_eval(passages, scores, relevant)


@pytest.mark.parametrize("name", ["emanual", "stackfaq"])
def test_real_data_agrees_with_information_retrieval_evaluator(data_dir, name):
    passages, scores, relevant = real_case(data_dir, name)
    assert_equals_sentence_transformers(passages, scores, relevant, chunk=200)


@pytest.mark.parametrize("name", ["emanual", "stackfaq"])
def test_real_data_agrees_with_trec_eval(data_dir, name):
    assert_equals_trec_eval(*real_case(data_dir, name))
