import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.path.artefacts import TrainRow
from embedfit.training.store import Example, doubts, tokenise_rows


class Letters:
    """A tokenizer: one token a letter, between two special tokens; counts the texts it was asked for."""

    def __init__(self, limit=10):
        self.limit, self.asked = limit, []

    def __call__(self, texts, is_query):
        self.asked += texts
        return [[1, *[ord(c) for c in text if c.isalpha()][: self.limit - 2], 2] for text in texts]


def test_every_distinct_text_is_tokenised_once():
    letters = Letters()
    rows = [TrainRow(query="q", pos=("a",), neg=("b", "c")), TrainRow(query="r", pos=("b",), neg=("a", "c"))]
    data = tokenise_rows(rows, letters)
    assert sorted(text for text in letters.asked if text) == ["a", "b", "c", "q", "r"]
    assert len(data.store) == 5 and data.queries.sum() == 2
    first, second = data.examples
    assert first.positives == second.negatives[:1] and second.positives == first.negatives[:1]
    assert data.store[first.query].tolist() == [1, ord("q"), 2]


def test_a_rows_own_prompt_wins_over_the_models():
    rows = [
        TrainRow(query="q", pos=("a",)),
        TrainRow(query="q", pos=("a",), prompt="x "),
        TrainRow(query="q", pos=("a",), prompt=""),
    ]
    data = tokenise_rows(rows, Letters(), instruction="in ")
    tokens = ["".join(chr(t) for t in data.store[e.query][1:-1]) for e in data.examples]
    assert tokens == ["inq", "xq", "q"]


def test_texts_without_tokens_are_left_out_and_counted():
    rows = [
        TrainRow(query="q", pos=("a", "1"), neg=("2", "b"), pos_scores=(1.0, 2.0), neg_scores=(3.0, 4.0)),
        TrainRow(query="3", pos=("a",)),
        TrainRow(query="r", pos=("4",)),
    ]
    data = tokenise_rows(rows, Letters(), instruction="in ")
    assert data.dropped_rows == (1, 2) and data.empty_texts == 4
    (example,) = data.examples
    assert example.row == 0 and example.positive_scores == (1.0,) and example.negative_scores == (4.0,)


def test_an_instruction_that_fills_the_window_leaves_no_query():
    data = tokenise_rows([TrainRow(query="q", pos=("a",))], Letters(limit=6), instruction="instruction ")
    assert data.dropped_rows == (0,)


def test_a_passage_that_is_listed_as_both_is_a_positive():
    data = tokenise_rows([TrainRow(query="q", pos=("a",), neg=("a", "b"))], Letters())
    assert len(data.examples[0].negatives) == 1


def example(query: int, positive: int, negatives: tuple[int, ...] = (), score: float | None = None) -> Example:
    scores = {} if score is None else {"positive_scores": (score,), "negative_scores": (0.5,) * len(negatives)}
    return Example(row=0, query=query, positives=(positive,), negatives=negatives, **scores)


@pytest.mark.parametrize(
    ("examples", "contrasts", "why"),
    [
        ([example(0, 1)] * 200, True, "copies of one row"),
        ([example(0, 1)] * 200, False, "copies of one row"),
        ([example(0, n) for n in range(1, 9)], False, "have the same query"),
        ([example(n, 0) for n in range(1, 9)], True, "have the same passage"),
        ([example(n, n + 20, (0,), 0.5) for n in range(1, 9)], True, "all passages have the same score"),
    ],
)
def test_rows_that_teach_nothing(examples: list[Example], contrasts: bool, why: str) -> None:
    nothing, _ = doubts(examples, contrasts=contrasts, scored=why.endswith("score"))
    assert why in nothing


@pytest.mark.parametrize(
    ("examples", "warning"),
    [
        ([example(0, 1)] * 20 + [example(2, 3)], "19 of 21 rows are copies of others"),
        ([example(0, n) for n in range(1, 9)] + [example(10, 11)], "8 of 9 rows have the same query"),
        ([example(n, 0, (20 + n,)) for n in range(1, 9)], "8 of 8 rows have the same passage as an answer"),
        ([example(1, 2, (3,), 0.5), example(4, 5, (6,), 0.9)], "in 1 of 2 rows all passages have the same score"),
    ],
)
def test_rows_that_teach_badly(examples: list[Example], warning: str) -> None:
    nothing, warnings = doubts(examples, contrasts=True, scored=True)
    assert not nothing and any(warning in one for one in warnings)


@given(st.integers(2, 30))
def test_rows_of_different_queries_and_passages_raise_no_doubt(count: int) -> None:
    examples = [example(n, 100 + n) for n in range(count)]
    for contrasts in (True, False):
        assert doubts(examples, contrasts=contrasts, scored=False) == ("", [])
