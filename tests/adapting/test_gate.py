"""The gate: what ships of maps that help, harm or do nothing, by held-out questions or without any."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.adapting.gate import WRITTEN, _halves, decide
from embedfit.adapting.questions import ENOUGH, EvidenceKind, HeldOut, Questions, Training
from embedfit.models.query_map import QueryMap
from embedfit.path.artefacts import AdaptDecision, AdaptEvidence
from embedfit.teaching.coverage import CAREFUL, COVERED

WIDTH, PASSAGES, ASKED = 16, 40, 120
IDS = [f"p{number}" for number in range(PASSAGES)]


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def turn(seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)


def world(skew: np.ndarray, *, kind: EvidenceKind = "written", asked: int = ASKED):
    """Questions whose vectors are those of their passages, skewed and with noise."""
    rng = np.random.default_rng(1)
    passages = unit(rng.normal(size=(PASSAGES, WIDTH)))
    answers = rng.integers(0, PASSAGES, asked)
    vectors = unit((passages[answers] + 0.15 * rng.normal(size=(asked, WIDTH))) @ skew)
    graded = kind == "graded"
    held_out = [
        HeldOut(
            text=f"q{n}",
            gains={**(dict.fromkeys(IDS, 0) if graded else {}), IDS[one]: 3 if graded else 1},
            cluster=IDS[one],
        )
        for n, one in enumerate(answers.tolist())
    ]
    questions = Questions(training=[Training(text="a log's")], held_out=held_out, kind=kind)
    return questions, vectors, passages


def decided(matrix: np.ndarray, skew: np.ndarray, **options) -> tuple[AdaptDecision, AdaptEvidence]:
    fixed, covered = options.pop("fixed", None), options.pop("covered", 0.0)
    questions, vectors, passages = world(skew, **options)
    return decide(QueryMap(matrix), questions, vectors, passages, IDS, covered=covered, fixed=fixed, seed=1)


HALF_TURN = unit(np.eye(WIDTH) + 1.2 * turn(3)).astype(np.float32)


@pytest.mark.parametrize("kind", ["labelled", "written", "graded"])
def test_a_map_that_undoes_the_skew_ships_whole(kind: EvidenceKind) -> None:
    decision, evidence = decided(np.linalg.inv(HALF_TURN).T.astype(np.float32), HALF_TURN, kind=kind, covered=1.0)
    assert decision.ship and decision.share >= 0.75
    assert evidence.kind == kind and evidence.delta is not None and evidence.delta > 0.1
    assert evidence.ci95 is not None and evidence.ci95[0] > 0
    # The other half chose the weight; written questions don't choose.
    assert evidence.questions == ASKED if kind == "written" else 0.3 * ASKED < evidence.questions < 0.7 * ASKED


def test_a_map_that_loses_what_was_there_does_not_ship() -> None:
    decision, evidence = decided(turn(5), np.eye(WIDTH, dtype=np.float32), covered=1.0)
    assert decision.share < 1 and (not decision.ship or decision.share <= 0.5)
    assert evidence.tried["1"] < evidence.tried["0"] - 0.3
    named, about = decided(turn(5), np.eye(WIDTH, dtype=np.float32), fixed=1.0)
    assert named.ship and "named" in named.why and about.ci95 is not None and about.ci95[1] < 0
    assert about.questions == ASKED


def test_a_worse_map_in_the_deciding_half_keeps_the_frozen_vectors() -> None:
    questions, vectors, passages = world(np.eye(WIDTH, dtype=np.float32), kind="labelled")
    chooses = _halves(questions.held_out)
    vectors[chooses] = unit(vectors[chooses] @ turn(5))  # the map is right for the half that chooses, and only there
    decision, evidence = decide(QueryMap(turn(5)), questions, vectors, passages, IDS, covered=1.0, fixed=None, seed=1)
    assert not decision.ship and decision.why.startswith("keep the frozen vectors as they are: the map is surely worse")
    assert evidence.ci95 is not None and evidence.ci95[1] < 0


@pytest.mark.parametrize(("sources", "covered", "share"), [((), 1.0, 1.0), ((), 0.0, CAREFUL), (("p1",), 1.0, WRITTEN)])
def test_written_questions_forbid_and_do_not_choose(sources: tuple[str, ...], covered: float, share: float) -> None:
    questions, vectors, passages = world(np.eye(WIDTH, dtype=np.float32))
    questions = replace(questions, training=[Training(text="a", sources=sources)])
    slightly_worse = unit(np.eye(WIDTH) + 0.05 * turn(5))
    options = {"covered": covered, "fixed": None, "seed": 1}
    decision, evidence = decide(QueryMap(slightly_worse), questions, vectors, passages, IDS, **options)
    assert decision.ship and decision.share == share and evidence.questions == ASKED
    bad, _ = decide(QueryMap(-np.eye(WIDTH, dtype=np.float32)), questions, vectors, passages, IDS, **options)
    assert not bad.ship or bad.share < 0.5


def test_a_map_that_changes_nothing_is_harmless() -> None:
    decision, evidence = decided(np.eye(WIDTH, dtype=np.float32), HALF_TURN)
    assert decision.ship and evidence.delta == 0


@pytest.mark.parametrize(
    ("covered", "asked", "share"),
    [(COVERED + 0.01, True, 1.0), (COVERED - 0.01, True, CAREFUL), (0.9, False, CAREFUL)],
)
def test_without_evidence_people_s_words_decide(covered: float, asked: bool, share: float) -> None:
    one = Training(text="a") if asked else Training(text="a", sources=("p1",))
    questions = Questions(training=[one], held_out=[], kind="none")
    passages = unit(np.eye(PASSAGES, WIDTH) + 0.1)
    none = np.zeros((0, 0), np.float32)
    decision, evidence = decide(QueryMap(turn(1)), questions, none, passages, IDS, covered=covered, fixed=None, seed=1)
    assert (decision.ship, decision.share) == (True, share) and "held out to choose it" in decision.why
    assert evidence.kind == "none" and evidence.delta is None


@given(st.lists(st.integers(0, 20), min_size=ENOUGH, max_size=80))
def test_halves_keep_clusters_together_and_are_about_equal(clusters: list[int]) -> None:
    held_out = [HeldOut(text="q", gains={"p": 1}, cluster=str(one)) for one in clusters]
    chooses = _halves(held_out)
    for one in set(clusters):
        assert len({bool(half) for half, cluster in zip(chooses, clusters, strict=True) if cluster == one}) == 1
    largest = max(clusters.count(one) for one in clusters)
    assert abs(int(chooses.sum()) - len(clusters) / 2) <= largest
