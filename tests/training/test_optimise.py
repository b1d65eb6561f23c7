"""How long and how fast to train, where the user does not say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.training.optimise import automatic_epochs, scheduled


@given(rows=st.integers(2, 10**7), batch_size=st.integers(2, 4096))
def test_epochs_stay_between_one_and_ten(rows: int, batch_size: int) -> None:
    few, many = (automatic_epochs(rows, batch_size, steps) for steps in (30, 60))
    assert 1 <= few <= many <= 10


def test_middling_sets_get_about_as_many_steps_as_are_asked_for() -> None:
    assert automatic_epochs(960, 64, 30) * 960 / 64 == pytest.approx(30)
    assert automatic_epochs(960, 64, 60) * 960 / 64 == pytest.approx(60)


def test_the_rate_rises_to_its_peak_and_falls_to_almost_nothing() -> None:
    rates = [scheduled(step, 20, 1.0, 0.1) for step in range(20)]
    assert rates[:2] == [0.5, 1.0]
    assert max(rates) == 1.0 and rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.1
