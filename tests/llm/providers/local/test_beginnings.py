"""The order in which prompts of a batch are started: a shared beginning is read once, and none waits for ever."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from embedfit.llm.providers.local.beginnings import BLOCK, Waiting
from embedfit.llm.providers.local.prefix import Tokens

#: Prompts of up to four blocks, each of one token, and a rest. So many of them begin alike, and some are equal.
PROMPTS = st.lists(
    st.tuples(st.lists(st.integers(0, 1), max_size=4), st.integers(0, BLOCK - 1)), min_size=1, max_size=30
).map(lambda rows: [tuple(token for token in blocks for _ in range(BLOCK)) + (9,) * rest for blocks, rest in rows])


def blocks(prompt: Tokens) -> list[tuple[int, ...]]:
    """The beginnings of whole blocks."""
    return [prompt[:end] for end in range(BLOCK, len(prompt) + 1, BLOCK)]


@given(prompts=PROMPTS, most=st.integers(1, 8), patience=st.integers(1, 4), data=st.data())
def test_each_prompt_is_started_once_and_each_beginning_read_once(
    prompts: list[Tokens], most: int, patience: int, data: st.DataObject
) -> None:
    waiting = Waiting(dict(enumerate(prompts)))
    known: set[tuple[int, ...]] = set()  # what a batch with a cache finds when a prompt is added
    read: Counter[tuple[int, ...]] = Counter()
    reading: list[int] = []
    started: list[int] = []
    while waiting or reading:
        for number in waiting.start(most - len(reading)):
            read.update(beginning for beginning in blocks(prompts[number]) if beginning not in known)
            reading.append(number)
            started.append(number)
        assert 0 < len(reading) <= most, "something is always read while prompts wait"
        for number in data.draw(st.permutations(reading))[:patience]:
            reading.remove(number)
            waiting.was_read(number)
            known.update(blocks(prompts[number]))
    assert sorted(started) == list(range(len(prompts)))
    assert read == Counter({beginning for prompt in prompts for beginning in blocks(prompt)})


def test_prompts_that_share_nothing_start_at_once_in_their_order() -> None:
    waiting = Waiting({number: (number,) * (2 * BLOCK) for number in (3, 1, 2)})
    assert waiting.start(2) == [3, 1]
    assert waiting.start(0) == [] and waiting
    assert waiting.start(2) == [2] and not waiting


def test_a_prompt_that_was_given_up_holds_nobody_back() -> None:
    waiting = Waiting(dict.fromkeys((0, 1, 2), (1,) * BLOCK))
    assert waiting.start(3) == [0] and waiting.start(3) == []
    waiting.was_read(0)
    assert waiting.start(3) == [1, 2]
