"""Gradients of one batch, whatever its size, within a memory budget.

A batch's loss couples all its texts, but its gradient falls into two parts (GradCache, Gao et al. 2021):
the loss's gradient with respect to the vectors, which needs all vectors and no transformer, and each
micro-batch's backward from its vectors' gradient, which needs no other micro-batch. Micro-batches whose
graphs fit the memory keep them (3 forward-equivalents); the others are encoded without a graph first and
once more with one (4 forward-equivalents). Both give the gradient of the plain step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from embedfit.numerics.arrays import Ints, Tokens
from embedfit.training.memory import MemoryBudget
from embedfit.training.processes.world import World
from embedfit.training.trunk import Trunk

#: Vectors (N, H) of the batch's texts → mean loss.
BatchLoss = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class StepResult:
    """loss: the batch's. tokens: its texts'; padded: with padding. retained: share whose graph this process kept."""

    loss: float
    tokens: int
    padded: int
    retained: float


def accumulate_gradients(
    trunk: Trunk,
    texts: Sequence[Tokens],
    runs: Sequence[Ints],
    loss: BatchLoss,
    *,
    memory: MemoryBudget,
    seed: int | None = None,
    world: World = World(),  # noqa: B008 - frozen
    scale: float = 1.0,
) -> StepResult:
    """Add the gradient of the batch's loss to the trunk's parameters.

    texts: N token arrays. runs: places in texts of each micro-batch, together 0 … N - 1. seed: for the dropout masks,
    which differ between micro-batches but are equal each time one is encoded; None without dropout. world: the
    processes that share the work; each calls this with the same arguments. scale: the factor on gradients on their way
    through the transformer, so that small ones don't vanish in fp16.
    """
    own = world.share(range(len(runs)))
    micro = {number: [texts[place] for place in runs[number]] for number in own}
    memory.start()
    graphs: dict[int, Tensor] = {}
    parts: dict[int, Tensor] = {}
    for number, members in micro.items():
        keep = memory.admits(_padded(members))
        with memory.measured(_padded(members), _longest(members)) if keep else torch.no_grad():
            vectors = _encode(trunk, members, number, seed)
        if keep:
            graphs[number] = vectors
        parts[number] = vectors.detach()
        del vectors

    vectors = _gathered(parts, runs, trunk.width, trunk.device, world)
    value, gradient = _loss_gradient(loss, vectors)

    retained = sum(_padded(micro[number]) for number in graphs)
    for number, members in micro.items():
        graph = graphs.pop(number, None)  # popped, so that it is freed when its backward is done
        if graph is None:
            graph = _encode(trunk, members, number, seed)
        torch.autograd.backward(graph, gradient[_places(runs[number], gradient)] * scale)
        del graph
    for weight in trunk.parameters().values():
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        world.sum_(weight.grad)
        if scale != 1.0:
            weight.grad /= scale
    computed = sum(map(_padded, micro.values()))
    padded = sum(_padded([texts[place] for place in run]) for run in runs)
    return StepResult(value, sum(map(len, texts)), padded, retained / max(computed, 1))


def _gathered(
    parts: Mapping[int, Tensor], runs: Sequence[Ints], width: int, where: torch.device, world: World
) -> Tensor:
    """Vectors (N, H) of all texts, from this process's micro-batches and those of the others."""
    vectors = torch.zeros(sum(map(len, runs)), width, device=where)
    for number, part in parts.items():
        vectors[_places(runs[number], vectors)] = part
    return world.sum_(vectors)


def _loss_gradient(loss: BatchLoss, vectors: Tensor) -> tuple[float, Tensor]:
    """The loss, and its gradient with respect to the vectors. (N, H)."""
    leaf = vectors.requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return float(value.detach()), gradient


def _places(run: Ints, like: Tensor) -> Tensor:
    return torch.from_numpy(run).to(like.device)


def _encode(trunk: Trunk, members: Sequence[Tokens], number: int, seed: int | None) -> Tensor:
    if seed is not None:
        torch.manual_seed((seed + 0x9E3779B97F4A7C15 * (number + 1)) % 2**63)
    return trunk.forward(members)


def _longest(members: Sequence[Tokens]) -> int:
    return max(len(tokens) for tokens in members)


def _padded(members: Sequence[Tokens]) -> int:
    return len(members) * _longest(members)
