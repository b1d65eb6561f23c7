"""How many queries, in which styles, of which passages."""

from __future__ import annotations

from collections import Counter

from embedfit.config import GenerateConfig
from embedfit.generators import Wanted, generator
from embedfit.path.artefacts import Passage
from embedfit.queries.plan import plan, queries_per_passage


def passages(train: int, dev: int, test: int = 0) -> list[Passage]:
    splits = ["train"] * train + ["dev"] * dev + ["test"] * test + ["gap"] * 2
    return [
        Passage(passage_id=f"p{n}", document_id="d", title="", text="words", split=split)
        for n, split in enumerate(splits)
    ]


def test_training_and_held_out_styles_never_meet() -> None:
    corpus = passages(40, 10, 10)
    asks = plan(corpus, GenerateConfig(generator="local"), seed=1)
    styles = {split: {a.style.name for a in asks if corpus[a.passage].split == split} for split in ("train", "dev")}
    assert styles["train"] == {"question", "keywords", "claim", "title"}
    assert styles["dev"] == {"conversational"}
    assert not {a.passage for a in asks} & {60, 61}, "gap passages get no query"


def test_every_ask_is_another_call() -> None:
    asks = plan(passages(30, 5), GenerateConfig(generator="bedrock", queries_per_passage=9), seed=1)
    assert len({(a.passage, a.style.name, a.seed) for a in asks}) == len(asks)
    assert set(Counter(a.passage for a in asks if a.passage < 30).values()) == {9}


def test_a_limit_spreads_over_the_corpus() -> None:
    asks = plan(passages(1000, 5), GenerateConfig(generator="local", max_passages=10, queries_per_passage=1), seed=3)
    chosen = sorted(a.passage for a in asks if a.passage < 1000)
    assert len(chosen) == 10
    assert all(100 * n <= place < 100 * (n + 1) for n, place in enumerate(chosen))


def test_more_passages_get_fewer_queries_each() -> None:
    assert queries_per_passage(100, Wanted()) == 10
    assert queries_per_passage(4_000, Wanted()) == 5
    assert queries_per_passage(100_000, Wanted()) == 3
    assert queries_per_passage(100, generator("local").wanted) == 4
    assert queries_per_passage(100_000, generator("local").wanted) == 1


def test_the_plan_is_repeatable() -> None:
    config = GenerateConfig(generator="local")
    assert plan(passages(50, 9), config, seed=5) == plan(passages(50, 9), config, seed=5)
    assert plan(passages(50, 9), config, seed=5) != plan(passages(50, 9), config, seed=6)
