"""How many autograd graphs a step may keep, and the memory habits of the process."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from embedfit.numerics.machine import memory_limit

#: The share of the free memory at the start of training that a step may take.
_SHARE = 0.7
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


class MemoryBudget:
    """Decides which micro-batches keep their graph.

    limit: bytes for graphs. A graph's size is measured: the bytes of the tensors that autograd saves, without weights.
    Quadratic attention takes more bytes a token for longer texts, so texts that are longer than any before are measured
    anew.
    """

    def __init__(self, limit: int, weights: Iterable[Tensor] = ()) -> None:
        self.limit = limit
        self.bytes_per_token = 0.0
        self._weights = {weight.untyped_storage().data_ptr() for weight in weights}
        self._longest = 0
        self._used = 0.0
        self._largest = 0

    def start(self) -> None:
        """Begin a step: nothing is kept."""
        self._used = 0.0
        self._largest = 0

    def admits(self, tokens: int) -> bool:
        """Whether a micro-batch of so many padded tokens may keep its graph.

        Room for one more graph is left, for the micro-batches that keep none: they are encoded again one at a time.
        """
        self._largest = max(self._largest, tokens)
        return self._used + (tokens + self._largest) * self.bytes_per_token <= self.limit

    @contextmanager
    def measured(self, tokens: int, longest: int) -> Iterator[None]:
        """Count the bytes that the forward pass inside keeps. longest: tokens of its longest text."""
        if longest <= self._longest:
            self._used += tokens * self.bytes_per_token
            yield
            return
        seen: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._weights:
                seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield
        kept = sum(seen.values())
        self._used += kept
        self._longest = longest
        self.bytes_per_token = max(self.bytes_per_token, kept / max(tokens, 1))


def graph_budget(memory_mb: int, parameters: int, where: torch.device) -> int:
    """Bytes for graphs. memory_mb: the user's bound of a step's memory, 0 for the machine's memory.

    Gradients, Adam's two moments and the working copies of a weight take 16 bytes of each parameter.
    """
    if memory_mb:
        total = memory_mb << 20
    elif where.type == "cuda":
        total = int(torch.cuda.mem_get_info()[0] * _SHARE)
    else:
        total = int(memory_limit() * _SHARE)
    return max(0, total - 16 * parameters)


def keep_heap() -> bool:
    """Tell glibc to keep freed memory in the process. Returns whether it took the setting.

    By default glibc serves each large tensor by a fresh mmap and returns it when freed, so every step
    faults its memory in again, page by page. That can take a large part of a step. Afterwards large
    blocks come from the heap and the heap is not trimmed. It holds for the rest of the process.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, without such a setting
        return False
    return all(
        mallopt(option, value) == 1
        for option, value in ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20))
    )
