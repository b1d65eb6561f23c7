"""Queries made of a passage's own words."""

from __future__ import annotations

from collections import Counter

import numpy as np

from embedfit.queries.filters import words
from embedfit.queries.terms import STYLE, term_queries
from embedfit.records import Passage

COMMON = "the machine is on and the user can see the screen while it works"


def passage(number: int, split: str = "train") -> Passage:
    return Passage(
        passage_id=f"p{number}",
        document_id="d",
        title="",
        text=f"{COMMON} model-{number} rare{number} word{number} {COMMON} other{number} last{number}",
        split=split,  # type: ignore[arg-type]
    )


def made(count: int = 3, seed: int = 0):
    passages = [passage(n) for n in range(40)] + [passage(99, "dev")]
    chosen = {p.passage_id: (f"twin-of-{p.passage_id}",) for p in passages if p.passage_id != "p7"}
    return passages, term_queries(passages, chosen, count, np.random.default_rng(seed))


def test_every_chosen_training_passage_gets_queries_of_its_own_words() -> None:
    passages, queries = made()
    assert {q.passage_id for q in queries} == {f"p{n}" for n in range(40)} - {"p7"}
    text = {p.passage_id: words(p.text) for p in passages}
    for query in queries:
        found = words(query.text)
        assert 2 <= len(found) <= 5
        own = text[query.passage_id]
        places = [own.index(word) for word in found if own.count(word) == 1]
        assert set(found) <= set(own)
        assert places == sorted(places)
        assert query.also_relevant == (f"twin-of-{query.passage_id}",)
        assert query.kept and query.split == "train" and query.style == STYLE and not query.call_id
    assert len({q.query_id for q in queries}) == len(queries)


def test_rare_words_are_drawn_far_more_often_than_common_ones() -> None:
    _, queries = made(count=10)
    drawn = Counter(word for query in queries for word in words(query.text))
    rare = sum(count for word, count in drawn.items() if any(c.isdigit() for c in word))
    of_a_passage = words(passage(1).text)
    share = sum(any(c.isdigit() for c in word) for word in of_a_passage) / len(of_a_passage)
    assert rare > 3 * share * sum(drawn.values())


def test_the_seed_decides() -> None:
    assert made(seed=1) == made(seed=1)
    assert made(seed=1)[1] != made(seed=2)[1]


def test_a_passage_of_few_words_gets_none() -> None:
    short = Passage(passage_id="s", document_id="d", title="", text="one two")
    assert term_queries([short], {"s": ()}, 4, np.random.default_rng(0)) == []
