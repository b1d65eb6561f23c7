import numpy as np

from embedfit.training.masking import known_positives, near_duplicates
from embedfit.training.store import Example, TokenStore


def test_near_duplicates_are_found_and_others_not():
    rng = np.random.default_rng(0)
    texts = [rng.integers(10, 5000, 120).tolist() for _ in range(40)]
    changed = list(texts[3])
    changed[50] = 9999  # one token of 120
    texts += [changed, texts[7][:], texts[9][:60] + rng.integers(10, 5000, 60).tolist()]
    store = TokenStore.of([[1, *text, 2] for text in texts])
    twins = near_duplicates(store, range(len(texts)))
    assert twins == {3: (40,), 40: (3,), 7: (41,), 41: (7,)}


def test_short_texts_are_twins_only_if_equal():
    store = TokenStore.of([[1, 5, 6, 2], [1, 5, 6, 2], [1, 6, 5, 2], [1, 2], [1, 5, 2]])
    assert near_duplicates(store, range(5)) == {0: (1,), 1: (0,)}


def test_twins_of_a_positive_are_known_too():
    examples = [Example(row=0, query=0, positives=(5,)), Example(row=1, query=1, positives=(6,))]
    assert known_positives(examples, {5: (9,)}) == [frozenset({5, 9}), frozenset({6})]
