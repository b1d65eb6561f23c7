import numpy as np
import pytest

from embedfit.models.encoder import Encoder
from embedfit.models.local import LocalModel
from embedfit.models.windows import blended, windows_of_model
from embedfit.progress import Silent
from embedfit.retrieval.bm25 import Bm25
from embedfit.runtime import Runtime
from embedfit.training.store import Text
from embedfit.training.teachers.late_interaction import LateInteraction
from embedfit.training.teachers.teacher import FusedTeacher, TeacherWeights, fused_teacher
from tests.training.conftest import WORDS

RNG = np.random.default_rng(4)
PASSAGES = [" ".join(RNG.choice(WORDS, size)) for size in (100, 5, 8, 120, 9)]
QUERIES = ["red green", "loud quiet bright", "zebra"]


def standardised(scores):
    spread = scores.std(1, keepdims=True)
    return np.divide(scores - scores.mean(1, keepdims=True), spread, out=np.zeros_like(scores), where=spread > 1e-9)


def unit(rows):
    vectors = RNG.normal(size=(rows, 6)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Tokens:
    """Scores that late interaction might have given: one for each query and passage."""

    def __init__(self, scores):
        self.all = scores

    def scores(self, queries, passages):
        return self.all[np.ix_(queries, passages)]


@pytest.mark.parametrize("tokens", [None, Tokens(RNG.normal(size=(3, 5)).astype(np.float32))])
def test_scores_are_those_of_windows_tokens_and_words_together(tokens):
    # Queries and passages take turns, as in a store.
    place, starts = np.array([0, 0, 1, 2, 1, 3, 4, 2]), np.array([0, 2, 3, 4, 7])
    queries, windows, index = unit(3), unit(9), Bm25(PASSAGES)
    weights = TeacherWeights(5, 2 if tokens else 0, 1)
    teacher = FusedTeacher(
        place=place,
        queries=queries,
        words=QUERIES,
        windows=windows,
        starts=starts,
        index=index,
        tokens=tokens,
        weights=weights,
    )
    asked, columns = np.array([1, 4, 7, 1]), np.array([0, 2, 3, 5, 6])
    got = teacher.scores(asked, columns)
    rows = place[asked]
    cosines = queries[rows] @ windows.T
    dense = np.stack([cosines[:, a:b].max(1) for a, b in zip(starts, [*starts[1:], 9], strict=True)], 1)
    lexical = np.stack([index.scores(QUERIES[row]) for row in rows])
    wanted = 5 * standardised(dense) + standardised(lexical)
    wanted = (wanted + 2 * tokens.all[rows]) / 8 if tokens else wanted / 6
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    np.testing.assert_allclose(teacher.scores(asked, columns[[3, 1]]), wanted[:, [3, 1]], atol=1e-5)


def test_vectors_are_the_base_models_of_windows_and_of_queries_with_their_prompts(tiny_bert):
    texts = [Text(PASSAGES[0]), Text(QUERIES[0], "query: "), *map(Text, PASSAGES[1:3]), Text(QUERIES[1], "ask: ")]
    texts += [*map(Text, PASSAGES[3:]), Text(QUERIES[2], "query: ")]
    teacher = fused_teacher(texts, str(tiny_bert), TeacherWeights(4, 2, 1), Runtime())
    encoder = Encoder.load(tiny_bert)
    windows = windows_of_model(PASSAGES, encoder.tokenizer, encoder.layout, max_tokens=64)
    assert len(windows.texts) > len(PASSAGES)
    vectors = blended(encoder.encode(windows.texts), encoder.encode(PASSAGES), windows.starts)
    np.testing.assert_allclose(teacher.windows, vectors, atol=0.02)  # bf16, where that is fast
    asked = [1, 4, 7]
    whole = [f"{texts[number].prompt}{texts[number].content}" for number in asked]
    np.testing.assert_allclose(teacher.queries[teacher.place[asked]], encoder.encode(whole), atol=0.02)
    assert [teacher.words[row] for row in teacher.place[asked]] == QUERIES
    assert teacher.place[[0, 2, 3, 5, 6]].tolist() == [0, 1, 2, 3, 4]
    tokens = LateInteraction(encoder, [texts[number] for number in asked], PASSAGES, Silent())
    columns = np.arange(5)
    np.testing.assert_allclose(teacher.tokens.scores(columns[:3], columns), tokens.scores(columns[:3], columns))
    assert fused_teacher(texts, str(tiny_bert), TeacherWeights(1, 0, 1), Runtime()).tokens is None


def test_vectors_are_stored_for_the_next_process(tiny_bert, monkeypatch):
    texts = [*map(Text, PASSAGES), Text(QUERIES[0], "query: ")]
    first = fused_teacher(texts, str(tiny_bert), TeacherWeights(4, 2, 1), Runtime())
    monkeypatch.setattr(LocalModel, "embed", lambda *_, **__: pytest.fail("nothing is left to encode"))
    again = fused_teacher(texts, str(tiny_bert), TeacherWeights(4, 2, 1), Runtime())
    np.testing.assert_array_equal(first.windows, again.windows)
    np.testing.assert_array_equal(first.queries, again.queries)
