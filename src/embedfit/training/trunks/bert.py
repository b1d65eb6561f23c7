"""A BERT that trains fast: the arithmetic of transformers' BertModel in few, fused pieces.

What is saved, beside the padding that micro-batches avoid:
- one product for query, key and value;
- weight gradients go straight into fp32 sums, over micro-batches too: no gradient is made to be added;
- of the word embeddings only the rows that a step uses take part in its graph;
- weights are cast to bf16 once a step, activations stay in bf16 (autocast casts back and forth);
- a layer keeps about 12 H values a token for its backward instead of some 20: the GELU is computed again;
- with CLS pooling, the last layer computes its output for the first token alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import Parameter
from torch.nn.functional import gelu, normalize, scaled_dot_product_attention

from embedfit.models.architecture import Pooling, PoolingMode
from embedfit.models.layout.modules import pool
from embedfit.numerics.batching import pad
from embedfit.numerics.machine import Precision
from embedfit.training.trunks.trunk import Tokens

AttentionKind = Literal["sdpa", "eager"]
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight as a product uses it.

    value: in the computing type. sum: the fp32 gradient that backward passes add to, None where none is wanted.
    """

    value: Tensor
    sum: Tensor | None

    def rows(self, start: int, stop: int) -> Weight:
        """Some of its rows."""
        return Weight(self.value[start:stop], None if self.sum is None else self.sum[start:stop])


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add leftᵀ right to total, in fp32. left: (T, A), right: (T, B), total: (A, B)."""
    if left.dtype == total.dtype:
        total.addmm_(left.t(), right)
    else:
        total.add_(left.t() @ right)


def _add_sum(total: Tensor, values: Tensor) -> None:
    """Add the sum over rows to total, in fp32. values: (T, A), total: (A,)."""
    total.add_(values.sum(0, dtype=total.dtype))


def _linear_backward(gradient: Tensor, inputs: Tensor, weight: Weight, bias: Weight) -> Tensor:
    """Add the weights' gradients of inputs · Wᵀ + b; return that of the inputs."""
    if weight.sum is not None and bias.sum is not None:
        _add_product(weight.sum, gradient, inputs)
        _add_sum(bias.sum, gradient)
    return gradient @ weight.value


def _norm_backward(
    gradient: Tensor, summed: Tensor, mean: Tensor, rstd: Tensor, weight: Weight, bias: Weight
) -> Tensor:
    """Add the gradients of a layer norm's weights; return that of its input."""
    inner, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
        gradient.contiguous(), summed, [summed.shape[-1]], mean, rstd, weight.value, bias.value, [True, True, True]
    )
    if weight.sum is not None and bias.sum is not None:
        weight.sum.add_(of_weight)
        bias.sum.add_(of_bias)
    result: Tensor = inner
    return result


class _Linear(Function):
    """x Wᵀ + b."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Weight, bias: Weight) -> Tensor:  # noqa: ANN401 - torch's
        ctx.save_for_backward(inputs)
        ctx.weights = weight, bias
        return torch.addmm(bias.value, inputs, weight.value.t())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (inputs,) = ctx.saved_tensors
        return _linear_backward(gradient, inputs, *ctx.weights), None, None


class _LinearAddNorm(Function):
    """LayerNorm(dropout(x Wᵀ + b) + residual)."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's
        inputs: Tensor,
        residual: Tensor,
        weights: tuple[Weight, Weight, Weight, Weight],
        eps: float,
        dropout: float,
    ) -> Tensor:
        weight, bias, norm, shift = weights
        summed = torch.addmm(bias.value, inputs, weight.value.t())
        mask = _dropped(summed, dropout)
        summed += residual
        out, mean, rstd = torch.native_layer_norm(summed, [summed.shape[-1]], norm.value, shift.value, eps)
        ctx.save_for_backward(inputs, summed, mean, rstd, mask)
        ctx.weights, ctx.dropout = weights, dropout
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:  # noqa: ANN401
        inputs, summed, mean, rstd, mask = ctx.saved_tensors
        weight, bias, norm, shift = ctx.weights
        of_sum = _norm_backward(gradient, summed, mean, rstd, norm, shift)
        of_linear = _redropped(of_sum, mask, ctx.dropout)
        return _linear_backward(of_linear, inputs, weight, bias), of_sum, None, None, None


