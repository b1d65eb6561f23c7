"""Which queries to ask for: how many of each passage, in which styles, with which seeds."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedfit.config import GenerateConfig
from embedfit.queries.prompts import STYLES, Style
from embedfit.records import Passage

#: GPL's rule (arXiv 2112.07577): clip(wanted / passages, low, high) queries a passage.
WANTED_QUERIES = 20_000
#: The local generator writes on the user's CPU; beyond this its time costs more than more queries bring.
WANTED_LOCAL = 3_000
#: Passages that these are written of: of a large corpus a part, with three queries each (DUQGen: a thousand chosen
#: passages beat five thousand).
MAX_LOCAL_PASSAGES = 1_000
#: At least so many queries of dev and of test passages: 250 give an interval of about ±2 points, and the filters
#: drop up to a third of a small model's.
WANTED_HELD_OUT = 400
#: Of one passage: more hardly narrow it, because they rise and fall together. Others than the local one cost money.
MOST_LOCAL_HELD_OUT, MOST_HELD_OUT = 4, 2


@dataclass(frozen=True, slots=True)
class Ask:
    """One query to be written of one passage."""

    passage: int
    style: Style
    seed: int


def queries_per_passage(passages: int, *, local: bool) -> int:
    """How many training queries of each passage, where the user does not say."""
    wanted, low, high = (WANTED_LOCAL, 1, 4) if local else (WANTED_QUERIES, 3, 10)
    return int(np.clip(round(wanted / max(passages, 1)), low, high))


def plan(passages: Sequence[Passage], config: GenerateConfig, *, seed: int) -> list[Ask]:
    """The queries to ask for, in the order of the passages.

    Train passages get queries in the training styles, dev and test passages in the held-out ones:
    a model must not look better only because it has learned the form of its training queries.
    """
    local = config.generator == "local"
    chosen = [STYLES[name] for name in config.styles]
    training = [style for style in chosen if not style.held_out] or chosen
    question = STYLES["question"]
    if local and question in training and len(training) > 1:
        # A small model's questions are its best queries: every second one is a question.
        training = [one for style in training if style is not question for one in (question, style)]
    held_out = [style for style in STYLES.values() if style.held_out]
    rng = np.random.default_rng(seed)
    asks: list[Ask] = []
    by_split = {split: [i for i, p in enumerate(passages) if p.split == split] for split in ("train", "dev", "test")}
    train = _spread(by_split["train"], config.max_passages or (MAX_LOCAL_PASSAGES if local else 0), rng)
    count = config.queries_per_passage or queries_per_passage(len(train), local=local)
    most_held_out = MOST_LOCAL_HELD_OUT if local else MOST_HELD_OUT
    if config.generator == "recorded":  # one query of each style
        count, most_held_out = min(count, len(training)), len(held_out)
    first = rng.integers(0, len(training), len(passages))
    for passage in train:
        used: Counter[str] = Counter()
        for number in range(count):
            style = training[(int(first[passage]) + number) % len(training)]
            asks.append(Ask(passage, style, seed + used[style.name]))  # the same style again: another sample
            used[style.name] += 1
    for split in ("dev", "test"):
        members = _spread(by_split[split], WANTED_HELD_OUT, rng)
        rounds = int(np.clip(-(-WANTED_HELD_OUT // max(len(members), 1)), 1, most_held_out))
        for passage in members:
            for number in range(rounds):
                asks.append(Ask(passage, held_out[number % len(held_out)], seed + 1000 + number // len(held_out)))
    return sorted(asks, key=lambda ask: ask.passage)


def _spread(passages: Sequence[int], limit: int, rng: np.random.Generator) -> list[int]:
    """At most `limit` of the passages, drawn from equal stretches of the corpus, so that every part is there."""
    if not limit or len(passages) <= limit:
        return list(passages)
    edges = np.linspace(0, len(passages), limit + 1).astype(int)
    return [passages[int(rng.integers(low, high))] for low, high in itertools.pairwise(edges)]
