import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from embedfit.config import resolve
from embedfit.errors import EmbedfitError, InputError, TrainingError, UsageError
from embedfit.progress import LogLines
from embedfit.runtime import Runtime
from embedfit.scale.ray import Ray
from embedfit.training.batches import micro_batches
from embedfit.training.memory import MemoryBudget
from embedfit.training.processes.launch import Nodes, command
from embedfit.training.processes.worker import work_there
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
                     "train.patience=0", "train.tune=both", *extra),
    )  # fmt: skip


def test_the_command_is_a_list_without_a_shell(tmp_path):
    words = command(2, tmp_path / "a b; c", tmp_path / "vectors", Nodes())
    assert words[-2] == str(tmp_path / "a b; c") and words[1:3] == ["-m", "torch.distributed.run"]


@pytest.mark.slow
def test_nproc_2_trains_what_one_process_trains(tiny_bert, tmp_path):
    one, two, lines = make_run(tmp_path / "one"), make_run(tmp_path / "two"), Lines()
    run(one, settings(tiny_bert), Runtime())
    run(two, settings(tiny_bert), Runtime(processes=2, report=LogLines(lines)))
    assert_same_model(one, two)
    assert "2 processes" in lines.text and "kept the weights of step" in lines.text
    assert json.loads((two.path("finetuned") / "training.json").read_text())["steps"] == 8


def assert_same_model(one, two):
    left, right = (load_file(w.path("finetuned") / "model.safetensors") for w in (one, two))
    for name in left:
        if name.endswith("attention.self.key.bias"):
            continue  # the softmax cancels it, so its gradient is rounding, which AdamW makes steps of
        torch.testing.assert_close(
            left[name], right[name], rtol=1e-3, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.fixture
def ray_cluster():
    ray = pytest.importorskip("ray")
    yield Ray("local", 2)
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_workers_of_a_ray_cluster_train_what_one_process_trains(tiny_bert, tmp_path, ray_cluster):
    one, two, lines = make_run(tmp_path / "one"), make_run(tmp_path / "two"), Lines()
    run(one, settings(tiny_bert), Runtime())
    run(two, settings(tiny_bert), Runtime(processes=2, executor=ray_cluster, report=LogLines(lines)))
    assert_same_model(one, two)
    assert "each a worker of the executor" in lines.text and "kept the weights of step" in lines.text
    assert not list(two.scratch("train").glob("seen-*"))
    (two.path("train.jsonl")).write_text('{"query": "red", "pos": ["green"]}\n')
    with pytest.raises(TrainingError, match="1 usable rows"):
        run(two, settings(tiny_bert), Runtime(processes=2, executor=ray_cluster))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_that_is_lost_costs_the_steps_since_the_checkpoint(tiny_bert, tmp_path, ray_cluster):
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two")
    longer = settings(tiny_bert, "train.epochs=60", "train.checkpoint_every=20", "train.learning_rate=1e-4")
    scratch, killed = two.scratch("train"), []

    def kill_one():
        until = time.monotonic() + 600
        while not any(scratch.glob("step-*")) and time.monotonic() < until:
            time.sleep(0.01)
        everyone = psutil.process_iter(["cmdline"])
        member = next(one for one in everyone if " ".join(one.info["cmdline"] or ()).startswith("ray::Member"))
        member.kill()
        killed.append(member.pid)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(EmbedfitError, match="work together on the Ray cluster has ended") as caught:
        run(two, longer, Runtime(processes=2, executor=ray_cluster))
    killer.join()
    assert killed and "the same command goes on" in caught.value.remedy
    lines = Lines()
    run(two, longer, Runtime(processes=2, executor=ray_cluster, report=LogLines(lines)))
    run(one, longer, Runtime())
    assert "train: going on after step" in lines.text, lines.text
    assert_same_model(one, two)


def test_a_machine_that_does_not_see_the_run_folder_says_so(tmp_path):
    with pytest.raises(InputError, match="does not see the run folder") as caught:
        work_there(str(tmp_path / "run"), str(tmp_path / "vectors"), str(tmp_path / "run" / "token"), print)
    assert "all machines mount" in caught.value.remedy
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_error_of_a_process_reaches_the_user(tiny_bert, tmp_path):
    workspace = make_run(tmp_path)
    workspace.path("train.jsonl").write_text('{"query": "red", "pos": ["green"]}\n')
    with pytest.raises(TrainingError, match="1 usable rows"):
        run(workspace, settings(tiny_bert), Runtime(processes=2))


@pytest.mark.parametrize("text", ["2", "1@10.0.0.5:29500", "two@host:29500", "2@host", "2@host:0", "2@ho st:29500"])
def test_wrong_machines_say_the_right_form(text):
    with pytest.raises(UsageError, match="names no machines") as caught:
        Nodes.parsed(text)
    assert "2@10.0.0.5:29500" in caught.value.remedy


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.mark.slow
def test_two_machines_give_the_gradients_of_one(tiny_bert, tmp_path):
    """torchrun's rendezvous by hand, on two local nodes of one process each, over gloo."""
    nodes = Nodes(2, "127.0.0.1", free_port())
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{root}:{root / 'src'}"}
    begin = [sys.executable, "-m", "torch.distributed.run"]
    work = ["--nproc-per-node", "1", "-m", "tests.training.one_node", str(tiny_bert), str(tmp_path)]
    running = [
        subprocess.Popen([*begin, *replace(nodes, rank=rank).options(), *work], env=environment, cwd=root)
        for rank in range(2)
    ]
    try:
        assert [one.wait(200) for one in running] == [0, 0]
    finally:
        for one in running:
            one.kill()
    result, expected = joint_gradients(tiny_bert, World(), 1 << 30)
    for rank in (0, 1):
        loss, got = torch.load(tmp_path / f"out-{rank}.pt", weights_only=True)
        assert loss == pytest.approx(result.loss, rel=1e-6)
        assert_same(got, expected)


@pytest.mark.slow
def test_the_command_for_the_other_machine_trains_with_this_one(tiny_bert, tmp_path):
    """The first machine logs what the second one must run; together they train what one process trains."""
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two")
    others = []

    class Second(Lines):
        def write(self, text):
            super().write(text)
            if "run: " in text:
                others.append(subprocess.Popen(shlex.split(text.partition("run: ")[2])))

    lines = Second()
    run(one, settings(tiny_bert), Runtime())
    try:
        run(two, settings(tiny_bert), Runtime(nodes=f"2@127.0.0.1:{free_port()}", report=LogLines(lines)))
        assert [other.wait(100) for other in others] == [0], lines.text
    finally:
        for other in others:
            other.kill()
    assert_same_model(one, two)