class _FeedForward(Function):
    """LayerNorm(dropout(GELU(x Uᵀ + c) Dᵀ + d) + x)."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's
        inputs: Tensor,
        up: tuple[Weight, Weight],
        down: tuple[Weight, Weight, Weight, Weight],
        eps: float,
        dropout: float,
    ) -> Tensor:
        inner = torch.addmm(up[1].value, inputs, up[0].value.t())
        weight, bias, norm, shift = down
        summed = torch.addmm(bias.value, gelu(inner), weight.value.t())
        mask = _dropped(summed, dropout)
        summed += inputs
        out, mean, rstd = torch.native_layer_norm(summed, [summed.shape[-1]], norm.value, shift.value, eps)
        ctx.save_for_backward(inputs, inner, summed, mean, rstd, mask)
        ctx.weights, ctx.dropout = (up, down), dropout
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:  # noqa: ANN401
        inputs, inner, summed, mean, rstd, mask = ctx.saved_tensors
        up, (weight, bias, norm, shift) = ctx.weights
        of_sum = _norm_backward(gradient, summed, mean, rstd, norm, shift)
        of_linear = _redropped(of_sum, mask, ctx.dropout)
        of_inner = torch.ops.aten.gelu_backward(_linear_backward(of_linear, gelu(inner), weight, bias), inner)
        return _linear_backward(of_inner, inputs, *up).add_(of_sum), None, None, None, None


def _dropped(values: Tensor, dropout: float) -> Tensor | None:
    """Drop values in place; returns the mask that was drawn, (…) uint8, None without dropout.

    Eight masks come of one 64-bit draw, so the probability is rounded to 1/256; bernoulli draws a float each.
    """
    if not dropout:
        return None
    draws = torch.empty((values.numel() + 7) // 8, dtype=torch.int64, device=values.device).random_(-(2**63), None)
    mask = draws.view(torch.uint8)[: values.numel()].view(values.shape) >= round(256 * dropout)
    values.mul_(mask).mul_(256 / (256 - round(256 * dropout)))
    return mask


def _redropped(gradient: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    return gradient if mask is None else (gradient * mask).mul_(256 / (256 - round(256 * dropout)))


class _EagerAttention(Function):
    """softmax(q kᵀ / √d + mask) v, with the probabilities kept for the backward."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ANN401
        scale = 1 / math.sqrt(query.shape[-1])
        scores = torch.matmul(query, key.transpose(-1, -2)).mul_(scale)
        if mask is not None:
            scores += mask
        weights = torch.softmax(scores, -1)
        ctx.save_for_backward(query, key, value, weights)
        ctx.scale = scale
        return torch.matmul(weights, value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # noqa: ANN401
        query, key, value, weights = ctx.saved_tensors
        of_value = torch.matmul(weights.transpose(-1, -2), gradient)
        of_weights = torch.matmul(gradient, value.transpose(-1, -2))
        of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype).mul_(ctx.scale)
        return torch.matmul(of_scores, key), torch.matmul(of_scores.transpose(-1, -2), query), of_value, None


