"""The executor of Ray: the same results, and what becomes of lost workers and nodes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from embedfit.cli.options import executor_for, runtime_for
from embedfit.errors import EmbedfitError, InputError, UsageError
from embedfit.scale.executor import open_executor
from embedfit.scale.inline import Inline
from embedfit.scale.processes import Processes
from embedfit.scale.ray import Ray, _environments, _room
from tests.scale.work import Opened, square


@pytest.fixture(scope="module")
def local() -> Iterator[Ray]:
    """Two workers on this machine."""
    ray = pytest.importorskip("ray")
    yield Ray("local", 2)
    ray.shutdown()


def test_two_workers_do_every_shard_once_and_name_the_one_that_fails(local: Ray, tmp_path: Path) -> None:
    taken = []

    def shards() -> Iterator[int]:
        for shard in [*range(15), -1, *range(16, 30)]:
            taken.append(shard)
            yield shard

    found: dict[int, int] = {}
    with pytest.raises(InputError, match=r"-1: a shard is wrong") as caught:
        for number, result in local.map(square, shards(), state=Opened(tmp_path)):
            assert number not in found and len(taken) <= len(found) + 2 * 2 + 2, "at most two shards an actor wait"
            found[number] = result
    assert found == {number: number**2 for number in range(30) if number != 15}
    assert caught.value.remedy == "Mend it."
    opened, worked, closed = (
        {one.name[7:] for one in tmp_path.glob(f"{it}-*")} for it in ("opened", "worked", "closed")
    )
    assert worked and worked <= closed <= opened, "one that still opens at the end may be ended in the middle of it"
    assert len(opened) <= 2 and str(os.getpid()) not in opened
    assert list(local.map(square, [], state=Opened(tmp_path))) == []


@pytest.mark.slow
def test_workers_survive_what_shards_do(local: Ray, tmp_path: Path) -> None:
    assert dict(local.map(square, [1, -5, 2], state=Opened(tmp_path))) == {0: 1, 1: 25, 2: 4}, "-5 kills a worker once"
    with pytest.raises(InputError, match=r"^no model$"):
        list(local.map(square, [1, 2, 3], state=Opened(tmp_path, "no model")))
    with pytest.raises(RuntimeError, match="by a bug"):
        list(local.map(square, [-2], state=Opened(tmp_path)))


@pytest.mark.slow
def test_a_shard_that_always_kills_its_worker_is_named(local: Ray, tmp_path: Path) -> None:
    results: dict[int, int] = {}
    with pytest.raises(EmbedfitError, match=r"^-3: a worker of the Ray cluster ended in the middle .*, 3 times"):
        results.update(local.map(square, [1, -3, 2, 3], state=Opened(tmp_path)))
    assert results == {0: 1, 2: 4, 3: 9}
    assert 2 <= (tmp_path / "begun--3").stat().st_size <= 3, "the first worker may have ended before it began"


@pytest.mark.slow
def test_who_has_seen_enough_waits_for_nobody(local: Ray, tmp_path: Path) -> None:
    results = local.map(square, [1, -4], state=Opened(tmp_path))
    assert next(results) == (0, 1)
    results.close()


@pytest.mark.parametrize("rest", ["", "local,0", "auto,many", ",2"])
def test_a_wrong_cluster_says_the_right_form(rest: str) -> None:
    with pytest.raises(UsageError, match="names no Ray cluster") as caught:
        open_executor(f"ray:{rest}")
    assert "--ray local" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus", "gpus", "expected"),
    [
        ([{"CPU": 2.0}], 2, 1, 0, (2, 1, 0)),
        ([{"CPU": 16.0}], 2, 1, 0, (2, 8, 0)),
        ([{"CPU": 0.0}, {"CPU": 8.0}, {"CPU": 8.0}], None, 4, 1, (4, 4, 0)),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 64.0}], None, 4, 1, (2, 4, 1)),
        ([{"CPU": 2.0}], None, 4, 0, (1, 2, 0)),
        ([{"CPU": 4.0}, {"CPU": 4.0}], 1, 1, 0, (1, 4, 0)),
        ([{"CPU": 16.0}] * 3, 4, 1, 0, (4, 8, 0)),
        ([{"CPU": 16.0, "GPU": 1.0}, {"CPU": 32.0, "GPU": 3.0}, {"CPU": 64.0}], 4, 1, 1, (4, 10, 1)),
        ([{"CPU": 8.0, "GPU": 2.0}], 3, 1, 1, (3, 4, 1)),
        ([], None, 4, 0, (1, 1, 0)),
    ],
)
def test_workers_fill_a_cluster(
    nodes: list[dict[str, float]], workers: int | None, cpus: int, gpus: float, expected: tuple[int, int, float]
) -> None:
    alive: list[dict[str, Any]] = [{"Alive": True, "Resources": one} for one in nodes]
    lost = {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}}
    count, needs = _room([*alive, lost], workers, cpus, gpus)
    assert (count, needs["num_cpus"], needs["num_gpus"]) == expected


@pytest.mark.parametrize(
    ("hosts", "gpus", "local_ranks", "local_sizes"),
    [
        ("a", 0, "0", "1"),
        ("ababb", 0, "00112", "23233"),
        ("abb", 1, "000", "122"),
    ],
)
def test_each_worker_is_told_its_place_as_by_torchrun(
    hosts: str, gpus: float, local_ranks: str, local_sizes: str
) -> None:
    told = _environments([(host, 1000 + number) for number, host in enumerate(hosts)], gpus)
    assert [one["RANK"] for one in told] == [str(rank) for rank in range(len(hosts))]
    assert "".join(one["LOCAL_RANK"] for one in told) == local_ranks
    assert "".join(one["LOCAL_WORLD_SIZE"] for one in told) == local_sizes
    assert {(one["MASTER_ADDR"], one["MASTER_PORT"], one["WORLD_SIZE"]) for one in told} == {
        ("a", "1000", str(len(hosts)))
    }


@pytest.mark.slow
def test_workers_that_work_together_meet_and_are_heard(local: Ray, tmp_path: Path) -> None:
    """Three on a cluster of two cores: as many as were asked for, or none."""
    said = sorted(local.together("tests.scale.work:meet", (str(tmp_path), ""), 3))
    assert said == ["0 of 3, here 0 of 3", "1 of 3, here 1 of 3", "2 of 3, here 2 of 3"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        ("row", InputError, "^a row is wrong\n  Mend it.$"),
        ("killed", EmbedfitError, "^Worker 2 of 2 that work together on the Ray cluster has ended"),
        ("bug", RuntimeError, "by a bug"),
    ],
)
def test_one_that_fails_ends_the_others_and_is_named(
    local: Ray, tmp_path: Path, fault: str, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        list(local.together("tests.scale.work:meet", (str(tmp_path), fault), 2))
    until = time.monotonic() + 100
    while any(psutil.pid_exists(int(one.read_text())) for one in tmp_path.glob("came-*")):
        assert time.monotonic() < until, "no worker is left behind"
        time.sleep(0.1)


def test_one_way_to_train_on_several_machines() -> None:
    with pytest.raises(UsageError, match="--ray and --nodes are two ways") as caught:
        runtime_for(ray="auto", nodes="2@10.0.0.5:29500", processes=2)
    assert "--nproc" in (caught.value.remedy or "")


def test_ray_and_workers_name_one_executor() -> None:
    here, there = executor_for("inline", "auto"), executor_for("3", "10.0.0.1:6379")
    assert isinstance(here, Ray) and (here.address, here.workers) == ("auto", None)
    assert isinstance(there, Ray) and (there.address, there.workers) == ("10.0.0.1:6379", 3)
    assert isinstance(executor_for("inline", None), Inline) and isinstance(executor_for("2", None), Processes)
    with pytest.raises(UsageError, match="two places to work in"):
        executor_for("processes:2", "local")


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_an_error_for_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    pytest.importorskip("ray").shutdown()
    with pytest.raises(InputError, match=r"no Ray cluster at 'auto'") as caught:
        list(Ray("auto").map(square, [1], state=Opened(tmp_path)))
    assert "ray start --head" in (caught.value.remedy or "")
