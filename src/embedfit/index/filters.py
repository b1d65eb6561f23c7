"""Which passages a search may find."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedfit.records import Passage

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Conditions that a passage must meet, all of them; None is no condition.

    documents: the ids of the documents that may be found. An id that the index does not hold finds nothing.
    """

    documents: frozenset[str] | None = None


class Catalogue:
    """What filters ask about N passages, by column: a number for each passage, and which value each number is."""

    def __init__(self, passages: Iterable[Passage]) -> None:
        self._numbers: dict[str, int] = {}
        numbers = [self._numbers.setdefault(one.document_id, len(self._numbers)) for one in passages]
        self._documents = np.array(numbers, np.int64)

    def allowed(self, wanted: Filter) -> Mask | None:
        """Which passages meet the conditions, (N,); None: all."""
        if wanted.documents is None:
            return None
        numbers = [self._numbers[one] for one in wanted.documents if one in self._numbers]
        result: Mask = np.isin(self._documents, numbers)
        return result
