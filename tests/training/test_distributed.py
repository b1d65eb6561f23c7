import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from embedfit.config import resolve
from embedfit.errors import TrainingError
from embedfit.progress import LogLines
from embedfit.runtime import Runtime
from embedfit.training.batches import micro_batches
from embedfit.training.memory import MemoryBudget
from embedfit.training.processes.launch import command
from embedfit.training.processes.world import World
from embedfit.training.stage import run
from embedfit.training.step import accumulate_gradients
from tests.training.conftest import make_run, make_trunk, random_texts
from tests.training.test_step import PASSAGES, ROWS, loss_of


def joint_gradients(folder, world, limit):
    trunk = make_trunk(folder)
    texts = random_texts(ROWS + PASSAGES)
    runs = micro_batches(np.array([len(text) for text in texts]), 64)
    memory = MemoryBudget(limit, trunk.parameters().values())
    memory.bytes_per_token = 1.0
    result = accumulate_gradients(trunk, texts, runs, loss_of, memory=memory, world=world)
    return result, {name: weight.grad for name, weight in trunk.parameters().items()}


LIMITS = (0, 1 << 30)


def one_of_two(rank, folder, file, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    results = [joint_gradients(folder, World(rank, 2), limit) for limit in LIMITS]
    torch.save([(result.loss, gradients) for result, gradients in results], f"{out}-{rank}.pt")
    dist.destroy_process_group()


class Together(World):
    """One of two ranks that are threads of this process."""

    barrier_, slots = threading.Barrier(2), {}

    def sum_(self, tensor):
        self.slots[self.rank] = tensor.detach().clone()
        self.barrier_.wait(60)
        tensor.detach().copy_(self.slots[0] + self.slots[1])
        self.barrier_.wait(60)
        return tensor


def assert_same(got, expected):
    for name, gradient in expected.items():
        scale = max(1.0, float(gradient.abs().max()))
        assert float((got[name] - gradient).abs().max()) <= 1e-5 * scale, name


@pytest.mark.parametrize("limit", LIMITS)
def test_two_ranks_give_the_gradients_of_one(tiny_bert, limit):
    result, expected = joint_gradients(tiny_bert, World(), 1 << 30)
    with ThreadPoolExecutor(2) as pool:
        ranks = list(pool.map(lambda rank: joint_gradients(tiny_bert, Together(rank, 2), limit), (0, 1)))
    for of_rank, got in ranks:
        assert of_rank.loss == pytest.approx(result.loss, rel=1e-6)
        assert_same(got, expected)


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(tiny_bert, tmp_path):
    mp.spawn(one_of_two, (tiny_bert, tmp_path / "rendezvous", tmp_path / "out"), nprocs=2)
    result, expected = joint_gradients(tiny_bert, World(), 1 << 30)
    for rank in (0, 1):
        for loss, got in torch.load(tmp_path / f"out-{rank}.pt", weights_only=True):
            assert loss == pytest.approx(result.loss, rel=1e-6)
            assert_same(got, expected)


class Lines:
    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def settings(model, *extra):
    return resolve(
        overrides={"model": str(model)},
        assignments=("train.epochs=2", "train.batch_size=8", "train.learning_rate=1e-3", "train.precision=fp32",
                     "train.patience=0", *extra),
    )  # fmt: skip


def test_the_command_is_a_list_without_a_shell(tmp_path):
    words = command(2, tmp_path / "a b; c", tmp_path / "vectors")
    assert words[-2] == str(tmp_path / "a b; c") and words[1:3] == ["-m", "torch.distributed.run"]


@pytest.mark.slow
def test_nproc_2_trains_what_one_process_trains(tiny_bert, tmp_path):
    one, two, lines = make_run(tmp_path / "one"), make_run(tmp_path / "two"), Lines()
    run(one, settings(tiny_bert), Runtime())
    run(two, settings(tiny_bert), Runtime(processes=2, report=LogLines(lines)))
    left, right = (load_file(w.path("finetuned") / "model.safetensors") for w in (one, two))
    for name in left:
        torch.testing.assert_close(
            left[name], right[name], rtol=1e-3, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )
    assert "2 processes" in lines.text and "kept the weights of step" in lines.text
    assert json.loads((two.path("finetuned") / "training.json").read_text())["steps"] == 6


@pytest.mark.slow
def test_an_error_of_a_process_reaches_the_user(tiny_bert, tmp_path):
    workspace = make_run(tmp_path)
    workspace.path("train.jsonl").write_text('{"query": "red", "pos": ["green"]}\n')
    with pytest.raises(TrainingError, match="1 usable rows"):
        run(workspace, settings(tiny_bert), Runtime(processes=2))
