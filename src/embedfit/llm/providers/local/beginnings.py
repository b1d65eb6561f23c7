"""The order in which prompts of a batch are started, so that a beginning that many of them share is read once.

A batch that keeps what it has read (openvino-genai's enable_prefix_caching, as in vLLM) looks for a prompt's beginning
when the prompt is added. Prompts that are added together find nothing yet: each reads the whole beginning for itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import chain

from embedfit.llm.providers.local.prefix import Tokens

#: Beginnings are compared in blocks of so many tokens. What is shared beyond the last whole block is read twice.
BLOCK = 64


class Waiting:
    """Prompts that were not started yet. One waits as long as a started one reads a beginning that both have."""

    def __init__(self, prompts: Mapping[int, Tokens]) -> None:
        """prompts: the tokens of each prompt by its number, in the order in which they shall be started."""
        beginnings = {number: _beginnings(prompt) for number, prompt in prompts.items()}
        having = Counter(chain.from_iterable(beginnings.values()))
        self._waiting = {number: tuple(key for key in keys if having[key] > 1) for number, keys in beginnings.items()}
        self._reading: dict[int, tuple[int, ...]] = {}
        self._read: set[int] = set()

    def __bool__(self) -> bool:
        """Whether a prompt waits."""
        return bool(self._waiting)

    def start(self, most: int) -> list[int]:
        """The numbers of prompts to start now, at most so many."""
        started: list[int] = []
        busy = set(chain.from_iterable(self._reading.values())) - self._read
        for number, keys in self._waiting.items():
            if len(started) >= most:
                break
            if busy.isdisjoint(keys):
                busy.update(key for key in keys if key not in self._read)
                started.append(number)
        for number in started:
            self._reading[number] = self._waiting.pop(number)
        return started

    def was_read(self, number: int) -> None:
        """Take note that the model has read a started prompt to its end, or has given it up."""
        self._read.update(self._reading.pop(number, ()))


def _beginnings(prompt: Tokens) -> list[int]:
    """A hash of each beginning of whole blocks."""
    return [hash(prompt[:end]) for end in range(BLOCK, len(prompt) + 1, BLOCK)]
