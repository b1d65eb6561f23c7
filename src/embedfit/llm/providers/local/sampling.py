"""Chooses the next token. Every reply has its own stream of random numbers, so that its neighbours do not matter."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from embedfit.llm.protocol import Request

#: Tokens below this share of the likeliest one are looked at only where the nucleus needs them.
_NEGLIGIBLE = 1e-4
#: Rows handled at once: their logits stay in the CPU's cache between passes.
_ROWS = 16


def chance(request: Request, prompt: Sequence[int]) -> npt.NDArray[np.float64]:
    """One uniform number for each token of a reply, decided by the request's seed and its prompt alone."""
    digest = hashlib.blake2b(repr((request.seed, request.temperature, request.top_p)).encode(), digest_size=16)
    digest.update(np.asarray(prompt, dtype=np.int64).tobytes())
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest.digest(), "little")))
    return generator.random(request.max_tokens)


def choose(
    logits: torch.Tensor,
    temperatures: npt.NDArray[np.float64],
    top_p: npt.NDArray[np.float64],
    uniforms: npt.NDArray[np.float64],
) -> list[int]:
    """The next token of each row: (rows, vocabulary) logits → rows tokens. Temperature 0 takes the likeliest.

    The nucleus of top_p is ordered by probability, and the row's uniform number picks from it by the
    inverse of its distribution function: no noise is drawn for the whole vocabulary, and tiny differences
    in the logits change the choice only at a boundary.
    """
    chosen: list[int] = []
    for start in range(0, logits.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        chosen.extend(_choose_block(logits[rows], temperatures[rows], top_p[rows], uniforms[rows]))
    return chosen


def _choose_block(
    logits: torch.Tensor,
    temperatures: npt.NDArray[np.float64],
    top_p: npt.NDArray[np.float64],
    uniforms: npt.NDArray[np.float64],
) -> list[int]:
    greedy = temperatures <= 0
    if greedy.all():
        likeliest: list[int] = logits.argmax(dim=-1).tolist()
        return likeliest
    scales = torch.from_numpy(np.where(greedy, 1.0, temperatures)).to(logits.device, torch.float32)
    weights = (logits - logits.amax(dim=-1, keepdim=True)).div_(scales[:, None]).exp_()
    totals: list[float] = weights.sum(dim=-1).tolist()
    values: npt.NDArray[np.float32] = weights.cpu().numpy()
    return [
        int(values[row].argmax()) if greedy[row] else _pick(values[row], totals[row], top_p[row], uniforms[row])
        for row in range(len(values))
    ]


def _pick(weights: npt.NDArray[np.float32], total: float, top_p: float, uniform: float) -> int:
    """A token of the nucleus. weights: (vocabulary,), the largest 1; total: their sum."""
    candidates = np.flatnonzero(weights > _NEGLIGIBLE)
    order, cumulative = _ordered(weights, candidates)
    if cumulative[-1] < top_p * total:
        order, cumulative = _ordered(weights, np.arange(weights.size))
    # The nucleus ends with the token that reaches top_p.
    size = min(int(np.searchsorted(cumulative, top_p * total)) + 1, cumulative.size)
    position = int(np.searchsorted(cumulative[:size], uniform * cumulative[size - 1], side="right"))
    return int(order[min(position, size - 1)])


def _ordered(
    weights: npt.NDArray[np.float32], candidates: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    chosen = weights[candidates]
    order = np.argsort(-chosen, kind="stable")
    return candidates[order], np.cumsum(chosen[order], dtype=np.float64)
