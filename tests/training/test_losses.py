"""Losses are a table: ours and a stranger's enter it by the same door."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedfit import plugins
from embedfit.config import resolve
from embedfit.errors import TrainingError, UsageError
from embedfit.files.textfiles import toml_of
from embedfit.runtime import Runtime
from embedfit.training.losses.loss import GROUP, Loss, loss_named
from embedfit.training.stage import run
from tests.plug_in import install
from tests.training.conftest import make_run

PLUG_IN = """
from embedfit.training.losses.loss import Loss

LOSS = Loss(rows=lambda batch: 2 * batch.contrast, steps=6)
HUNGRY = Loss(rows=lambda batch: batch.beside(batch.own.sum(1)), needs_scores=True)
"""


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, PLUG_IN, "twice = stranger:LOSS\nhungry = stranger:HUNGRY", monkeypatch, group=GROUP)


def losses_of(folder: Path, model: Path, loss: str) -> list[float]:
    train = {"loss": loss, "epochs": 0, "batch_size": 8, "learning_rate": 1e-3, "patience": 0, "precision": "fp32"}
    workspace = make_run(folder)
    run(workspace, resolve(overrides={"model": str(model), "train": train}), Runtime())
    return [json.loads(line)["loss"] for line in workspace.path("finetuned/losses.jsonl").read_text().splitlines()]


def test_ours_come_in_by_the_door_that_others_use() -> None:
    listed = toml_of(Path(__file__).parents[2] / "pyproject.toml")["project"]["entry-points"][GROUP]
    assert plugins.places(GROUP) == listed
    assert all(isinstance(loss_named(name), Loss) for name in listed)


def test_a_plug_in_trains(tiny_bert: Path, tmp_path: Path, plugged: None) -> None:
    twice, plain = (losses_of(tmp_path / loss, tiny_bert, loss) for loss in ("twice", "infonce"))
    assert twice[0] == pytest.approx(2 * plain[0], rel=1e-4)
    assert len(twice) == 6 < len(plain), "the record says how long"


def test_what_a_loss_needs_is_its_record_s(tiny_bert: Path, tmp_path: Path, plugged: None) -> None:
    with pytest.raises(TrainingError, match=r"train\.loss is hungry, but the rows of .* have no scores"):
        losses_of(tmp_path / "run", tiny_bert, "hungry")


def test_an_unknown_loss_names_the_known_ones_and_is_not_imported(plugged: None) -> None:
    with pytest.raises(UsageError, match=r"no 'sad' among the losses.*distil, hungry, in-batch-distil, infonce"):
        resolve(assignments=("train.loss=sad",))
