import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from embedfit.config import resolve, save
from embedfit.errors import InputError, TrainingError, UsageError
from embedfit.models.encoder import Encoder
from embedfit.path.artefacts import TrainRow
from embedfit.progress import LogLines
from embedfit.runtime import Runtime
from embedfit.training import loop
from embedfit.training.stage import run
from tests.training.conftest import make_run


class Log:
    def __init__(self):
        self.lines = []

    def write(self, text):
        self.lines += text.splitlines()

    def flush(self):
        pass


def settings(model, *extra):
    train = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-3, "eval_every": 2, "patience": 0, "precision": "fp32"}
    train |= {"loss": "infonce", "keep": "best", "dropout": 0.0, "hard_negatives": 4}
    return resolve(overrides={"model": str(model), "train": train}, assignments=extra)


def trained(workspace, config):
    log = Log()
    run(workspace, config, Runtime(report=LogLines(log)))
    folder = workspace.path("finetuned")
    return load_file(folder / "model.safetensors"), json.loads((folder / "training.json").read_text()), log.lines


def test_training_learns_and_leaves_a_model_folder(tiny_bert, tmp_path):
    workspace = make_run(tmp_path)
    weights, summary, lines = trained(workspace, settings(tiny_bert, "train.epochs=6"))
    losses = [json.loads(line) for line in (tmp_path / "finetuned" / "losses.jsonl").read_text().splitlines()]
    assert [record["step"] for record in losses] == list(range(1, 19)) and summary["steps"] == 18
    assert losses[-1]["loss"] < 0.8 * losses[0]["loss"]
    assert set(losses[0]) == {"step", "loss", "lr", "grad_norm", "seconds", "tokens"}
    scores = {record["step"]: record["ndcg10"] for record in summary["dev_ndcg10"]["after"]}
    assert scores[summary["best_step"]] == max(scores.values())
    assert any("steps of 8 rows, about" in line for line in lines)
    encoder = Encoder.load(tmp_path / "finetuned")
    assert encoder.layout.query_instruction == "query: "
    assert encoder.encode(["red green"]).shape == (1, 32)
    before = load_file(tiny_bert / "model.safetensors")
    assert weights.keys() == before.keys()
    changed = "encoder.layer.0.output.dense.weight"
    assert not torch.equal(weights[changed], before[changed])


def cut_off(monkeypatch, workspace, config):
    """Train in a workspace until the sixth step, which is interrupted."""
    step = loop.Trainer.step

    def dying(self, batch):
        if self.state.step == 5:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Trainer, "step", dying)
        trained(workspace, config)


@pytest.mark.parametrize("setting", ["train.dropout=0.0", "train.dropout=0.1", "train.loss=in-batch-distil"])
def test_a_run_that_was_cut_off_ends_with_the_same_bits(tiny_bert, tmp_path, monkeypatch, setting):
    config = settings(tiny_bert, setting)
    whole, _, _ = trained(make_run(tmp_path / "whole"), config)
    workspace = make_run(tmp_path / "cut")
    cut_off(monkeypatch, workspace, config)
    # Less memory for graphs, too: it changes how gradients are computed, not what they are.
    again, summary, lines = trained(
        workspace, config.model_copy(update={"train": config.train.model_copy(update={"memory_mb": 1})})
    )
    assert any("going on after step 4 of 9" in line for line in lines)
    assert summary["steps"] == 9 and summary["retained_share"] < 1
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)


