"""The processes that train together, seen from one of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """This process's place among those that share each batch.

    All of them compose the same batch. Each encodes its share of the micro-batches; vectors, and then gradients, are
    summed over the processes, with zeros for the parts of others. So the loss is that of the joint batch, every text of
    it is encoded once, and nothing has to be rescaled. local: how many of them are on this machine.
    """

    rank: int = 0
    size: int = 1
    local: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's part. Micro-batches come sorted by size, so taking turns is fair."""
        return list(items[self.rank :: self.size])

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace the tensor by its sum over all processes, the same in each."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined() -> Iterator[World]:
    """The world of the processes whose places torchrun's variables tell; this process alone if there are none."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if gpus else "gloo")
    try:
        yield World(dist.get_rank(), size, int(os.environ["LOCAL_WORLD_SIZE"]))
    finally:
        dist.destroy_process_group()
