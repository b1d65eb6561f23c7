"""The arithmetic of a Llama layer in two forms: float products, and int8 products with a scale per token.

Which form is fast depends on the machine: with AMX bf16 products run 6 to 15 times as fast as fp32,
with AVX512-VNNI alone int8 runs 4 times as fast and bf16 is slower than fp32. probe.py measures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """The dimensions of a Llama model."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    feed_forward: int
    vocabulary: int
    context: int
    epsilon: float
    rope_base: float

    @property
    def group(self) -> int:
        """Query heads that share a key/value head."""
        return self.heads // self.kv_heads


class Layer(Protocol):
    """One layer without its attention. hidden: (rows, width) float32, changed in place by the add_ methods."""

    def qkv(self, hidden: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values side by side: (rows, (heads + 2 * kv_heads) * head_width)."""

    def add_attention(self, hidden: torch.Tensor, mixed: torch.Tensor) -> None:
        """Hidden += mixed · Wₒᵀ, with mixed (rows, heads * head_width)."""

    def add_feed_forward(self, hidden: torch.Tensor) -> None:
        """Hidden += (silu(x·gateᵀ) * (x·upᵀ)) · downᵀ, x the normalised hidden."""


class Head(Protocol):
    """Turns the last layer's output into scores of the vocabulary."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(rows, width) → (rows, vocabulary) float32."""


def paired(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key projection reordered so that each rotated pair lies side by side.

    Rotation then is one product of complex numbers instead of six passes over halves of rows.
    """
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).transpose(1, 2).reshape(rows, width)


def _qkv_weight(weights: Weights, prefix: str, shape: LlamaShape) -> torch.Tensor:
    # Attention divides by √d. Folding 1/√d into the queries' weights would round them unless d is a power of 4, so the
    # division stays in the attention.
    return torch.cat(
        [
            paired(weights[f"{prefix}.self_attn.q_proj.weight"], shape.heads),
            paired(weights[f"{prefix}.self_attn.k_proj.weight"], shape.kv_heads),
            weights[f"{prefix}.self_attn.v_proj.weight"],
        ]
    )


# --- float ---------------------------------------------------------------------------------------------------------


def _float_product(weight: torch.Tensor, dtype: torch.dtype, device: torch.device) -> Callable[..., torch.Tensor]:
    """X → x·Wᵀ in the dtype. In bf16 on a CPU the weight is laid out once, not at every call."""
    weight = weight.to(device=device, dtype=dtype).contiguous()
    if device.type == "cpu" and dtype != torch.float32:
        try:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.to_mkldnn(), None)
            product = torch.ops.mkldnn._linear_pointwise

            def multiply(x: torch.Tensor) -> torch.Tensor:
                result: torch.Tensor = product(x, packed, None, "none", [], "")
                return result

            multiply(torch.zeros(1, weight.shape[1], dtype=dtype))
            return multiply
        except (RuntimeError, AttributeError, NotImplementedError, TypeError):
            pass  # an older or newer torch lacks the operator; the plain product is as right, only slower
    return lambda x: F.linear(x, weight)


class FloatLayer:
    """Products in fp32, bf16 or fp16; the residual stream stays float32."""

    def __init__(
        self, weights: Weights, index: int, shape: LlamaShape, dtype: torch.dtype, device: torch.device
    ) -> None:
        prefix = f"model.layers.{index}"
        self._dtype, self._epsilon, self._width = dtype, shape.epsilon, shape.width
        self._attention_norm = weights[f"{prefix}.input_layernorm.weight"].to(device)
        self._feed_forward_norm = weights[f"{prefix}.post_attention_layernorm.weight"].to(device)
        self._qkv = _float_product(_qkv_weight(weights, prefix, shape), dtype, device)
        self._out = _float_product(weights[f"{prefix}.self_attn.o_proj.weight"], dtype, device)
        self._gate = _float_product(weights[f"{prefix}.mlp.gate_proj.weight"], dtype, device)
        self._up = _float_product(weights[f"{prefix}.mlp.up_proj.weight"], dtype, device)
        self._down = _float_product(weights[f"{prefix}.mlp.down_proj.weight"], dtype, device)

    def qkv(self, hidden: torch.Tensor) -> torch.Tensor:
        """(rows, width) → the queries, keys and values of each row, side by side."""
        return self._qkv(self._normalised(hidden, self._attention_norm))

    def add_attention(self, hidden: torch.Tensor, mixed: torch.Tensor) -> None:
        """Add what attention mixed, projected, to the hidden states, in place."""
        hidden.add_(self._out(mixed.to(self._dtype)))

    def add_feed_forward(self, hidden: torch.Tensor) -> None:
        """Add the feed-forward block to the hidden states, in place."""
        x = self._normalised(hidden, self._feed_forward_norm)
        hidden.add_(self._down(F.silu(self._gate(x), inplace=True).mul_(self._up(x))))

    def _normalised(self, hidden: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(hidden, (self._width,), gain, self._epsilon).to(self._dtype)


class FloatHead:
    """The vocabulary's scores by a float product."""

    def __init__(self, weights: Weights, shape: LlamaShape, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._epsilon, self._width = dtype, shape.epsilon, shape.width
        self._norm = weights["model.norm.weight"].to(device)
        self._product = _float_product(
            weights.get("lm_head.weight", weights["model.embed_tokens.weight"]), dtype, device
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(rows, width) → (rows, vocabulary) in float32."""
        x = F.rms_norm(hidden, (self._width,), self._norm, self._epsilon).to(self._dtype)
        return self._product(x).float()


# --- int8 ----------------------------------------------------------------------------------------------------------


class Int8Product:
    """x·Wᵀ with a scale per row of W and per row of x; integers are summed exactly, whatever rows stand beside.

    x is uint8 with zero at 128, the form for which VNNI and AMX have an instruction.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        self.scales = weight.abs().amax(dim=1).clamp_min_(1e-12).div_(127.0)
        rounded = (weight / self.scales[:, None]).round_().clamp_(-127, 127).to(torch.int8)
        self._zeros = torch.zeros(weight.shape[0], dtype=torch.int32)
        self._packed = torch.ops.onednn.qlinear_prepack(rounded, None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, in) uint8 → (rows, out) float32, still to be multiplied by the scales of x."""
        product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            x, 1.0, 128, self._packed, self.scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return product


#: Adding this to a small float32 rounds it: the lowest byte of the sum's bits is the rounded integer plus 128.
_ROUNDER = 1.5 * 2.0**23 + 128.0


def quantised(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, width) float32 → the same as uint8 around 128, and the scale of each row (rows, 1).

    Five passes over x; torch's own quantisation by rows, or a cast from float to uint8, takes several times longer.
    """
    peak = torch.maximum(x.amax(dim=1, keepdim=True), x.amin(dim=1, keepdim=True).neg_())
    scale = peak.clamp_min_(1e-20).div_(127.0)
    shifted = torch.mul(x, scale.reciprocal()).add_(_ROUNDER)
    return shifted.view(torch.int32).to(torch.uint8), scale


def _normalised_quantised(
    hidden: torch.Tensor, gain: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """RMS norm and quantisation in one: the row's norm only changes the row's scale."""
    x, scale = quantised(hidden * gain)
    norm = torch.linalg.vector_norm(hidden, dim=1, keepdim=True)
    inverse = norm.square_().div_(hidden.shape[1]).add_(epsilon).rsqrt_()
    return x, scale.mul_(inverse)


class Int8Layer:
    """Products of int8 weights and activations, everything else in float32. CPU only."""

    def __init__(self, weights: Weights, index: int, shape: LlamaShape) -> None:
        prefix = f"model.layers.{index}"
        self._epsilon = shape.epsilon
        self._attention_norm = weights[f"{prefix}.input_layernorm.weight"]
        self._feed_forward_norm = weights[f"{prefix}.post_attention_layernorm.weight"]
        self._qkv = Int8Product(_qkv_weight(weights, prefix, shape))
        self._out = Int8Product(weights[f"{prefix}.self_attn.o_proj.weight"])
        self._gate = Int8Product(weights[f"{prefix}.mlp.gate_proj.weight"])
        self._up = Int8Product(weights[f"{prefix}.mlp.up_proj.weight"])
        self._down = Int8Product(weights[f"{prefix}.mlp.down_proj.weight"])

    def qkv(self, hidden: torch.Tensor) -> torch.Tensor:
        """(rows, width) → the queries, keys and values of each row, side by side."""
        x, scale = _normalised_quantised(hidden, self._attention_norm, self._epsilon)
        return self._qkv(x).mul_(scale)

    def add_attention(self, hidden: torch.Tensor, mixed: torch.Tensor) -> None:
        """Add what attention mixed, projected, to the hidden states, in place."""
        x, scale = quantised(mixed)
        hidden.addcmul_(self._out(x), scale)

    def add_feed_forward(self, hidden: torch.Tensor) -> None:
        """Add the feed-forward block to the hidden states, in place."""
        x, scale = _normalised_quantised(hidden, self._feed_forward_norm, self._epsilon)
        gated = F.silu(self._gate(x).mul_(scale), inplace=True).mul_(self._up(x))
        # `gated` lacks the scale of `up`, one number a row. Quantising gives the same integers, and the last line
        # multiplies by that number.
        x, inner = quantised(gated)
        hidden.addcmul_(self._down(x), inner.mul_(scale))


class Int8Head:
    """The vocabulary's scores by an int8 product."""

    def __init__(self, weights: Weights, shape: LlamaShape) -> None:
        self._epsilon = shape.epsilon
        self._norm = weights["model.norm.weight"]
        self._product = Int8Product(weights.get("lm_head.weight", weights["model.embed_tokens.weight"]))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(rows, width) → (rows, vocabulary) in float32."""
        x, scale = _normalised_quantised(hidden, self._norm, self._epsilon)
        return self._product(x).mul_(scale)
