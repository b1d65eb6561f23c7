"""Files of questions of any size and quality become different questions with their counts."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.asked import personal
from embedfit.asked.log import MAX_CHARACTERS, MAX_WORDS, key_of, read_log
from embedfit.errors import InputError
from embedfit.progress import Silent


def log_of(tmp_path, lines, **options):
    path = tmp_path / "log.txt"
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return read_log([path], Silent(), seed=13, **options)


def said(log):
    return "\n".join(log.sentences())


def test_questions_with_the_same_words_are_one_with_its_count(tmp_path):
    log = log_of(
        tmp_path, ["How do I mute?", "how do i  MUTE", "ｈｏｗ do I mute!!", "convert a to b", "convert b to a"]
    )
    assert {one.text: one.times for one in log.questions.values()} == {
        "How do I mute?": 3, "convert a to b": 1, "convert b to a": 1,
    }  # fmt: skip
    assert "5 questions, 3 different, 40% repeat another one" in said(log)


def test_forty_per_cent_the_same_question_is_said(tmp_path):
    log = log_of(tmp_path, [f"question {n if n % 5 > 1 else 'again'}" for n in range(100)])
    assert log.questions[key_of("question again")].times == 40
    assert "one question was asked 40 times" in said(log)


def test_positives_of_repeated_questions_come_together(tmp_path):
    rows = [{"query": "Mute?", "positives": ["p1"]}, {"query": "mute", "positives": ["p2", "p1"]}]
    log = log_of(tmp_path, map(json.dumps, rows))
    assert [list(one.positives) for one in log.questions.values()] == [["p1", "p2"]]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=200), st.integers(1, 12))
def test_a_sample_has_the_size_that_was_asked_for(tmp_path_factory, numbers, most):
    log = log_of(tmp_path_factory.mktemp("log"), [f"question {n}" for n in numbers], most=most)
    different = len(set(numbers))
    assert len(log.questions) == min(different, most)
    assert log.is_sample == (different > most)
    assert log.lines == len(numbers)
    if different <= most:
        assert sum(one.times for one in log.questions.values()) == len(numbers)


def test_what_is_asked_often_is_in_the_sample(tmp_path):
    lines = [f"rare {n}" for n in range(3000)]
    lines[::30] = ["often"] * 100
    log = log_of(tmp_path, lines, most=100)
    assert key_of("often") in log.questions
    assert list(log.questions) == list(log_of(tmp_path, lines, most=100).questions), "a file gives one sample"


def test_memory_does_not_grow_with_the_file(tmp_path):
    def peak(count):
        path = tmp_path / "log.txt"
        path.write_text("".join(f"what is number {n}\n" for n in range(count)))
        tracemalloc.start()
        read_log([path], Silent(), seed=13, most=200)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    few, many = peak(20_000), peak(60_000)
    assert many < few * 1.5


def test_what_can_not_be_a_question_is_counted_by_reason_without_being_quoted(tmp_path):
    log = log_of(tmp_path, ['{"query": "secret word"}', "???", "!!", "{broken secret", "", '{"text": " "}'])
    assert {reason: count for reason, (count, _) in log.skipped.items()} == {
        "no word is in it": 2, "it is not JSON": 1, "the query has no text": 1,
    }  # fmt: skip
    assert "log.txt, line 2" in said(log) and "secret" not in said(log)


def test_questions_of_ten_thousand_words_are_cut(tmp_path):
    log = log_of(tmp_path, ["word " * 10_000, "x" * 50_000, "short"])
    assert [len(one.text.split()) for one in log.questions.values() if one.text.startswith("word")] == [MAX_WORDS]
    assert all(len(one.text) <= MAX_CHARACTERS for one in log.questions.values())
    assert "2 were cut" in said(log)


def test_a_file_without_a_question_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no question in"):
        log_of(tmp_path, ["", "...", " "])


def test_forgotten_questions_are_left_out(tmp_path):
    log = log_of(tmp_path, ["Who is Jane Doe?", "mute"], leave_out={key_of("who is jane doe")})
    assert [one.text for one in log.questions.values()] == ["mute"]
    assert log.forgotten == 1 and "1 lines left out" in said(log)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("where is the order of jane.doe@example.co.uk", [personal.EMAILS]),
        ("call me at +49 30 1234567", [personal.PHONES]),
        ("call 030 / 123 45 67 please", [personal.PHONES]),
        ("(555) 123-4567 is whose number", [personal.PHONES]),
        ("card 4111 1111 1111 1111 was declined", [personal.NUMBERS]),
        ("my ssn is 123-45-6789", [personal.NUMBERS]),
        ("customer 200123456789", [personal.NUMBERS]),
        ("transfer to DE89 3704 0044 0532 0130 00", [personal.NUMBERS]),
        ("a@b.de and 4111111111111111", [personal.EMAILS, personal.NUMBERS]),
        ("net loss in 2021 and 2020", []),
        ("is 10.0.19041.1234 the newest version", []),
        ("revenue of $1,234,567,890", []),
        ("what does error 0x80070005 at line 12345 mean", []),
        ("mail @ home", []),
    ],
)
def test_personal_data_is_seen(text, kinds):
    assert list(personal.kinds_in(text)) == kinds


def test_personal_data_is_counted_in_one_line_that_quotes_nothing(tmp_path):
    log = log_of(tmp_path, ["mail jane@doe.org", "mail joe@doe.org", "card 4111 1111 1111 1111", "mute"])
    (line,) = [one for one in log.sentences() if "personal" in one]
    assert "2 with e-mail addresses, 1 with long numbers" in line and "jane" not in line and "4111" not in line
    assert "--judge" in line and "embedfit forget" in line


@given(st.text(alphabet="0123456789 .-+()@a", max_size=400))
def test_no_text_takes_long_to_look_at(text):
    personal.kinds_in(text * 5)
