"""Mixing any number of models by hand, in LM-Cocktail's two ways: given weights, or weights from example data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embedfit.errors import InputError, UsageError
from embedfit.files.atomic import atomic_folder
from embedfit.files.flagembedding import read_flagembedding
from embedfit.merging.alike import check_alike
from embedfit.merging.weights import combine, weights_from_losses
from embedfit.models.encoder import Encoder
from embedfit.models.folder import read_tensors, save_model
from embedfit.models.layout.golden import write_golden
from embedfit.models.layout.reading import read_architecture
from embedfit.path.artefacts import TrainRow
from embedfit.progress import Reporter

#: LM-Cocktail's own temperature of the InfoNCE loss that weighs the models.
LOSS_TEMPERATURE = 0.02


def mix(
    models: Sequence[Path],
    output: Path,
    *,
    weights: Sequence[float] | None,
    examples: Path | None,
    temperature: float,
    report: Reporter,
) -> list[float]:
    """Write the mixture of model folders to output. Returns the weights; without weights or examples they are equal."""
    if len(models) < 2:
        raise UsageError("Mixing takes at least two models.", remedy="embedfit merge-models A B --output DIR")
    if weights is not None and examples is not None:
        raise UsageError("Give either --weights or --examples, not both.")
    for model in models[1:]:
        check_alike(models[0], model)
    if examples is not None:
        rows = read_flagembedding(examples)
        if not rows:
            raise InputError(f"{examples} holds no rows.")
        losses = []
        with report.task("loss on the examples", len(models), "models") as task:
            for model in models:
                losses.append(example_loss(Encoder.load(model), rows))
                task.advance(note=f"{model.name} {losses[-1]:.3f}")
        weights = weights_from_losses(losses, temperature)
    chosen = list(weights) if weights is not None else [1 / len(models)] * len(models)
    merged = combine([read_tensors(model) for model in models], chosen)
    with atomic_folder(output) as folder:
        save_model(folder, merged, base=models[0], layout=read_architecture(models[0]))
        write_golden(folder)
    return chosen


def example_loss(encoder: Encoder, rows: Sequence[TrainRow]) -> float:
    """Mean InfoNCE loss of a model on rows: each first positive against the row's negatives and other positives."""
    queries = encoder.encode_unit([row.query for row in rows], is_query=True)
    positives = encoder.encode_unit([row.pos[0] for row in rows])
    negatives = [encoder.encode_unit(row.neg) if row.neg else positives[:0] for row in rows]
    losses = []
    for number, query in enumerate(queries):
        # Another row with the same positive is not a negative.
        others = np.array([row.pos[0] != rows[number].pos[0] for row in rows])
        scores = np.concatenate(
            [[positives[number] @ query], positives[others] @ query, negatives[number] @ query]
        ) / LOSS_TEMPERATURE  # fmt: skip
        losses.append(float(np.logaddexp.reduce(scores.astype(np.float64)) - scores[0]))
    return float(np.mean(losses))
