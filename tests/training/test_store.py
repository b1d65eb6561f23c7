from embedfit.path.artefacts import TrainRow
from embedfit.training.store import tokenise_rows


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
