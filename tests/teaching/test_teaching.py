"""Teachers' scores of a corpus, targets and query maps."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedfit.config import resolve
from embedfit.errors import InputError
from embedfit.merging.gate import Mixture, decide
from embedfit.merging.stage import OTHER_WORDS, covered_by, sweep_of, sweep_settings
from embedfit.models import query_map
from embedfit.models.local import LocalModel
from embedfit.models.query_map import MapCard, QueryMap
from embedfit.numerics.arrays import Floats
from embedfit.path.artefacts import Passage, Query
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime
from embedfit.teaching.coverage import COVERED, covered, covered_log
from embedfit.teaching.own_sentences import EACH, MOST, own_sentences
from embedfit.teaching.query_map import MapSettings, corpus_cross_entropy, fit
from embedfit.teaching.scores import CANDIDATES, SAMPLED, TeacherScores, TeacherWeights, corpus_scores
from embedfit.teaching.targets import common_columns, targets
from embedfit.testing.tiny_model import make_tiny_bert


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    return LocalModel("base", make_tiny_bert(tmp_path_factory.mktemp("tiny") / "model"))


def unit(rows: int, width: int, seed: int) -> Floats:
    values = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    result: Floats = values / np.linalg.norm(values, axis=1, keepdims=True)
    return result


def whole(scores: Floats) -> TeacherScores:
    columns = np.broadcast_to(np.arange(scores.shape[1], dtype=np.int64), scores.shape)
    return TeacherScores(columns=columns, scores=scores, whole=True)


WORDS = "red green blue wall door window roof lamp chair table cup plate fork knife".split()


def test_the_teacher_of_words_alone_ranks_the_passage_with_the_words_first(model: LocalModel) -> None:
    passages = [f"the {word} stands alone here" for word in WORDS]
    found = corpus_scores(model, passages, WORDS, TeacherWeights(windows=0, words=1), Runtime(), seed=1)
    assert found.whole
    assert found.scores.argmax(1).tolist() == list(range(len(WORDS)))
    np.testing.assert_allclose(found.scores.mean(1), 0, atol=1e-5)


def test_a_large_corpus_keeps_the_best_and_a_sample_each_once(model: LocalModel) -> None:
    passages = [f"{WORDS[n % len(WORDS)]} number {n}" for n in range(CANDIDATES + SAMPLED + 300)]
    weights = TeacherWeights(windows=0, words=1)
    every = corpus_scores(model, passages, WORDS[:3], weights, Runtime(), seed=1, most=10**6)
    some = corpus_scores(model, passages, WORDS[:3], weights, Runtime(), seed=1, most=100)
    assert not some.whole
    assert some.columns.shape == (3, CANDIDATES + SAMPLED)
    for row in range(3):
        assert len(set(some.columns[row].tolist())) == CANDIDATES + SAMPLED
        np.testing.assert_array_equal(some.scores[row], every.scores[row, some.columns[row]])
        best = np.argsort(-every.scores[row], kind="stable")[:CANDIDATES]
        assert set(best.tolist()) <= set(some.columns[row].tolist())


def test_a_teacher_that_ranks_everything_alike_is_an_error(model: LocalModel) -> None:
    with pytest.raises(InputError, match="ranks all passages alike"):
        corpus_scores(model, ["same text"] * 9, ["other"], TeacherWeights(windows=0, words=1), Runtime(), seed=1)


@given(st.integers(1, 6), st.integers(2, 12), st.floats(0, 1), st.floats(0.1, 5), st.integers(0, 99))
def test_targets_are_distributions_that_give_labels_their_share(
    queries: int, passages: int, share: float, temperature: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = whole(rng.standard_normal((queries, passages)).astype(np.float32))
    labels = [{int(rng.integers(passages)): 1.0} if row % 2 == 0 else {} for row in range(queries)]
    rows = rng.permutation(queries).astype(np.int64)
    found = targets(rows, scores, labels, temperature=temperature, share=share)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    alone = targets(rows, scores, labels, temperature=temperature, share=0)
    for place, row in enumerate(rows.tolist()):
        for passage in labels[row]:
            assert found[place, passage] == pytest.approx((1 - share) * alone[place, passage] + share, abs=1e-5)
        if not labels[row]:
            np.testing.assert_array_equal(found[place], alone[place])


def test_a_label_outside_the_candidates_leaves_the_teacher_alone() -> None:
    scores = TeacherScores(columns=np.array([[3, 7]]), scores=np.zeros((1, 2), np.float32), whole=False)
    np.testing.assert_allclose(targets(np.array([0]), scores, [{5: 1.0}], temperature=1, share=0.9), [[0.5, 0.5]])


def test_common_columns_spread_the_values_of_each_row() -> None:
    scores = TeacherScores(columns=np.array([[3, 1], [1, 9]]), scores=np.zeros((2, 2), np.float32), whole=False)
    union, spread = common_columns(np.array([0, 1]), scores, np.array([[0.3, 0.7], [0.6, 0.4]], np.float32))
    assert union.tolist() == [1, 3, 9]
    np.testing.assert_allclose(spread, [[0.7, 0.3, np.nan], [0.6, np.nan, 0.4]])


def test_cross_entropy_ignores_passages_that_are_no_candidates() -> None:
    logits = torch.tensor([[1.0, 2.0, 50.0]])
    wanted = torch.tensor([[0.25, 0.75, torch.nan]])
    plain = -(wanted[:, :2] * torch.log_softmax(logits[:, :2], 1)).sum(1)
    torch.testing.assert_close(corpus_cross_entropy(logits, wanted), plain)


def test_a_map_learns_a_rotation_that_the_teacher_knows_and_equal_inputs_give_equal_maps() -> None:
    passages, width = unit(60, 8, 1), 8
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((width, width)))[0].astype(np.float32)
    meant = unit(300, width, 3)
    asked = meant @ turn  # the embedder's vectors are turned away from what is meant
    scores = whole((meant @ passages.T / 0.35).astype(np.float32))
    settings = MapSettings(steps=400, learning_rate=1e-2, teacher_temperature=0.2)
    found = fit(asked[:200], passages, whole(scores.scores[:200]), settings)
    first = (asked[200:] @ passages.T).argmax(1) == (meant[200:] @ passages.T).argmax(1)
    then = (found(asked[200:]) @ passages.T).argmax(1) == (meant[200:] @ passages.T).argmax(1)
    assert first.mean() < 0.3 < 0.8 < then.mean()
    np.testing.assert_array_equal(found.matrix, fit(asked[:200], passages, whole(scores.scores[:200]), settings).matrix)


def test_candidates_of_all_passages_teach_what_the_whole_teaches() -> None:
    passages, queries = unit(30, 6, 1), unit(20, 6, 2)
    scores = whole((queries[:, ::-1] @ passages.T).astype(np.float32))
    order = np.argsort(-scores.scores, axis=1, kind="stable").astype(np.int64)
    some = TeacherScores(columns=order, scores=np.take_along_axis(scores.scores, order, 1), whole=False)
    labels = [{row: 1.0} for row in range(20)]
    settings = MapSettings(steps=20)
    one, two = (fit(queries, passages, taught, settings, labels=labels) for taught in (scores, some))
    np.testing.assert_allclose(one.matrix, two.matrix, atol=1e-4)


def test_a_prior_holds_the_map_of_few_queries_nearer_to_the_identity() -> None:
    passages, queries = unit(30, 6, 1), unit(64, 6, 2)
    scores = (queries[:, ::-1] @ passages.T).astype(np.float32)

    def moved(count: int, prior: float) -> float:
        settings = MapSettings(steps=200, learning_rate=1e-2, prior=prior)
        return float(np.linalg.norm(fit(queries[:count], passages, whole(scores[:count]), settings).matrix - np.eye(6)))

    assert moved(8, 5.0) < moved(64, 5.0) < moved(64, 0.0)
    assert moved(8, 5.0) < moved(8, 0.0) - 0.5
    assert moved(64, 1e5) < 0.01


@given(
    passages=st.lists(st.text("ab. 。\n", max_size=80), max_size=12),
    taught=st.integers(0, 12),
    queries=st.integers(0, 8),
    seed=st.integers(0, 3),
)
def test_own_sentences_are_of_untaught_passages_and_every_passage_lends_before_one_lends_twice(
    passages: list[str], taught: int, queries: int, seed: int
) -> None:
    found = own_sentences(passages, passages[:taught], queries=queries, seed=seed)
    assert found == own_sentences(passages, passages[:taught], queries=queries, seed=seed)
    assert len(found) <= MOST * queries
    untaught = {text for text in passages[taught:] if text.strip()} - set(passages[:taught])
    assert all(content in untaught and sentence in content for sentence, content in found)
    lent = Counter(content for _, content in found)
    assert max(lent.values(), default=0) <= EACH
    if len(found) >= len(untaught):
        assert lent.keys() == untaught
    else:
        assert max(lent.values(), default=0) <= 1


# --- people's questions, and what their words say


def _run_of(contents: list[str], questions: list[str], *, split: str = "log") -> tuple[list[Passage], list[Query]]:
    passages = [
        Passage(passage_id=f"p{n}", document_id="d", title="", text=text, split="train")
        for n, text in enumerate(contents)
    ]
    queries = [
        Query(query_id=f"q{n}", passage_id="", text=text, style="asked", split=split, kept=True)  # type: ignore[arg-type]
        for n, text in enumerate(questions)
    ]
    return passages, queries


def test_a_question_in_a_passage_s_words_is_covered_and_one_in_others_is_not() -> None:
    contents = [f"{word} stands by the {WORDS[place - 1]}" for place, word in enumerate(WORDS)]
    assert covered(contents, ["red stands knife", "green stands red"]) > COVERED
    assert covered(contents, ["entirely unknown terminology", "nothing matches here"]) == 0
    assert covered(contents, []) == 0


def test_only_questions_of_the_log_that_were_kept_count() -> None:
    contents = [f"{word} stands by the {WORDS[place - 1]}" for place, word in enumerate(WORDS)]
    passages, asked = _run_of(contents, ["red stands knife"])
    _, judges = _run_of(contents, ["nothing matches here"], split="judge")
    assert covered_log(passages, [*asked, *judges]) == covered(contents, ["red stands knife"])
    assert covered_log(passages, [replace(asked[0], kept=False), *judges]) is None
    hidden = [replace(one, split="test") if "red" in one.text else one for one in passages]
    assert (covered_log(hidden, asked) or 0) < covered(contents, ["red stands knife"])


@pytest.mark.parametrize(("share", "most"), [(COVERED, 1.0), (COVERED - 0.01, OTHER_WORDS), (None, 1.0)])
def test_how_much_of_a_map_ships_goes_by_the_words_of_the_log(share: float | None, most: float) -> None:
    config = resolve(preset="default", overrides={"queries": ["log.txt"]})
    assert sweep_settings(config, share).max_alpha == most
    named = resolve(preset="default", assignments=["merge.alpha=0.3"])
    assert sweep_of(sweep_settings(named, share), must_encode=False) == ([0.0, 0.3], 0.3)


def test_parts_of_a_log_s_map_are_tried_too_so_that_one_may_ship_if_the_whole_may_not() -> None:
    config = resolve(preset="offline", overrides={"queries": ["log.txt"]})
    alphas, highest = sweep_of(sweep_settings(config, COVERED), must_encode=False)
    assert (alphas, highest) == ([0.0, 0.25, 0.5, 0.75, 1.0], 1.0)
    whole_forgets = [
        Mixture(alpha=alpha, dev=np.full(8, 0.5), retention=0.6 if alpha < 1 else 0.55) for alpha in alphas
    ]
    found = decide(
        whole_forgets, np.arange(8), max_retention_loss=0.01, max_dev_loss=0.03, rng=np.random.default_rng(0),
        max_alpha=highest, must_gain=False,
    )  # fmt: skip
    assert (found.ship, found.alpha) == ("merged", 0.75)


@pytest.mark.parametrize(("tune", "known"), [("map", 0.25), ("both", None)])
def test_the_card_of_a_run_s_map_says_how_much_of_a_log_is_covered(
    tune: str, known: float | None, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    config = resolve(assignments=["train.loss=corpus-distil", f"train.tune={tune}"])
    QueryMap(np.eye(2, dtype=np.float32), MapCard(made={"covered": 0.25})).save(tmp_path / query_map.FILE)
    assert covered_by(workspace, config) == known
    QueryMap(np.eye(2, dtype=np.float32)).save(tmp_path / query_map.FILE)
    assert covered_by(workspace, config) is None


def test_the_offline_preset_learns_a_map_from_a_log_and_a_model_from_written_queries() -> None:
    written, asked = resolve(preset="offline"), resolve(preset="offline", overrides={"queries": ["log.txt"]})
    assert (written.training.loss, written.training.tuned) == ("in-batch-distil", "both")
    assert (asked.training.loss, asked.training.tuned) == ("corpus-distil", "map")
    for tune in ("map", "query"):
        named = resolve(preset="offline", assignments=[f"train.tune={tune}"])
        assert (named.training.loss, named.training.tuned) == ("corpus-distil", tune)
    both = resolve(preset="offline", overrides={"queries": ["log.txt"]}, assignments=["train.tune=both"])
    assert (both.training.loss, both.training.tuned) == ("in-batch-distil", "both")


def test_a_query_that_comes_several_times_teaches_what_as_many_equal_queries_teach() -> None:
    passages, queries, times = unit(30, 6, 1), unit(20, 6, 2), np.array([3, *[1] * 18, 2])
    scores = (queries[:, ::-1] @ passages.T).astype(np.float32)
    settings = MapSettings(steps=20, batch=8)
    once = fit(queries, passages, whole(scores), settings)
    found = fit(queries, passages, whole(scores), settings, times=times)
    repeated = fit(np.repeat(queries, times, 0), passages, whole(np.repeat(scores, times, 0)), settings)
    np.testing.assert_array_equal(found.matrix, repeated.matrix)
    assert not np.allclose(found.matrix, once.matrix)
