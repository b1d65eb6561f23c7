"""Moves large activations into weights before int8, so that neither loses precision (SmoothQuant, arXiv 2211.10438).

A few channels of a Llama's hidden states are far larger than the rest, and a scale per token then leaves
few steps for the others. Dividing a channel and multiplying its column of the next weight by the same number
changes nothing in exact arithmetic, and costs nothing: the division goes into the norm's gain or the weight before.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from embedfit.llm.providers.local.layers import FloatLayer, LlamaShape, Weights

#: A text of several kinds, to find the large channels; they hardly depend on what is read.
CALIBRATION = (
    "You write search queries. Given a passage, write the one query that a person would type to find it.\n"
    "Passage: Battery care\nThe pump's lithium battery lasts about 18 months. Replace it when the low-battery alarm "
    "sounds twice in one day; remove the cover with a coin.\n\nQuestion: When should the battery be replaced?\n"
    "Passage: Results of operations\nRevenue of the Northern segment rose 12% to $48.3 million in fiscal 2019, mainly "
    "because of higher freight rates (see Note 4), while operating costs grew 4%.\n\nKeywords: segment revenue 2019\n"
    "Passage: We show that IL-6 expression in SARS-CoV-2 infected cells (n = 24, p < 0.05) is inhibited by the drug; "
    "the mechanism remains unknown.\n\nClaim: the drug lowers IL-6 in infected cells\n"
)


class RecordingLayer(FloatLayer):
    """A float layer that remembers the largest magnitude of each input channel of its four products."""

    def __init__(self, weights: Weights, index: int, shape: LlamaShape) -> None:
        super().__init__(weights, index, shape, torch.float32, torch.device("cpu"))
        self.peaks: dict[str, torch.Tensor] = {}

    def qkv(self, hidden: torch.Tensor) -> torch.Tensor:
        """(rows, width) → the queries, keys and values of each row, side by side."""
        self._record("qkv", self._normalised(hidden, self._attention_norm))
        return super().qkv(hidden)

    def add_attention(self, hidden: torch.Tensor, mixed: torch.Tensor) -> None:
        """Add what attention mixed, projected, to the hidden states, in place."""
        self._record("out", mixed)
        super().add_attention(hidden, mixed)

    def add_feed_forward(self, hidden: torch.Tensor) -> None:
        """Add the feed-forward block to the hidden states, in place."""
        x = self._normalised(hidden, self._feed_forward_norm)
        self._record("gate", x)
        self._record("down", F.silu(self._gate(x)) * self._up(x))
        super().add_feed_forward(hidden)

    def _record(self, name: str, x: torch.Tensor) -> None:
        if len(x) > 1:  # the last layer computes a single row, which says too little
            self.peaks[name] = x.abs().amax(dim=0)


def smoothed(weights: Weights, shape: LlamaShape, layers: list[RecordingLayer]) -> Weights:
    """Equivalent weights with evened-out activations, from layers that have read a text."""
    result = dict(weights)
    for index, layer in enumerate(layers):
        name, peaks = f"model.layers.{index}", layer.peaks
        query, key, value, out, gate, up, down = (
            f"{name}.{part}_proj.weight"
            for part in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
        )
        if "out" in peaks:
            # The heads of a group share their values' channels, so they share the divisors.
            grouped = (shape.kv_heads, shape.group, shape.head_width)
            column = result[out].abs().amax(dim=0).view(grouped).amax(dim=1)
            divisor = _divisor(peaks["out"].view(grouped).amax(dim=1), column)
            result[value] = result[value] / divisor.flatten()[:, None]
            result[out] = result[out] * divisor[:, None].expand(grouped).flatten()
        if "down" in peaks:
            divisor = _divisor(peaks["down"], result[down].abs().amax(dim=0))
            result[up] = result[up] / divisor[:, None]
            result[down] = result[down] * divisor
        for peak, norm, readers in (
            ("qkv", "input_layernorm", (query, key, value)),
            ("gate", "post_attention_layernorm", (gate, up)),
        ):
            if peak in peaks:
                column = torch.stack([result[reader].abs().amax(dim=0) for reader in readers]).amax(dim=0)
                divisor = _divisor(peaks[peak], column)
                result[f"{name}.{norm}.weight"] = result[f"{name}.{norm}.weight"] / divisor
                for reader in readers:
                    result[reader] = result[reader] * divisor
    return result


def _divisor(activation: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Halves the spread (in logarithms) between a channel's activation and its weights."""
    return (activation.clamp_min(1e-5) / weight.clamp_min(1e-5)).sqrt_().clamp_(1e-3, 1e3)
