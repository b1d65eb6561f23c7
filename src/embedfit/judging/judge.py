"""The interface of judges, as the stages use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and the text of a passage."""

    query: str
    passage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PairScore:
    """How well a passage answers a query. score: 0 to 1, or None with the reason why there is none.

    call_id: the ledger's key of a language model's call; empty for other judges.
    """

    score: float | None
    reason: str = ""
    call_id: str = ""


class Judge(Protocol):
    """A model that scores how well passages answer queries."""

    @property
    def name(self) -> str:
        """The model's name, for people."""

    def judge(self, pairs: Sequence[Pair]) -> list[PairScore]:
        """A score for each pair, in order. Raises GeneratorError if nothing could be judged."""
