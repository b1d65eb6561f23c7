"""Keeps the questions that train apart from those that judge: none may be of both kinds, in nearly the same words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from embedfit.asked.log import key_of
from embedfit.asked.sampling import ALIKE

Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]

_BLOCK = 1_024


def alike(texts: Sequence[str], evidence: Sequence[str], embed: Embed) -> npt.NDArray[np.bool_]:
    """(N,), true for each text that asks the same as a question of the evidence.

    That is, it has the same words (key_of), or a vector with at least the cosine ALIKE to one's. embed: texts → (N, H)
    unit rows.
    """
    keys = {key_of(text) for text in evidence}
    result = np.array([key_of(text) in keys for text in texts], np.bool_)
    rest = np.flatnonzero(~result)
    if not len(evidence) or not len(rest):
        return result
    known = embed(evidence)
    vectors = embed([texts[row] for row in rest.tolist()])
    for start in range(0, len(rest), _BLOCK):
        block = rest[start : start + _BLOCK]
        result[block] = (vectors[start : start + _BLOCK] @ known.T).max(1) >= ALIKE
    return result