PROGRAM = """
import sys
from pathlib import Path
import torch
from embedfit.config import load
from embedfit.runtime import Runtime
from embedfit.training import stage
from embedfit.path.workspace import Workspace
stage.cores = lambda: 1  # as many threads as the run it is compared with
stage.run(Workspace(sys.argv[1]), load(Path(sys.argv[2])), Runtime())
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bits(tiny_bert, tmp_path):
    config = settings(tiny_bert, "train.epochs=12", "train.checkpoint_every=1")
    whole, _, _ = trained(make_run(tmp_path / "whole"), config)
    workspace = make_run(tmp_path / "killed")
    save(config, tmp_path / "config.toml")
    rng, killed_at = np.random.default_rng(0), []
    command = [sys.executable, "-c", PROGRAM, str(workspace.root), str(tmp_path / "config.toml")]

    def newest():
        return max((path.name for path in workspace.scratch("train").glob("step-*")), default="")

    while not workspace.path("finetuned").exists():
        with subprocess.Popen(command) as process:
            before = newest()
            while process.poll() is None and (len(killed_at) == 3 or newest() == before):
                time.sleep(0.005)
            time.sleep(rng.random() * 0.3)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                killed_at.append(newest())
    assert killed_at
    got = load_file(workspace.path("finetuned") / "model.safetensors")
    assert all(torch.equal(whole[name], got[name]) for name in whole)


def test_a_checkpoint_of_other_settings_is_ignored_with_a_word(tiny_bert, tmp_path):
    config = settings(tiny_bert)
    workspace = make_run(tmp_path)
    trained(workspace, config)
    assert list(workspace.scratch("train").glob("step-*"))
    _, _, lines = trained(workspace, settings(tiny_bert, "train.temperature=0.1"))
    assert any("a checkpoint of another train.temperature is ignored" in line for line in lines)


def test_a_damaged_checkpoint_is_ignored_with_a_word(tiny_bert, tmp_path):
    config = settings(tiny_bert)
    workspace = make_run(tmp_path)
    whole, _, _ = trained(workspace, config)
    (checkpoint,) = workspace.scratch("train").glob("step-*")
    (checkpoint / "weights.safetensors").write_bytes(b"damaged")
    again, _, lines = trained(workspace, config)
    assert any("a checkpoint is ignored" in line for line in lines)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_loss_that_is_no_number_stops_and_names_the_batch(tiny_bert, tmp_path, monkeypatch):
    workspace = make_run(tmp_path)
    gradients = loop.Trainer.gradients

    def diverging(self, batch, step):
        result = gradients(self, batch, step)
        return loop.replace(result, loss=float("nan")) if step == 5 else result

    monkeypatch.setattr(loop.Trainer, "gradients", diverging)
    with pytest.raises(TrainingError, match=r"loss of step 6 is nan.*rows [\d, ]+ of train.jsonl.*checkpoint is kept"):
        trained(workspace, settings(tiny_bert))
    assert [path.name for path in workspace.scratch("train").glob("step-*")] == ["step-00000004"]
    assert not workspace.path("finetuned").exists()


def test_early_stop(tiny_bert, tmp_path, monkeypatch):
    scores = iter([0.5, 0.6, 0.7, 0.65, 0.7, 0.6, 0.6])
    monkeypatch.setattr(loop, "dev_score", lambda *_: next(scores))
    _, summary, lines = trained(make_run(tmp_path), settings(tiny_bert, "train.epochs=9", "train.patience=2"))
    assert summary["stopped_early"] and summary["best_step"] == 4 and summary["steps"] == 8
    assert any("no better dev score than 0.7000 at step 4" in line for line in lines)


def test_the_last_weights_are_kept_where_that_is_asked_for(tiny_bert, tmp_path, monkeypatch):
    scores = iter([0.5, 0.9, 0.4, 0.3, 0.2, 0.1])
    monkeypatch.setattr(loop, "dev_score", lambda *_: next(scores))
    config = settings(tiny_bert, "train.keep=last", "train.patience=1")
    weights, summary, _ = trained(make_run(tmp_path), config)
    assert (summary["steps"], summary["best_step"], summary["stopped_early"]) == (9, 9, False)
    assert len(summary["dev_ndcg10"]["after"]) > 1
    kept: list[int] = []
    save = loop.save_checkpoint
    monkeypatch.setattr(loop, "save_checkpoint", lambda *a: (kept.append(a[1].step), save(*a)))
    monkeypatch.setattr(loop, "dev_score", lambda *_: 0.0)
    blind = settings(tiny_bert, "train.keep=last", "train.eval_every=0")
    other, scored, _ = trained(make_run(tmp_path / "blind"), blind)
    assert [record["step"] for record in scored["dev_ndcg10"]["after"]] == [9], "they would choose nothing"
    assert kept == [2, 4, 6, 8], "checkpoints go on"
    assert all(torch.equal(weights[name], other[name]) for name in weights), "dev scores change nothing"


@pytest.mark.parametrize(
    ("more", "sizes"),
    [
        ((), (8, 32)),
        (("train.keep=last",), (3, 3 + 3)),
        (("train.keep=last", "train.eval_every=2"), (8, 32)),
    ],
)
def test_dev_scores_that_choose_nothing_are_of_a_small_sample(tiny_bert, tmp_path, monkeypatch, more, sizes):
    monkeypatch.setattr("embedfit.training.stage.MOST_FOR_THE_RECORD", 3)
    seen = []
    monkeypatch.setattr(loop, "dev_score", lambda _, dev, *__: (seen.append(dev), 0.5)[1])
    trained(make_run(tmp_path), settings(tiny_bert, "train.eval_every=0", *more))
    assert (len(seen[0].queries), len(seen[0].passages)) == sizes
    assert all(len(relevant) == 1 and max(relevant) < sizes[1] for relevant in seen[0].relevant)


@pytest.mark.parametrize("loss", ["distil", "margin-mse"])
def test_losses_with_a_teacher(tiny_bert, tmp_path, loss):
    workspace = make_run(tmp_path)
    rows = workspace.read(TrainRow)
    scored = [
        TrainRow(query=row.query, pos=row.pos, neg=row.neg, pos_scores=(3.0,), neg_scores=(1.0,) * len(row.neg))
        for row in rows[:-2]
    ]
    workspace.write(TrainRow, [*scored, *rows[-2:]])
    _, summary, _ = trained(workspace, settings(tiny_bert, f"train.loss={loss}", "train.matryoshka=[16]"))
    assert summary["steps"] == 9
    workspace.write(TrainRow, rows)
    with pytest.raises(TrainingError, match="no scores"):
        trained(workspace, settings(tiny_bert, f"train.loss={loss}"))


def test_in_batch_distillation_follows_its_teacher(tiny_bert, tmp_path, monkeypatch):
    class Favourite:
        """Whatever is asked, the first passage of the store is best."""

        def __init__(self, texts, *_):
            self.best = next(number for number, text in enumerate(texts) if text.prompt is None)

        def scores(self, queries, passages):
            return np.tile(np.where(passages == self.best, 9.0, 0.0).astype(np.float32), (len(queries), 1))

    monkeypatch.setattr("embedfit.training.stage.fused_teacher", Favourite)
    workspace = make_run(tmp_path)
    config = settings(
        tiny_bert, "train.loss=in-batch-distil", "train.infonce_weight=0", "train.batch_size=24", "train.epochs=12"
    )
    trained(workspace, config)
    rows = workspace.read(TrainRow)

    def lead(folder):
        encoder = Encoder.load(folder, query_instruction="")
        queries = encoder.encode([row.query for row in rows], is_query=True)
        scores = queries @ encoder.encode([row.pos[0] for row in rows]).T
        return float((scores[:, 0] - scores[:, 1:].mean(1)).mean())

    assert lead(tiny_bert) < 0.02 and lead(tmp_path / "finetuned") > 0.07


def test_bad_settings_and_rows(tiny_bert, tmp_path):
    workspace = make_run(tmp_path)
    with pytest.raises(UsageError, match="32 dimensions"):
        trained(workspace, settings(tiny_bert, "train.matryoshka=[64]"))
    workspace.path("train.jsonl").write_text('{"query": "a", "pos": []}\n')
    with pytest.raises(InputError, match="line 1"):
        trained(workspace, settings(tiny_bert))
    workspace.path("train.jsonl").write_text('{"query": "red", "pos": ["\u200b"]}\n')
    with pytest.raises(TrainingError, match="0 usable rows"):
        trained(workspace, settings(tiny_bert))


def test_rows_without_negatives_train(tiny_bert, tmp_path):
    workspace = make_run(tmp_path, negatives=0)
    _, summary, _ = trained(workspace, settings(tiny_bert, "train.guide_margin=0.05", "train.both_directions=true"))
    assert summary["steps"] == 9
