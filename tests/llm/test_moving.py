"""Replies that go to another machine and come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedfit.errors import InputError
from embedfit.llm.ledger import Ledger
from embedfit.llm.ledger.moving import put_in, take_out
from embedfit.llm.protocol import Message, Reply, Request

HERE, THERE = "/home/me/run", "/opt/ml/run"


def put(ledger: Ledger, key: str, run: str, usd: float) -> None:
    request = Request(
        messages=(Message(role="system", content="be brief"), Message(role="user", content=key)), max_tokens=9
    )
    ledger.put(key, "fake", "m", request, Reply(text=f"of {key}", input_tokens=1, output_tokens=1), usd=usd, run=run)


def test_only_the_run_s_replies_go_and_what_was_spent_counts_there(tmp_path: Path) -> None:
    with Ledger(tmp_path / "user.sqlite") as ledger:
        put(ledger, "mine", HERE, 0.25)
        put(ledger, "used", "another run", 0.5)
        put(ledger, "private", "another run", 1.0)
        ledger.sending("doubtful", 0.125, run=HERE)
        ledger.lost("doubtful")
    assert take_out(tmp_path / "user.sqlite", tmp_path / "job.sqlite", HERE, {"used"}, booked=THERE) == 2
    with Ledger(tmp_path / "job.sqlite") as job:
        assert set(job.find(["mine", "used", "private"])) == {"mine", "used"}
        assert job.spent(THERE) == 0.375
    assert b"private" not in (tmp_path / "job.sqlite").read_bytes()


def test_what_comes_back_is_booked_here_and_coming_twice_changes_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path / "user.sqlite") as ledger:
        put(ledger, "mine", HERE, 0.25)
    take_out(tmp_path / "user.sqlite", tmp_path / "job.sqlite", HERE, (), booked=THERE)
    with Ledger(tmp_path / "job.sqlite") as job:
        put(job, "new", THERE, 0.5)
        job.sending("on its way", 0.125, run=THERE)
    assert put_in(tmp_path / "job.sqlite", tmp_path / "user.sqlite", HERE, booked=THERE) == 1
    assert put_in(tmp_path / "job.sqlite", tmp_path / "user.sqlite", HERE, booked=THERE) == 0
    with Ledger(tmp_path / "user.sqlite") as ledger:
        assert ledger.find(["new"])["new"].text == "of new"
        assert ledger.spent(HERE) == 0.875
        assert {row.run for row in ledger.rows()} == {HERE}


def test_a_ledger_that_is_not_there_gives_an_empty_one(tmp_path: Path) -> None:
    assert take_out(tmp_path / "none.sqlite", tmp_path / "job.sqlite", HERE, {"x"}, booked=THERE) == 0
    assert not (tmp_path / "none.sqlite").exists()


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.sqlite").write_bytes(b"no ledger at all" * 100)
    with pytest.raises(InputError, match="no ledger"):
        put_in(tmp_path / "job.sqlite", tmp_path / "user.sqlite", HERE, booked=THERE)
