"""What every judge looks like to the stages that ask one."""

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
    """Someone who reads queries and passages."""

    @property
    def name(self) -> str:
        """For people: which model judges."""

    def judge(self, pairs: Sequence[Pair]) -> list[PairScore]:
        """A score for each pair, in order. Raises GeneratorError if nothing could be judged."""
