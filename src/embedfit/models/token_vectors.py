"""Vectors of a text's tokens, from inside a model that gives one vector a text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from embedfit.models.encoder import Encoder, batches_by_tokens, tokens_per_batch

#: The inner layer whose vectors stand beside the last one's, as a share of all. The last one's are near to what the
#: text means, those of inner layers to what its words are: each wins where the other loses (docs/recipe.md).
_INNER = 2 / 3


@torch.inference_mode()
def token_vectors(encoder: Encoder, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Unit vectors of each row's tokens, (L, 2H) in fp16: of an inner layer and of the last one, side by side.

    rows: token ids with special tokens, within the model's window. The cosine of two tokens is the mean of the
    layers' cosines.
    """
    found = [torch.empty(0)] * len(rows)
    budget = tokens_per_batch() // 4  # all layers' vectors are held at once
    for batch in batches_by_tokens([len(row) for row in rows], budget):
        output = encoder.run([rows[index] for index in batch], all_layers=True)[0]
        states = output.hidden_states or (output.last_hidden_state,)  # static embeddings have one layer
        inner = states[round(_INNER * (len(states) - 1))]  # the first are the embeddings
        vectors = torch.cat([normalize(layer.float(), dim=-1) for layer in (inner, states[-1])], -1) / 2**0.5
        for place, index in enumerate(batch):
            found[index] = vectors[place, : len(rows[index])].to(torch.float16)
    return found
