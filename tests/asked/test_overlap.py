"""No question both trains and judges, in the same words or in nearly the same."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedfit.asked.log import key_of, read_log
from embedfit.asked.overlap import alike
from embedfit.asked.rows import JUDGES_TOO, MEASURES_TOO, apart, rows_of_log
from embedfit.path.artefacts import Query
from tests.said import Said


def embed(texts):
    """Random vectors; "please" at the end hardly changes one."""
    rows = []
    for text in texts:
        polite = text.endswith(" please")
        digest = hashlib.sha256(text.removesuffix(" please").encode()).digest()
        row = np.frombuffer(digest, np.uint8).astype(np.float32) - 128
        row[0] += 20 * polite
        rows.append(row / np.linalg.norm(row))
    return np.stack(rows) if rows else np.zeros((0, 32), np.float32)


TEXTS = st.lists(st.text("abc ?!.Ä", min_size=1, max_size=8), max_size=12)


@given(TEXTS, TEXTS)
def test_what_asks_the_same_is_found_and_nothing_else(texts, evidence):
    found = alike(texts, evidence, embed)
    keys = {key_of(text) for text in evidence}
    known = {text.removesuffix(" please") for text in evidence}
    expected = [key_of(text) in keys or text.removesuffix(" please") in known for text in texts]
    assert found.tolist() == expected


def test_case_punctuation_and_a_near_duplicate_count():
    texts = ["How do I mute it?", "how do i MUTE it", "how do I mute it please", "how do I pay"]
    assert alike(texts, ["how do I mute it"], embed).tolist() == [True, True, True, False]
    assert alike(texts, [], embed).tolist() == [False] * 4
    assert alike([], ["x"], embed).tolist() == []


def test_the_log_keeps_no_question_that_judges_or_is_measured(tmp_path):
    lines = [f"question of kind {n}" for n in range(40)]
    lines += [f"{line} please" for line in lines]
    path, report = tmp_path / "log.txt", Said()
    path.write_text("\n".join(lines) + "\n", "utf-8")
    rows = rows_of_log(read_log([path], report, seed=13), [], embed, report, judged=20, seed=13)
    measured = ["Question of kind 3!", "another one"]
    found = apart(rows, measured, embed, report)
    judging = {row.text.removesuffix(" please") for row in found if row.split == "judge"}
    trains = [row.text.removesuffix(" please") for row in found if row.split == "log" and row.kept]
    assert len(judging) == 20 and trains and not judging & set(trains)
    assert "question of kind 3" not in trains
    reasons = [row.reason for row in found if not row.kept]
    assert reasons.count(JUDGES_TOO) == 20 and reasons.count(MEASURES_TOO) in (0, 1, 2)
    assert all(row.kept for row in found if row.split == "judge")
    assert [row.text for row in found] == [row.text for row in rows], "nothing is lost"
    said = "\n".join(report.lines)
    assert "queries: 20 of the log train nothing, because a question that judges asks the same" in said


def test_one_question_a_thousand_times_counts_once(tmp_path):
    path, report = tmp_path / "log.txt", Said()
    path.write_text("how do I mute it\n" * 1_000 + "where is the manual\n", "utf-8")
    rows = rows_of_log(read_log([path], report, seed=13), [], embed, report, judged=1, seed=13)
    assert sorted((row.text, row.times) for row in rows) == [("how do I mute it", 1_000), ("where is the manual", 1)]
    assert "one question was asked 1,000 times; it trains or judges once" in "\n".join(report.lines)
    assert all(isinstance(row, Query) for row in apart(rows, [], embed, report))
