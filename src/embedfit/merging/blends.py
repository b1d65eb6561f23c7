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
    """Linear combinations of all weights. Nothing stays in memory between two calls."""

    def __init__(self, base: LocalModel, tuned: Path) -> None:
        self._base, self._tuned, self._layout = base, tuned, read_architecture(tuned)

    def write(self, alpha: float, folder: Path) -> None:
        """See Blend."""
        weights = [read_weights(self._base.folder, self._base.layout), read_weights(self._tuned, self._layout)]
        save_model(folder, combine(weights, [1 - alpha, alpha]), base=self._base.folder, layout=self._layout)

    def finish(self, alpha: float, folder: Path) -> None:
        """See Blend."""


class AdapterScale:
    """The base with α times an adapter's change: the same weights as Weights', from one model, held while it writes."""

    def __init__(self, base: LocalModel, tuned: Path, adapter: Path) -> None:
        """Raises ModelError if base and adapter together do not give the tuned model's golden vectors."""
        self._base, self._layout, self._folder = base, read_architecture(tuned), adapter
        self._prove(tuned, 1.0, *self._loaded())

    def write(self, alpha: float, folder: Path) -> None:
        """See Blend."""
        _, adapter = self._loaded()
        save_model(folder, adapter.merged(alpha), base=self._base.folder, layout=self._layout)

    def finish(self, alpha: float, folder: Path) -> None:
        """See Blend."""
        encoder, adapter = self._loaded()
        adapter.save(folder / ADAPTER, alpha)
        self._prove(tower_folder(folder, is_query=True), alpha, encoder, adapter)

    def _loaded(self) -> tuple[Encoder, Adapter]:
        """The base, and the adapter in its transformer."""
        encoder = Encoder.load(self._base.folder, layout=self._base.layout)
        return encoder, Adapter.load(self._folder, encoder.backbone)

    @staticmethod
    def _prove(folder: Path, alpha: float, base: Encoder, adapter: Adapter) -> None:
        """Compare the golden vectors of a merged plain folder with those of base and adapter, unmerged."""
        adapter.scale(alpha)
        encoder = Encoder(
            folder,
            layout=read_architecture(folder),
            tokenizer=base.text_tokenizer,
            backbone=base.backbone,
            precision=base.precision,
        )
        encode: Encode = lambda texts, is_query: encoder.encode(texts, is_query=is_query)  # noqa: E731
        prove(folder, encoder.layout, encode, exact=encoder.precision == "fp32")


def read_weights(folder: Path, layout: Architecture) -> dict[str, torch.Tensor]:
    """The weights of a model folder under the names that its transformer has in memory, fp32."""
    own = Encoder.load(folder, layout=layout).backbone.state_dict()
    return {name: tensor.cpu() for name, tensor in own.items() if tensor.is_floating_point()}
