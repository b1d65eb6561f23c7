"""Vague queries and those of a kind that prevails go, and enough stay to train on."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.config import Config, resolve
from embedfit.path.artefacts import Passage, Query
from embedfit.queries import thinning
from embedfit.queries.thinning import (
    ALIKE,
    OF_A_STYLE,
    VAGUE,
    fewest,
    margins,
    margins_of,
    opening,
    over_quota,
    thinned,
    vague,
)
from embedfit.runtime import Runtime
from embedfit.teaching.scores import TeacherScores


def scored(scores: list[list[float]], columns: list[list[int]] | None = None) -> TeacherScores:
    values = np.array(scores, np.float32)
    found = np.array(columns) if columns else np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return TeacherScores(columns=found, scores=values, whole=columns is None)


def test_the_margin_is_the_lead_over_the_best_other_passage_that_is_no_twin() -> None:
    scores = scored([[3, 1, 2.5, -1], [3, 1, 2.5, -1], [0, 0, 0, 2]])
    assert margins(scores, [0, 1, 3], {}).tolist() == [0.5, -2.0, 2.0]
    assert margins(scores, [0, 1, 3], {0: [2], 1: [0]}).tolist() == [2.0, -1.5, 2.0]
    assert margins(scored([[5]]), [0], {}).tolist() == [float("inf")], "there is no other passage"


def test_a_passage_that_is_not_among_the_scored_ones_counts_as_the_worst() -> None:
    scores = scored([[3, 2, -1], [3, 2, -1]], [[7, 5, 9], [7, 5, 9]])
    assert margins(scores, [5, 4], {}).tolist() == [-1.0, -4.0]


MARGINS = st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=40)


@given(MARGINS, st.integers(1, 6), st.floats(-3, 3), st.integers(0, 40))
def test_vague_queries_go_and_each_passage_keeps_its_best(
    found: list[float], passages: int, lowest: float, left: int
) -> None:
    values = np.array(found, np.float32)
    groups = [f"p{row % passages}" for row in range(len(found))]
    gone = vague(values, groups, lowest=lowest, left=left)
    assert (~gone).sum() >= min(left, len(found))
    assert set(groups) == {group for group, out in zip(groups, gone, strict=True) if not out}
    assert (values[gone] < lowest).all()
    for group in set(groups):
        own = [row for row in range(len(found)) if groups[row] == group]
        assert not gone[max(own, key=lambda row: values[row])]
    if left == 0:
        kept = [row for row in np.flatnonzero(~gone).tolist() if values[row] < lowest]
        assert len(kept) <= len(set(groups)), "no vague query stays that is not its passage's best"


@given(st.lists(st.sampled_from("abcdefgh"), max_size=120), st.sampled_from([0.2, 0.25, 0.5]), st.integers(0, 60))
def test_no_kind_has_more_than_its_share_unless_too_few_would_stay(kinds: list[str], share: float, left: int) -> None:
    rng = np.random.default_rng(3)
    found = rng.permutation(len(kinds)).astype(np.float32)
    gone = over_quota(kinds, found, share=share, left=left)
    kept = Counter(kind for kind, out in zip(kinds, gone, strict=True) if not out)
    total, most = kept.total(), max(kept.values(), default=0)
    assert total >= min(left, len(kinds))
    if len(set(kinds)) * share < 1:
        assert not gone.any()
    else:
        assert most <= share * total or total < left + len(kept)
        assert set(kept) == set(kinds)
    for kind in kept:
        stays = [found[row] for row in range(len(kinds)) if kinds[row] == kind and not gone[row]]
        goes = [found[row] for row in range(len(kinds)) if kinds[row] == kind and gone[row]]
        assert not goes or max(goes) < min(stays), "the vaguest go"


def test_a_writer_that_always_begins_alike_is_thinned_and_not_starved() -> None:
    kinds = [opening(f"How do I do thing {n}") for n in range(8_000)] + [opening(f"w{n} v{n}") for n in range(2_000)]
    gone = over_quota(kinds, np.zeros(len(kinds), np.float32), share=0.25, left=fewest(len(kinds)))
    assert (~gone).sum() == fewest(10_000) == round(10_000 * 2 / 3)
    assert not gone[8_000:].any()


@pytest.mark.parametrize(("count", "left"), [(0, 0), (300, 300), (1_000, 1_000), (1_200, 1_000), (3_000, 2_000)])
def test_enough_queries_stay(count: int, left: int) -> None:
    assert fewest(count) == left


@pytest.mark.parametrize(
    ("text", "found"), [("How do I mute?", "how do"), ("mute", "mute"), ("如何清洗", "如 何"), ("", "")]
)
def test_a_way_to_begin(text: str, found: str) -> None:
    assert opening(text) == found


PASSAGES = [
    Passage(passage_id=f"p{n}", document_id="d", title="", text=f"the {word} of the set is {word}{n} and nothing else")
    for n, word in enumerate(("sound", "cable", "menu", "light", "remote", "battery"))
]


def query(number: int, text: str, style: str = "question", **changes: object) -> Query:
    made = Query(query_id=f"q{number}", passage_id="p0", text=text, style=style, split="train", kept=True)
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def config(minilm: Path) -> Config:
    return resolve(preset="offline", overrides={"docs": ["x"], "model": str(minilm)})


def test_a_query_that_other_passages_answer_as_well_is_vague(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thinning, "LEFT", 1)
    monkeypatch.setattr(thinning, "LEFT_SHARE", 0.1)
    rows = [
        query(0, "how loud is sound0"),
        query(1, "what about the battery battery5"),
        query(2, "what is the cable1 of it", split="dev"),
        query(3, "that is menu2 menu", kept=False, reason="too short"),
    ]
    found = margins_of(PASSAGES, rows[:2], {}, config, Runtime())
    assert found[0] > 0 > found[1]
    assert margins_of(PASSAGES, rows[:2], {0: [5]}, config, Runtime())[1] > found[1], "a twin is no other passage"
    assert thinned(PASSAGES, rows, {}, config, Runtime()) == {}
    asked = config.model_copy(update={"generate": config.generate.model_copy(update={"margin": 0.0})})
    assert thinned(PASSAGES, rows, {}, asked, Runtime()) == {1: VAGUE}


def test_beginnings_and_styles_have_quotas(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thinning, "LEFT", 1)
    monkeypatch.setattr(thinning, "LEFT_SHARE", 0.1)
    rows = [query(n, f"how do I do thing {n}") for n in range(20)]
    rows += [query(n, f"w{n} v{n}", "title", passage_id=f"p{n % 6}") for n in range(20, 40)]
    reasons = thinned(PASSAGES, rows, {}, config, Runtime())
    left = [row for number, row in enumerate(rows) if number not in reasons]
    assert set(reasons.values()) == {ALIKE, OF_A_STYLE}
    assert Counter(row.style for row in left)["title"] <= 0.6 * len(left)
    assert Counter(opening(row.text) for row in left)["how do"] <= 0.5 * len(left)
    assert thinned(PASSAGES, rows[:20], {}, config, Runtime()) == {}, "one kind alone can keep no quota"
