"""The plan of queries: how many for each passage, in which styles, with which seeds."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from embedfit.config import GenerateConfig
from embedfit.generators import Wanted, generator
from embedfit.path.artefacts import Passage
from embedfit.queries.prompts import STYLES, Style

#: So many queries of dev and of test passages, if there are passages enough: 250 give an interval of about ±2 points,
#: and the filters drop a third of a small model's, of contracts and tables half. Dev queries decide what ships, so they
#: are more.
WANTED = {"dev": 600, "test": 400}


@dataclass(frozen=True, slots=True)
class Ask:
    """One query to be written of one passage."""

    passage: int
    style: Style
    seed: int


def queries_per_passage(passages: int, wanted: Wanted) -> int:
    """How many training queries of each passage, unless the user says so: GPL's rule (arXiv 2112.07577)."""
    return int(np.clip(round(wanted.queries / max(passages, 1)), wanted.least, wanted.most))


def limited(passages: Sequence[Passage], config: GenerateConfig) -> bool:
    """Whether only some of the training passages get queries."""
    most = config.max_passages or generator(config.generator).wanted.passages
    return 0 < most < sum(passage.split == "train" for passage in passages)


def plan(
    passages: Sequence[Passage], config: GenerateConfig, *, seed: int, asked_about: Collection[int] = frozenset()
) -> list[Ask]:
    """The queries to ask for, in the order of the passages.

    Train passages get queries in the training styles, dev and test passages in the held-out ones:
    a model must not look better only because it has learned the form of its training queries.
    asked_about: passages that people's questions seem to ask about. If only some passages get queries, the others come
    first, because questions of people teach more about these.
    """
    wanted = generator(config.generator).wanted
    training, held_out = _styles(config)
    favourite = STYLES.get(wanted.favourite)
    if favourite in training and len(training) > 1:
        training = [one for style in training if style is not favourite for one in (favourite, style)]
    rng = np.random.default_rng(seed)
    asks: list[Ask] = []
    by_split = {split: [i for i, p in enumerate(passages) if p.split == split] for split in ("train", "dev", "test")}
    train = _training(by_split["train"], config.max_passages or wanted.passages, asked_about, rng)
    count, most_held_out = config.queries_per_passage or queries_per_passage(len(train), wanted), wanted.held_out
    if wanted.samples:
        count = min(count, wanted.samples * len(set(training)))
        most_held_out = min(most_held_out, wanted.samples * len(held_out))
    first = rng.integers(0, len(training), len(passages))
    for passage in train:
        used: Counter[str] = Counter()
        for number in range(count):
            style = training[(int(first[passage]) + number) % len(training)]
            asks.append(Ask(passage, style, seed + used[style.name]))  # the same style again: another sample
            used[style.name] += 1
    for split, most in WANTED.items():
        members = _spread(by_split[split], most, rng)
        places = range(len(members))
        rounds, rest = divmod(min(most, len(members) * most_held_out), max(len(members), 1))
        once_more = set(_spread(places, rest, rng)) if rest else set()
        for place, passage in zip(places, members, strict=True):
            for number in range(rounds + (place in once_more)):
                style = held_out[(place + number) % len(held_out)]
                asks.append(Ask(passage, style, seed + 1000 + number // len(held_out)))
    return sorted(asks, key=lambda ask: ask.passage)


def _styles(config: GenerateConfig) -> tuple[list[Style], list[Style]]:
    """(the styles of training queries, those of dev and test queries), of those that the generator can write.

    If it can write none of a kind, all are asked for, and the reason of each query says that it was not written.
    """
    writes = generator(config.generator).styles
    known = STYLES.keys() if writes is None else writes(config)
    chosen = [STYLES[name] for name in config.styles]
    training = [style for style in chosen if not style.held_out] or chosen
    held_out = [style for style in STYLES.values() if style.held_out]
    return (
        [style for style in training if style.name in known] or training,
        [style for style in held_out if style.name in known] or held_out,
    )


def _training(passages: Sequence[int], limit: int, asked_about: Collection[int], rng: np.random.Generator) -> list[int]:
    """At most `limit` of the passages: those that nobody asks about, then the others."""
    if not limit or len(passages) <= limit:
        return list(passages)
    unasked = [one for one in passages if one not in asked_about]
    if len(unasked) >= limit:
        return _spread(unasked, limit, rng)
    others = [one for one in passages if one in asked_about]
    return sorted([*unasked, *_spread(others, limit - len(unasked), rng)])


def _spread(passages: Sequence[int], limit: int, rng: np.random.Generator) -> list[int]:
    """At most `limit` of the passages, drawn from equal stretches of the corpus, so that every part is there."""
    if not limit or len(passages) <= limit:
        return list(passages)
    edges = np.linspace(0, len(passages), limit + 1).astype(int)
    return [passages[int(rng.integers(low, high))] for low, high in itertools.pairwise(edges)]
