"""The weights between a base and a model that was tuned from it, by what was trained: all weights, or an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from embedfit.merging.weights import combine
from embedfit.models.architecture import Architecture
from embedfit.models.encoder import Encoder
from embedfit.models.folder import save_model
from embedfit.models.layout.adapters import Adapter
from embedfit.models.layout.files import ADAPTER
from embedfit.models.layout.golden import Encode, prove
from embedfit.models.layout.reading import read_architecture
from embedfit.models.layout.towers import tower_folder
from embedfit.models.local import LocalModel


class Blend(Protocol):
    """A plain model for each α: the base at 0, the tuned model at 1."""

    def write(self, alpha: float, folder: Path) -> None:
        """Write the plain model folder of one α."""

    def finish(self, alpha: float, folder: Path) -> None:
        """Add to a whole model folder what belongs to it beside its weights, after its golden vectors are written."""


class Weights:
    """Linear combinations of all weights. Both models' are held in memory."""

    def __init__(self, base: LocalModel, tuned: Path) -> None:
        self._base, self._layout = base.folder, read_architecture(tuned)
        self._weights = [read_weights(base.folder, base.layout), read_weights(tuned, self._layout)]

    def write(self, alpha: float, folder: Path) -> None:
        """See Blend."""
        save_model(folder, combine(self._weights, [1 - alpha, alpha]), base=self._base, layout=self._layout)

    def finish(self, alpha: float, folder: Path) -> None:
        """See Blend."""


class AdapterScale:
    """The base with α times an adapter's change: the same weights as Weights', from one model in memory."""

    def __init__(self, base: LocalModel, tuned: Path, adapter: Path) -> None:
        """Raises ModelError if base and adapter together do not give the tuned model's golden vectors."""
        self._base = Encoder.load(base.folder, layout=base.layout)
        self._tuned = self._beside(tuned)
        self._adapter = Adapter.load(adapter, self._base.backbone)
        self._prove(tuned, 1.0)

    def write(self, alpha: float, folder: Path) -> None:
        """See Blend."""
        save_model(folder, self._adapter.merged(alpha), base=self._base.folder, layout=self._tuned.layout)

    def finish(self, alpha: float, folder: Path) -> None:
        """See Blend."""
        self._adapter.save(folder / ADAPTER, alpha)
        self._prove(tower_folder(folder, is_query=True), alpha)

    def _prove(self, folder: Path, alpha: float) -> None:
        """Compare the golden vectors of a merged plain folder with those of base and adapter, unmerged."""
        self._adapter.scale(alpha)
        encoder = self._beside(folder)
        encode: Encode = lambda texts, is_query: encoder.encode(texts, is_query=is_query)  # noqa: E731
        prove(folder, encoder.layout, encode, exact=encoder.precision == "fp32")

    def _beside(self, folder: Path) -> Encoder:
        """The encoder of a folder, with the transformer and the tokenizer of the base in place of the folder's."""
        return Encoder(
            folder,
            layout=read_architecture(folder),
            tokenizer=self._base.text_tokenizer,
            backbone=self._base.backbone,
            precision=self._base.precision,
        )


def read_weights(folder: Path, layout: Architecture) -> dict[str, torch.Tensor]:
    """The weights of a model folder under the names that its transformer has in memory, fp32."""
    own = Encoder.load(folder, layout=layout).backbone.state_dict()
    return {name: tensor.cpu() for name, tensor in own.items() if tensor.is_floating_point()}
