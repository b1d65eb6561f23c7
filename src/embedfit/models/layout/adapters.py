"""LoRA (Hu et al. 2021): two small matrices beside each large one, which train while the large ones stay as they are.

peft puts them into a transformer and runs them. An adapter's folder is peft's own, so peft opens it over the base.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from embedfit.errors import MissingDependency, ModelError, first_line

#: A larger transformer is trained by an adapter, unless the settings say otherwise.
LARGE = 300_000_000
_RANK = 16
#: Added to a weight is this times B·A.
_SCALE = 2.0
_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NAME = "default"


def rank_for(setting: int | None, parameters: int) -> int:
    """The rank of the adapter that trains a transformer; 0: its own weights train. setting: train.lora.rank."""
    if setting is not None:
        return setting
    return _RANK if parameters > LARGE else 0


class Adapter:
    """An adapter in a transformer, beside each of its linear layers. All other weights are frozen.

    Every merge is W + α · scale · B·A, so α is the factor on the scale with which the adapter runs.
    """

    def __init__(
        self,
        backbone: torch.nn.Module,
        config: Any,  # noqa: ANN401 - peft has no annotations
        name: str = _NAME,
    ) -> None:
        """Put a new adapter in, with B = 0. config: peft's LoraConfig. A comes from torch's random state.

        name: its own one among several of a transformer, without a dot.
        """
        peft = _peft()
        for weight in backbone.parameters():
            weight.requires_grad_(False)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are meant
                peft.inject_adapter_in_model(config, backbone, name)
        except (ValueError, TypeError) as error:
            raise ModelError(f"The adapter does not fit the model: {first_line(error)}") from error
        self._backbone, self._config, self._name = backbone, config, name
        self._layers = [module for module in backbone.modules() if isinstance(module, peft.tuners.lora.LoraLayer)]

    @classmethod
    def new(cls, backbone: torch.nn.Module, rank: int) -> Adapter:
        """An adapter of that rank beside every linear layer (all of them, as Dettmers et al. 2023 found best)."""
        names = [
            name
            for name, module in backbone.named_modules()
            if isinstance(module, torch.nn.Linear) and not name.startswith("pooler.")
        ]
        alpha = int(_SCALE * rank)
        return cls(backbone, _peft().LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0))

    @classmethod
    def load(cls, folder: Path, backbone: torch.nn.Module, name: str = _NAME) -> Adapter:
        """Put the adapter of a folder into its base's transformer. Raises ModelError if it does not fit."""
        try:
            config, tensors = _peft().LoraConfig.from_pretrained(str(folder)), load_file(folder / _WEIGHTS)
        except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
            raise ModelError(f"{folder} holds no adapter that can be read: {first_line(error)}") from error
        adapter = cls(backbone, config, name)
        adapter.put({adapter._in_model(key): tensor for key, tensor in tensors.items()})
        return adapter

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The matrices A and B, by name."""
        return {
            name: weight
            for name, weight in self._backbone.named_parameters()
            if ".lora_" in name and f".{self._name}." in name
        }

    def put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Set the matrices, by the names of parameters(). Raises ModelError for those of another adapter."""
        own = self.parameters()
        if {name: w.shape for name, w in own.items()} != {name: w.shape for name, w in tensors.items()}:
            raise ModelError("The adapter's matrices are not those of this model.")
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(tensors[name])

    def scale(self, alpha: float) -> None:
        """Run with α times the adapter's change; 0 is the base."""
        for layer in self._layers:
            layer.set_scale(self._name, alpha)

    @torch.no_grad()
    def merged(self, alpha: float) -> dict[str, torch.Tensor]:
        """The weights of the transformer without an adapter that does the same: W + α · scale · B·A, by W's names."""
        state = self._backbone.state_dict()
        found: dict[str, torch.Tensor] = {}
        factor = alpha * self._config.lora_alpha / self._config.r
        for name, tensor in state.items():
            if ".lora_" in name:
                continue
            before, _, after = name.partition(".base_layer.")
            if after == "weight":
                up, down = (state[f"{before}.lora_{one}.{self._name}.weight"] for one in "BA")
                tensor = tensor.float() + factor * (up.float() @ down.float())
            found[f"{before}.{after}" if after else name] = tensor.detach()
        return found

    def save(self, folder: Path, alpha: float) -> None:
        """Write the adapter alone, with α times its change, as peft writes and reads it."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {self._in_file(name): w.detach().cpu().contiguous() for name, w in self.parameters().items()}
        for name in tensors:
            tensors[name] = tensors[name] * alpha if ".lora_B." in name else tensors[name]
        save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
        self._config.save_pretrained(str(folder))

    def _in_file(self, name: str) -> str:
        return _PREFIX + name.replace(f".{self._name}.", ".")

    def _in_model(self, name: str) -> str:
        plain = name.removeprefix(_PREFIX)
        return plain.replace(".lora_A.", f".lora_A.{self._name}.").replace(".lora_B.", f".lora_B.{self._name}.")


class Adapters:
    """Several adapters in one transformer, of which one at a time runs, or none: then it is the base.

    The base's weights are in memory once.
    """

    def __init__(self, backbone: torch.nn.Module) -> None:
        self._backbone = backbone
        self._count = 0
        self._turn = Lock()

    def add(self, folder: Path) -> str:
        """Put in the adapter of a folder. Returns its name here. Raises ModelError if it does not fit."""
        name = f"adapter{self._count}"
        Adapter.load(folder, self._backbone, name)
        self._count += 1
        return name

    @contextmanager
    def running(self, name: str | None) -> Iterator[None]:
        """The time in which the transformer runs with one adapter, or with none; others wait for its end."""
        layers = _peft().tuners.lora.LoraLayer
        with self._turn:
            for layer in self._backbone.modules():
                if isinstance(layer, layers):
                    layer.enable_adapters(name is not None)
                    if name is not None:
                        layer.set_adapter([name])
            yield


def _peft() -> Any:  # noqa: ANN401
    if importlib.util.find_spec("peft") is None:
        raise MissingDependency(
            "peft", extra="lora", needed_for="Training by an adapter (train.lora.rank=0 trains the whole model)"
        )
    import peft  # slow to import

    return peft
