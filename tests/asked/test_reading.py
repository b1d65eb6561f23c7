"""One reader for every file of questions."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.asked.reading import NO_TEXT, cleaned, read_queries, rows_of
from embedfit.errors import InputError


def rows(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "log.txt"
    path.write_bytes(text.encode(encoding))
    return list(rows_of(path))


def test_the_three_forms_may_stand_in_one_file(tmp_path):
    found = rows(
        tmp_path,
        'how do I mute\n\n{"query": "reset it", "positives": ["p1", 7]}\n{"_id": "q9", "text": "warranty"}\n'
        '{"query": "one", "positives": "p2"}\n',
    )
    assert [(one.number, one.identifier, one.text, one.positives) for one in found] == [
        (1, "1", "how do I mute", ()),
        (3, "3", "reset it", ("p1", "7")),
        (4, "q9", "warranty", ()),
        (5, "5", "one", ("p2",)),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [('{"query": ""}', NO_TEXT), ('{"query": 3}', NO_TEXT), ('{"name": "x"}', NO_TEXT), ("{broken", "it is not JSON"),
     ('{"query": "x", "positives": {"a": 1}}', "its positives are no list of ids"),
     ('{"query": "x", "positives": [["a"]]}', "its positives are no list of ids")],
)  # fmt: skip
def test_a_line_without_a_question_has_a_reason_that_does_not_quote_it(tmp_path, line, problem):
    last = rows(tmp_path, f'{{"query": "good"}}\n{line}\n')[-1]
    assert (last.number, last.text, last.problem) == (2, "", problem)


def test_a_question_may_begin_with_a_brace(tmp_path):
    assert [one.text for one in rows(tmp_path, "{name} in templates\n")] == ["{name} in templates"]


def test_control_characters_and_halves_of_surrogates_do_no_harm(tmp_path):
    (one,) = rows(tmp_path, '{"query": "mute\\u0000 the\\ttv \\ud83d now\\n\\u2028!"}\n')
    assert one.text == "mute the tv \ufffd now !"
    one.text.encode("utf-8")


@given(st.text())
def test_a_cleaned_text_is_one_line_and_stays_as_it_is(text):
    found = cleaned(text)
    assert cleaned(found) == found
    assert "\n" not in found and "\r" not in found and found == found.strip()


@given(st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(lambda t: cleaned(t))))
def test_what_is_written_as_json_is_read_again(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("log") / "q.jsonl"
    path.write_text("".join(json.dumps({"query": text}) + "\n" for text in texts), "utf-8")
    assert [one.text for one in rows_of(path)] == [cleaned(text) for text in texts]


def test_utf_16_is_read_and_what_is_no_text_is_said(tmp_path):
    assert [one.text for one in rows(tmp_path, "stumm schalten\nwärmer\n", "utf-16")] == ["stumm schalten", "wärmer"]
    for content in (b"\x89PNG\r\n\x1a\n\x00\x00", b"caf\xe9\n", b"a\xed\xa0\x80\n"):
        path = tmp_path / "bad"
        path.write_bytes(content)
        with pytest.raises(InputError, match="line 1"):
            list(rows_of(path))
    with pytest.raises(InputError, match="missing"):
        list(rows_of(tmp_path / "none.txt"))


def test_a_search_wants_every_line_to_be_a_question(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"_id": "a", "text": "x"}\n{"_id": "b"}\n')
    with pytest.raises(InputError, match=r"q.jsonl, line 2: the query has no text"):
        read_queries(path)
    path.write_text("\n \n")
    with pytest.raises(InputError, match="holds no query"):
        read_queries(path)


def test_a_row_may_call_its_text_question_and_a_table_is_no_list_of_questions(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "how do I mute, the tv"}\n')
    assert [row.text for row in rows_of(rows)] == ["how do I mute, the tv"]
    for name, text in (("log.csv", "query,clicks\nmute the tv,3\n"), ("log.TSV", "mute the tv\t3\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="line 1: this is a table"):
            list(rows_of(tmp_path / name))
    (tmp_path / "plain.csv").write_text("mute the tv\nreset the lamp\n")
    assert len(list(rows_of(tmp_path / "plain.csv"))) == 2
