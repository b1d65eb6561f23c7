"""Checkpoints: a training that was killed resumes from them. They are safetensors and JSON."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from embedfit.files.atomic import atomic_folder
from embedfit.path.artefacts import DevScore, TrainingStep


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """The state of a training. step: the number of steps done. settings: those in which a plan must agree to resume.

    Random draws are functions of the seed and the step, so no generator's state is stored.
    """

    step: int
    settings: dict[str, object]
    losses: list[TrainingStep] = field(default_factory=list)
    dev: list[DevScore] = field(default_factory=list)
    stopped: bool = False

    @property
    def trained_dev(self) -> tuple[DevScore, ...]:
        """The dev scores after steps."""
        return tuple(score for score in self.dev if score.step > 0)

    @property
    def best_dev(self) -> DevScore | None:
        """The highest of them, the first one of equals; None before the first."""
        return max(self.trained_dev, key=lambda score: (score.ndcg10, -score.step), default=None)


_STATE = TypeAdapter(TrainingState)


def save_checkpoint(
    folder: Path,
    state: TrainingState,
    parameters: Mapping[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    best: Mapping[str, Tensor],
) -> None:
    """Write the checkpoint of a step under folder, then drop the one before: killed at any moment, one is whole."""
    with atomic_folder(folder / f"step-{state.step:08d}") as target:
        save_file(
            {name: weight.detach().cpu().contiguous() for name, weight in parameters.items()},
            target / "weights.safetensors",
        )
        save_file(_moments(parameters, optimiser), target / "optimiser.safetensors")
        save_file({name: tensor.cpu().contiguous() for name, tensor in best.items()}, target / "best.safetensors")
        (target / "state.json").write_text(_STATE.dump_json(state).decode(), "utf-8")
    for path in folder.glob("step-*"):
        if path.name < f"step-{state.step:08d}":
            shutil.rmtree(path, ignore_errors=True)


def read_state(folder: Path) -> tuple[Path, TrainingState] | None:
    """The newest checkpoint under folder that can be read, or None."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            return path, _STATE.validate_json((path / "state.json").read_bytes())
        except (OSError, ValueError):
            continue
    return None


def restore(
    path: Path, parameters: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Put a checkpoint's weights and moments in place. Returns the best weights so far (empty: none yet).

    Raises ValueError if a file is damaged or belongs to another model.
    """
    try:
        weights, moments = load_file(path / "weights.safetensors"), load_file(path / "optimiser.safetensors")
        best = load_file(path / "best.safetensors")
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: {error}") from error
    if {name: weight.shape for name, weight in weights.items()} != {name: w.shape for name, w in parameters.items()}:
        raise ValueError(f"{path} is of another model")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
            if f"{name}.step" in moments:
                optimiser.state[parameter] = {
                    key: moments[f"{name}.{key}"].to(
                        "cpu" if key == "step" and not parameter.is_cuda else parameter.device
                    )
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
    return dict(best)


def _moments(parameters: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, parameter in parameters.items()
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def differences(ours: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    """Names of the settings that differ."""
    return sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
