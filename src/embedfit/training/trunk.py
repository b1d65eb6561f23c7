"""Tokens to vectors with gradients, for a training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from embedfit.config import TrainConfig
from embedfit.errors import TrainingError, UsageError
from embedfit.models.architecture import Architecture
from embedfit.models.encoder import Encoder, autocast
from embedfit.models.folder import save_model
from embedfit.models.layout.adapters import Adapter
from embedfit.numerics.arrays import Tokens
from embedfit.numerics.batching import pad


class Trunk:
    """Any encoder that transformers builds, plain or compiled by torch.compile. Dense layers after it stay as they are.

    A BERT whose arithmetic was written out by hand was 0.8 to 1.0 times as fast in whole steps in fp32, 1.1 to 1.3
    times in bf16 (benchmarks/results/train_trunks.json). That was too little for what it cost to keep.
    """

    def __init__(self, encoder: Encoder, *, compiled: bool = False, rank: int = 0) -> None:
        """Take over the transformer of an encoder whose layout check_trainable() lets pass.

        rank: of an adapter that trains instead of the transformer's own weights; 0: none.
        """
        self._head, self._precision, self._pad_id = encoder.head, encoder.precision, encoder.pad_id
        self._backbone = encoder.backbone
        self.adapter = Adapter.new(self._backbone, rank) if rank else None
        encoder.backbone = torch.nn.Identity()  # the trunk holds the weights now, so the encoder drops its copy
        self._call: Callable[..., BaseModelOutput] = (
            torch.compile(self._backbone, dynamic=True) if compiled else self._backbone
        )
        self.device = next(self._backbone.parameters()).device
        self.width = encoder.layout.width

    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The trained weights in fp32, by name, always in the same order."""
        if self.adapter is not None:
            return self.adapter.parameters()
        return {name: weight for name, weight in self._backbone.named_parameters() if not name.startswith("pooler.")}

    def weights(self) -> list[torch.nn.Parameter]:
        """All weights, trained or not."""
        return list(self._backbone.parameters())

    def save(self, folder: Path, tensors: Mapping[str, Tensor], *, base: Path, layout: Architecture) -> None:
        """Write a model folder with weights that tensors() gave, now or earlier."""
        if self.adapter is not None:
            self.adapter.put(tensors)
            tensors = self.adapter.merged(1.0)
        save_model(folder, tensors, base=base, layout=layout)

    def forward(self, texts: Sequence[Tokens]) -> Tensor:
        """Unit vectors (n, D) in fp32 of texts of similar lengths."""
        ids, mask = (torch.from_numpy(part).to(self.device) for part in pad(texts, self._pad_id))
        with autocast(self._precision, self.device):
            hidden = self._call(input_ids=ids, attention_mask=mask).last_hidden_state
        assert hidden is not None  # for the type checker
        return torch.nn.functional.normalize(self._head.vectors(hidden.float(), mask), dim=-1)

    def tensors(self) -> dict[str, Tensor]:
        """The weights under the names that a model folder holds them; with an adapter its matrices alone."""
        if self.adapter is not None:
            return {name: weight.detach() for name, weight in self.adapter.parameters().items()}
        return {name: tensor.detach() for name, tensor in self._backbone.state_dict().items()}

    def train(self, dropout: float) -> None:
        """Set the probability of dropout; 0 for evaluation."""
        self._backbone.train(dropout > 0)
        for module in self._backbone.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
            if isinstance(getattr(module, "dropout_prob", None), float):
                setattr(module, "dropout_prob", dropout)  # noqa: B010 - of some attention modules, not of Module


def check_trainable(layout: Architecture, model: str, settings: TrainConfig) -> None:
    """Raise an error with a remedy if a model can't be tuned as the settings say.

    model: its name, for the message. A map of query vectors fits every model.
    """
    if settings.tuned == "map":
        return
    if settings.tuned == "both" and layout.queries is not None:
        raise TrainingError(
            f"{model} has a tower for queries and one for passages; train.tune=both trains one model for both.",
            remedy="Continue with its tower of queries: --set train.loss=corpus-distil --set train.tune=map, or "
            f"train.tune=query. To train its tower of passages as a new model: --model {model}/document",
        )
    tower, width = layout.tower(is_query=True), layout.width
    if tower.model_type == "static":
        why = "is a table of static embeddings"
    elif not tower.pooling.include_prompt and (tower.query_instruction or tower.document_instruction):
        why = "leaves its prompt out of the pooling (include_prompt: false)"
    elif tower.dimensions is not None:
        why = f"cuts its vectors to {tower.dimensions} numbers (truncate_dim)"
    elif any(not 0 < size <= width for size in settings.matryoshka):
        raise UsageError(
            f"train.matryoshka is {list(settings.matryoshka)}, but the model's vectors have {width} dimensions.",
            remedy=f"For example: --set 'train.matryoshka=[{width}, {width // 2}, {width // 4}]'",
        )
    else:
        return
    raise TrainingError(
        f"{model} {why}; embedfit encodes, searches and serves such a model, but can't train its weights yet.",
        remedy="Learn a map on its query vectors: --set train.loss=corpus-distil --set train.tune=map. Or train "
        "another model, such as --model minilm.",
    )