class BertTrunk:
    """BERT, and RoBERTa, which differs in its first position. See Trunk for the methods.

    attention: "sdpa" (flash kernels, nothing quadratic kept) or "eager" (plain products; faster where bf16
    products are far faster than all else).
    """

    def __init__(
        self,
        config: Any,  # noqa: ANN401 - a transformers configuration
        tensors: Mapping[str, Tensor],
        *,
        pooling: PoolingMode,
        precision: Precision,
        where: torch.device,
        attention: AttentionKind = "sdpa",
    ) -> None:
        self._layers, self._heads = int(config.num_hidden_layers), int(config.num_attention_heads)
        self._width, self._eps = int(config.hidden_size), float(config.layer_norm_eps)
        self._pad_id = int(config.pad_token_id or 0)
        self._first_position = self._pad_id + 1 if "roberta" in config.model_type else 0
        self._pooling, self._device = pooling, where
        self._type = _TYPES[precision]
        self.attention: AttentionKind = attention
        self._dropout = 0.0
        self._frozen = {name: tensor for name, tensor in tensors.items() if name.split(".")[0] not in _TRAINED}
        self._parameters = {name: Parameter(tensor) for name, tensor in fuse(tensors, self._layers, where).items()}
        self._weights: dict[str, Weight] = {}
        self._table: Tensor = self._parameters["embeddings.word"]
        self._rows: Tensor | None = None
        self._place = torch.zeros(len(self._table), dtype=torch.int64, device=where)

    @staticmethod
    def fits(config: Any) -> bool:  # noqa: ANN401 - a transformers configuration
        """Whether it computes what transformers computes for that configuration."""
        return (
            config.model_type in ("bert", "roberta", "xlm-roberta")
            and config.hidden_act == "gelu"
            and getattr(config, "position_embedding_type", "absolute") in ("absolute", None)
            and not getattr(config, "is_decoder", False)
        )

    @property
    def width(self) -> int:
        """See Trunk."""
        return self._width

    @property
    def device(self) -> torch.device:
        """See Trunk."""
        return self._device

    def parameters(self) -> Mapping[str, Parameter]:
        """See Trunk."""
        return self._parameters

    def train(self, dropout: float) -> None:
        """See Trunk. Dropout acts on the embeddings and on both branches of a layer, not inside attention."""
        self._dropout = dropout

    def tensors(self) -> dict[str, Tensor]:
        """See Trunk."""
        return {**self._frozen, **split(self._parameters, self._layers)}

    @torch.no_grad()
    def prepare(self, texts: Tokens) -> None:
        """See Trunk. Without texts: for forwards without gradients, of any texts."""
        with_gradients = len(texts) > 0
        for name, parameter in self._parameters.items():
            if with_gradients and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            # Norms compute in fp32 whatever their input's type, so their weights stay in it.
            kind = torch.float32 if "norm" in name and self._device.type == "cpu" else self._type
            if not name.startswith("embeddings.word"):
                self._weights[name] = Weight(parameter.detach().to(kind), parameter.grad if with_gradients else None)
        words = self._parameters["embeddings.word"]
        if not with_gradients:
            self._table, self._rows = words.detach(), None
            return
        self._rows = torch.from_numpy(np.unique(np.concatenate(list(texts))).astype(np.int64)).to(self._device)
        self._place[self._rows] = torch.arange(len(self._rows), device=self._device)
        self._table = words.detach()[self._rows].requires_grad_()

    @torch.no_grad()
    def finish(self) -> None:
        """See Trunk."""
        words = self._parameters["embeddings.word"]
        if self._rows is not None and words.grad is not None and self._table.grad is not None:
            words.grad.index_add_(0, self._rows, self._table.grad)
        self._table, self._rows = words.detach(), None

    def forward(self, texts: Tokens) -> Tensor:
        """See Trunk."""
        ids, mask = (torch.from_numpy(part).to(self._device) for part in pad(texts, self._pad_id))
        count, length = ids.shape
        hidden = self._embed(ids, mask)
        bias = None
        if any(len(text) < length for text in texts):
            bias = torch.zeros(count, 1, 1, length, dtype=self._type, device=self._device)
            bias.masked_fill_(mask[:, None, None] == 0, -torch.inf)
        last = self._layers - 1
        for layer in range(self._layers):
            # With CLS pooling nothing reads the last layer's other outputs.
            first_only = layer == last and self._pooling == "cls"
            hidden = self._layer(hidden, f"layer.{layer}", bias, (count, length), first_only)
        if self._pooling == "cls":
            return normalize(hidden.float(), dim=-1)
        pooling = Pooling(modes=(self._pooling,))
        return normalize(pool(hidden.view(count, length, -1).float(), mask, pooling), dim=-1)

    def _embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(n · L, H)."""
        length = ids.shape[1]
        # Padding may be no word of the step: any row serves, as nothing reads it.
        rows = ids if self._rows is None else self._place[ids].masked_fill(mask == 0, 0)
        words = torch.nn.functional.embedding(rows.reshape(-1), self._table)
        positions, kinds = self._weights["embeddings.position"], self._weights["embeddings.type"]
        summed = _added(words, positions, kinds, self._first_position, length)
        norm = self._weights["embeddings.norm.weight"], self._weights["embeddings.norm.bias"]
        return _norm(summed.to(self._type), *norm, self._eps, self._dropout)

    def _layer(
        self, hidden: Tensor, name: str, bias: Tensor | None, shape: tuple[int, int], first_only: bool
    ) -> Tensor:
        """One layer. hidden: (n · L, H); returns the same, or (n, H) where first_only."""
        count, length = shape
        named: Callable[[str], Weight] = lambda part: self._weights[f"{name}.{part}"]  # noqa: E731
        weight, shift = named("qkv.weight"), named("qkv.bias")
        width = self._width
        if first_only:
            residual = hidden.view(count, length, width)[:, 0].contiguous()
            query = _linear(residual, weight.rows(0, width), shift.rows(0, width))
            both = _linear(hidden, weight.rows(width, 3 * width), shift.rows(width, 3 * width))
            parts = (query.view(count, 1, self._heads, -1), *both.view(count, length, 2, self._heads, -1).unbind(2))
        else:
            residual = hidden
            three = _linear(hidden, weight, shift)
            parts = three.view(count, length, 3, self._heads, -1).unbind(2)
        query, key, value = (part.transpose(1, 2) for part in parts)
        if self.attention == "eager":
            mixed = _eager_attention(query, key, value, bias)
        else:
            mixed = scaled_dot_product_attention(query, key, value, attn_mask=bias)
        mixed = mixed.transpose(1, 2).reshape(-1, width)
        attended = named("out.weight"), named("out.bias"), named("norm1.weight"), named("norm1.bias")
        hidden = _linear_add_norm(mixed, residual, attended, self._eps, self._dropout)
        up = named("up.weight"), named("up.bias")
        down = named("down.weight"), named("down.bias"), named("norm2.weight"), named("norm2.bias")
        return _feed_forward(hidden, up, down, self._eps, self._dropout)


class _Added(Function):
    """Word, position and type embeddings, summed. words: (n · L, H)."""

    @staticmethod
    def forward(ctx: Any, words: Tensor, positions: Weight, kinds: Weight, first: int, length: int) -> Tensor:  # noqa: ANN401
        ctx.weights, ctx.first, ctx.length = (positions, kinds), first, length
        shared = positions.value[first : first + length].float() + kinds.value[0].float()
        return (words.view(-1, length, words.shape[-1]) + shared).view(words.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:  # noqa: ANN401
        positions, kinds = ctx.weights
        if positions.sum is not None and kinds.sum is not None:
            by_position = gradient.view(-1, ctx.length, gradient.shape[-1]).sum(0)
            positions.sum[ctx.first : ctx.first + ctx.length].add_(by_position)
            kinds.sum[0].add_(by_position.sum(0))
        return gradient, None, None, None, None


class _Norm(Function):
    """dropout(LayerNorm(x))."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Weight, bias: Weight, eps: float, dropout: float) -> Tensor:  # noqa: ANN401
        out, mean, rstd = torch.native_layer_norm(inputs, [inputs.shape[-1]], weight.value, bias.value, eps)
        mask = _dropped(out, dropout)
        ctx.save_for_backward(inputs, mean, rstd, mask)
        ctx.weights, ctx.dropout = (weight, bias), dropout
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:  # noqa: ANN401
        inputs, mean, rstd, mask = ctx.saved_tensors
        gradient = _redropped(gradient, mask, ctx.dropout)
        return _norm_backward(gradient, inputs, mean, rstd, *ctx.weights), None, None, None, None


