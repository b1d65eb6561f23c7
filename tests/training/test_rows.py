import json

import pytest

from embedfit.errors import InputError
from embedfit.training.rows import read_rows


def rows_of(tmp_path, *lines):
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return read_rows(path)


def test_rows_by_hand_and_from_flagembedding(tmp_path):
    rows = rows_of(
        tmp_path,
        {"query": "a", "pos": ["p"]},
        "",
        {"query": "b", "pos": "p", "neg": None, "type": "normal", "pos_id": [3]},
        {
            "query": "c",
            "pos": ["p", "r"],
            "neg": ["n", " "],
            "pos_scores": [1, 2.5],
            "neg_scores": [0, -1],
            "prompt": "P: ",
        },
        {"query": "d", "pos": ["p"], "neg": [], "pos_scores": [], "neg_scores": []},
        {"query": "e", "pos": ["p"], "neg": ["n"], "pos_scores": None, "neg_scores": None},
    )
    assert [row.query for row in rows] == list("abcde")
    assert rows[1].pos == ("p",) and rows[1].neg == ()
    assert rows[2].neg == ("n",) and rows[2].pos_scores == (1.0, 2.5) and rows[2].neg_scores == (0.0,)
    assert rows[2].prompt == "P: " and rows[0].prompt is None
    assert rows[4].pos_scores == () == rows[4].neg_scores


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{not json", "Expecting"),
        ("[1]", "not a JSON object"),
        ({"pos": ["p"]}, "query"),
        ({"query": " ", "pos": ["p"]}, "query"),
        ({"query": "a", "pos": []}, "at least one positive"),
        ({"query": "a", "pos": ["", " "]}, "at least one positive"),
        ({"query": "a", "neg": ["n"]}, "at least one positive"),
        ({"query": "a", "pos": [1]}, "list of strings"),
        ({"query": "a", "pos": ["p"], "pos_scores": ["x"]}, "list of numbers"),
        ({"query": "a", "pos": ["p"], "pos_scores": [True]}, "list of numbers"),
        ({"query": "a", "pos": ["p"], "pos_scores": [1, 2]}, "2 scores for 1 passages"),
        ({"query": "a", "pos": ["p"], "neg": ["n"], "pos_scores": [1]}, "one is there without the other"),
        ('{"query": "a", "pos": ["p"], "pos_scores": [NaN]}', "NaN"),
        ({"query": "a", "pos": ["p"], "prompt": 3}, "prompt"),
    ],
)
def test_errors_name_file_and_line(tmp_path, line, says):
    with pytest.raises(InputError, match=r"train\.jsonl, line 2: .*" + says):
        rows_of(tmp_path, {"query": "a", "pos": ["p"]}, line)
