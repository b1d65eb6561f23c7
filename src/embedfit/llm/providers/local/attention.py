"""Attention in parts: over shared keys once for all rows, over own keys apart, then joined exactly.

Softmax over a concatenation is the mean of the softmaxes over its parts, weighted by their normalisers.
So a prefix that many rows share is read once for all of them and copied for none.
"""

from __future__ import annotations

import torch

Part = tuple[torch.Tensor, torch.Tensor]


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None) -> Part:
    """Attention and the logarithm of its normaliser.

    query: (n, heads, rows, width); key, value: (n, heads, positions, width); mask: (n, 1, rows, positions),
    added to the scores. Returns (n, heads, rows, width) and (n, heads, rows).
    """
    if query.device.type == "cpu":
        mixed, normaliser = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, False, attn_mask=mask
        )
        return mixed, normaliser
    return _attend_plainly(query, key, value, mask)


def _attend_plainly(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> Part:
    """The same for devices without an operator that returns the normaliser."""
    scores = torch.matmul(query, key.transpose(-1, -2)).float().mul_(query.shape[-1] ** -0.5)
    if mask is not None:
        scores.add_(mask)
    normaliser = torch.logsumexp(scores, dim=-1)
    mixed = torch.matmul(scores.sub_(normaliser[..., None]).exp_().to(value.dtype), value)
    return mixed, normaliser


def join(first: Part, second: Part) -> Part:
    """The attention over the keys of both parts."""
    weight = torch.sigmoid(second[1] - first[1])[..., None].to(first[0].dtype)
    return torch.lerp(first[0], second[0], weight), torch.logaddexp(first[1], second[1])