# torch does not say what apply takes or gives.
_linear: Callable[..., Tensor] = _Linear.apply
_linear_add_norm: Callable[..., Tensor] = _LinearAddNorm.apply
_feed_forward: Callable[..., Tensor] = _FeedForward.apply
_eager_attention: Callable[..., Tensor] = _EagerAttention.apply
_added: Callable[..., Tensor] = _Added.apply
_norm: Callable[..., Tensor] = _Norm.apply

_TRAINED = ("embeddings", "encoder")
_EMBEDDINGS = {
    "embeddings.word": "embeddings.word_embeddings.weight",
    "embeddings.position": "embeddings.position_embeddings.weight",
    "embeddings.type": "embeddings.token_type_embeddings.weight",
    "embeddings.norm.weight": "embeddings.LayerNorm.weight",
    "embeddings.norm.bias": "embeddings.LayerNorm.bias",
}
_LAYER = {
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}
_QKV = tuple(f"attention.self.{part}" for part in ("query", "key", "value"))


def fuse(tensors: Mapping[str, Tensor], layers: int, where: torch.device) -> dict[str, Tensor]:
    """The weights of a transformers BERT as BertTrunk holds them: fp32, query, key and value in one."""
    fused = {own: tensors[theirs] for own, theirs in _EMBEDDINGS.items()}
    for layer in range(layers):
        theirs = f"encoder.layer.{layer}"
        for kind in ("weight", "bias"):
            fused[f"layer.{layer}.qkv.{kind}"] = torch.cat([tensors[f"{theirs}.{part}.{kind}"] for part in _QKV])
            for own, part in _LAYER.items():
                fused[f"layer.{layer}.{own}.{kind}"] = tensors[f"{theirs}.{part}.{kind}"]
    return {name: tensor.detach().to(where, torch.float32, copy=True) for name, tensor in fused.items()}


def split(parameters: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The inverse of fuse. Views, no copies."""
    tensors = {theirs: parameters[own].detach() for own, theirs in _EMBEDDINGS.items()}
    for layer in range(layers):
        theirs = f"encoder.layer.{layer}"
        for kind in ("weight", "bias"):
            parts = parameters[f"layer.{layer}.qkv.{kind}"].detach().chunk(3)
            tensors |= {f"{theirs}.{part}.{kind}": tensor for part, tensor in zip(_QKV, parts, strict=True)}
            for own, part in _LAYER.items():
                tensors[f"{theirs}.{part}.{kind}"] = parameters[f"layer.{layer}.{own}.{kind}"].detach()
    return tensors
