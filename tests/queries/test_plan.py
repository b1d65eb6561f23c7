"""How many queries, in which styles, of which passages."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from embedfit.config import GenerateConfig
from embedfit.generators import Wanted, generator
from embedfit.path.artefacts import Passage
from embedfit.queries.plan import WANTED, limited, plan, queries_per_passage


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
    assert styles["dev"] == {"conversational", "cause", "problem"}
    assert not {a.passage for a in asks} & {60, 61}, "gap passages get no query"


def test_each_held_out_style_gets_a_share_of_the_passages() -> None:
    """Even where a passage gets one query only, and a large model is asked for two at once."""
    for generator_name, train, dev in (("local", 4, 600), ("bedrock", 4, 600), ("bedrock", 4, 20)):
        corpus = passages(train, dev)
        asks = [ask for ask in plan(corpus, GenerateConfig(generator=generator_name), seed=1) if ask.passage >= train]
        shares = Counter(ask.style.name for ask in asks)
        assert set(shares) == {"conversational", "cause", "problem"}
        assert max(shares.values()) - min(shares.values()) <= 1 + len(asks) // 100
        assert len({(ask.passage, ask.style.name, ask.seed) for ask in asks}) == len(asks)


@given(st.integers(1, 900), st.integers(1, 900), st.sampled_from(["local", "bedrock"]))
def test_held_out_passages_get_as_many_queries_as_an_interval_needs_and_no_more(dev: int, test: int, name: str) -> None:
    asks = plan(passages(4, dev, test), GenerateConfig(generator=name), seed=1)
    for split, first, members in (("dev", 4, dev), ("test", 4 + dev, test)):
        counts = Counter(ask.passage for ask in asks if first <= ask.passage < first + members)
        assert counts.total() == min(WANTED[split], members * generator(name).wanted.held_out)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len(counts) == min(members, WANTED[split]), "as many passages as can be"


def test_a_style_that_the_generator_can_t_write_is_not_asked_of_it(tmp_path: Path) -> None:
    path = tmp_path / "written.jsonl"
    path.write_text(json.dumps({"id": "p1", "question": "how", "title": "why", "problem": "no sound"}) + "\n")
    config = GenerateConfig(generator="recorded", llm=str(path))
    corpus = passages(10, 10)
    asks = plan(corpus, config, seed=1)
    assert {ask.style.name for ask in asks if ask.passage < 10} == {"question", "title"}
    assert {ask.style.name for ask in asks if ask.passage >= 10} == {"problem"}
    path.write_text(json.dumps({"id": "p1", "question": "how"}) + "\n")
    styles = {ask.style.name for ask in plan(corpus, config, seed=1) if ask.passage >= 10}
    assert styles == {"conversational", "cause", "problem"}, "the reasons then say that the file has none of them"


def test_every_ask_is_another_call() -> None:
    asks = plan(passages(30, 5), GenerateConfig(generator="bedrock", queries_per_passage=9), seed=1)
    assert len({(a.passage, a.style.name, a.seed) for a in asks}) == len(asks)
    assert set(Counter(a.passage for a in asks if a.passage < 30).values()) == {9}


def test_a_limit_spreads_over_the_corpus() -> None:
    asks = plan(passages(1000, 5), GenerateConfig(generator="local", max_passages=10, queries_per_passage=1), seed=3)
    chosen = sorted(a.passage for a in asks if a.passage < 1000)
    assert len(chosen) == 10
    assert all(100 * n <= place < 100 * (n + 1) for n, place in enumerate(chosen))


@given(st.sets(st.integers(0, 59)), st.integers(1, 70))
def test_passages_that_nobody_asks_about_come_first(asked: set[int], limit: int) -> None:
    config = GenerateConfig(generator="local", max_passages=limit, queries_per_passage=1)
    chosen = {ask.passage for ask in plan(passages(60, 5), config, seed=3, asked_about=asked) if ask.passage < 60}
    unasked = set(range(60)) - asked
    assert len(chosen) == min(limit, 60)
    assert chosen <= unasked or unasked <= chosen
    assert limited(passages(60, 5), config) == (limit < 60)


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
