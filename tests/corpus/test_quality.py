"""What is dropped and what is kept."""

from __future__ import annotations

import pytest

from embedfit.corpus.quality import is_contents, reason_to_drop, unreadable_share


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Too short.", "shorter than 60 characters"),
        ("This text holds \ufffd\ufffd\ufffd\ufffd glyphs that nobody can read at all, ever.", "unreadable characters"),
        ("1,234 5,678\n" * 6, "no letters"),
        ("2022 $ 524\n2023 361\n2024 303\n2025 265\n2026 202\nTotal $ 1,655 ....", "numbers or symbols without words"),
        ("aGVsbG8gd29ybGQ" * 30 + " and a few more words here", "not running text (one unbroken string)"),
        ("spam and eggs " * 40, "repeats itself"),
        ("Introduction ..... 1\nMethods ..... 5\nResults ..... 12\nDiscussion ..... 30", "table of contents"),
        ("Business 6\nRisk Factors 11\nStaff Comments 45\nProperties 45\nLegal 46", "table of contents"),
    ],
)  # fmt: skip
def test_dropped(text: str, reason: str) -> None:
    assert reason_to_drop(text, min_characters=60) == reason


@pytest.mark.parametrize(
    "text",
    [
        "Net income $ 461 $ 229\nCost of sales 2,014 1,702\nGross profit 1,212 1,027\nInterest expense (4) 467",
        "If you need to mute the television, press the button with the loudspeaker on the remote control.",
        "电视静音：请按遥控器上的静音按钮。再次按下即可恢复声音。",
        "https://example.org/a/very/long/path is where the manual of the television can be found by anyone.",
        "Mobility $ 6,089 $ 6,953 14 %\nDelivery 3,904 8,362 114 %\nFreight 1,011 2,132 111 %\nAll other bets 135 8",
    ],
)
def test_kept(text: str) -> None:
    assert reason_to_drop(text, min_characters=60) == ""


def test_a_rising_table_of_money_is_no_table_of_contents() -> None:
    assert not is_contents("Year one $ 5\nYear two $ 7\nYear three $ 9\nYear four $ 11\nYear five $ 20")


def test_unreadable_share() -> None:
    assert unreadable_share("") == 0
    assert unreadable_share("ab\ufffd\x01") == 0.5
