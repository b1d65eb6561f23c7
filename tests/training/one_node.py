"""One process of a training on two machines: it saves the loss and the gradients of the joint batch."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from embedfit.training.processes.world import joined
from tests.training.test_distributed import joint_gradients

if __name__ == "__main__":
    folder, out = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    with joined() as world:
        result, gradients = joint_gradients(folder, world, 1 << 30)
        torch.save((result.loss, gradients), out / f"out-{world.rank}.pt")
