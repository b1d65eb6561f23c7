"""Vectors of a text's tokens, taken from inside a model that gives one vector a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from embedfit.models.encoder import Encoder, States, encoding_batches
from embedfit.models.layout.modules import unit_rows
from embedfit.numerics.arrays import Ints, Vectors

#: The depth of the inner layer whose vectors are joined to the last one's, as a share of all layers. The last layer's
#: vectors are closer to the text's meaning, inner layers' closer to its words: each wins where the other loses
#: (docs/recipe.md).
_INNER = 2 / 3


@torch.inference_mode()
def token_vectors(encoder: Encoder, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Unit vectors of each row's tokens, (L, 2H) in fp16: of an inner layer and of the last one, side by side.

    rows: token ids with special tokens, within the model's window. The cosine of two tokens is the mean of the
    layers' cosines.
    """
    found = [torch.empty(0)] * len(rows)
    for batch, states in _batches(encoder, rows):
        for index, vectors in zip(batch, _side_by_side(states), strict=True):
            found[index] = vectors[: len(rows[index])]
    return found


@torch.inference_mode()
def text_and_token_vectors(
    encoder: Encoder, rows: Sequence[Sequence[int]], *, is_query: bool
) -> tuple[Vectors, list[Tensor]]:
    """Unit vectors of texts, (N, D), and their tokens' as token_vectors() gives them, in one pass of the model.

    rows: token ids with special tokens and the instruction, each of at least one token.
    """
    encoder = encoder.tower(is_query=is_query)
    found = [torch.empty(0)] * len(rows)
    texts = np.zeros((len(rows), encoder.layout.width), np.float32)
    skip = encoder.skip(is_query)
    for batch, states in _batches(encoder, rows):
        texts[batch] = encoder.pooled(states, skip)
        for index, vectors in zip(batch, _side_by_side(states), strict=True):
            found[index] = vectors[: len(rows[index])]
    return unit_rows(texts), found


def _batches(encoder: Encoder, rows: Sequence[Sequence[int]]) -> Iterator[tuple[Ints, States]]:
    """Yield the numbers of rows with the transformer's states for them."""
    for batch in encoding_batches([len(row) for row in rows], all_layers=True):
        yield batch, encoder.run([rows[index] for index in batch], all_layers=True)


def _side_by_side(states: States) -> Tensor:
    inner = states.layers[round(_INNER * (len(states.layers) - 1))]  # the first are the embeddings
    both = [normalize(layer.float(), dim=-1) for layer in (inner, states.layers[-1])]
    return (torch.cat(both, -1) / 2**0.5).to(torch.float16)
