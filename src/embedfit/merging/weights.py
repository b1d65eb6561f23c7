"""Weight arithmetic: a linear combination of models (LM-Cocktail, arXiv 2311.13534)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from embedfit.errors import ModelError, UsageError

Tensors = Mapping[str, torch.Tensor]


def combine(models: Sequence[Tensors], weights: Sequence[float]) -> dict[str, torch.Tensor]:
    """θ = Σ wᵢθᵢ over the tensors that all models have, in fp32.

    Raises UsageError unless there is one weight for each model and they sum to 1 (LM-Cocktail's own check lets a
    smaller sum pass, which shrinks every layer), ModelError unless the tensors have the same names and shapes.
    """
    if len(models) != len(weights):
        raise UsageError(f"{len(models)} models and {len(weights)} weights: there must be one weight a model.")
    if abs(sum(weights) - 1) > 1e-6:
        raise UsageError(f"The weights {', '.join(f'{w:g}' for w in weights)} sum to {sum(weights):g}, not to 1.")
    first = models[0]
    for number, other in enumerate(models[1:], 2):
        _check_same(first, other, number)
    merged = {}
    for name, tensor in first.items():
        if not tensor.is_floating_point():
            merged[name] = tensor.clone()  # position ids and the like
            continue
        total = torch.zeros_like(tensor, dtype=torch.float32)
        for model, weight in zip(models, weights, strict=True):
            if weight:
                total.add_(model[name].float(), alpha=weight)
        merged[name] = total
    return merged


def _check_same(first: Tensors, other: Tensors, number: int) -> None:
    if first.keys() != other.keys():
        odd = sorted(set(first) ^ set(other))[0]
        raise ModelError(f"Models 1 and {number} can't be merged: only one of them has the weight {odd}.")
    for name, tensor in first.items():
        if tensor.shape != other[name].shape:
            raise ModelError(
                f"Models 1 and {number} can't be merged: {name} is {tuple(tensor.shape)} in one "
                f"and {tuple(other[name].shape)} in the other."
            )


def weights_from_losses(losses: Sequence[float], temperature: float = 5.0) -> list[float]:
    """Softmax(−loss / temperature): LM-Cocktail's weights from example data, one loss a model.

    LM-Cocktail's temperature of 5 gives nearly equal weights; a smaller one trusts the examples more.
    """
    values = np.asarray(losses, np.float64)
    if not np.isfinite(values).all():
        raise UsageError("A model has no finite loss on the examples.")
    exponents = -(values - values.min()) / temperature
    shares = np.exp(exponents) / np.exp(exponents).sum()
    return [float(share) for share in shares]
