"""Executors: the same results here, in processes, and where a stranger's plug-in takes the work."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedfit import plugins
from embedfit.errors import EmbedfitError, InputError, MissingDependency, UsageError
from embedfit.files.textfiles import toml_of
from embedfit.scale.executor import GROUP, Executor, open_executor
from embedfit.scale.inline import Inline
from embedfit.scale.processes import Processes
from embedfit.scale.queue import MOST_FAILED
from tests.plug_in import install
from tests.scale.work import Opened, square

EXECUTORS = pytest.mark.parametrize("executor", [Inline(), Processes(2)], ids=["inline", "processes"])


@EXECUTORS
def test_every_shard_is_done_once(executor: Executor, tmp_path: Path) -> None:
    taken, told = [], []
    found = {}

    def shards():
        for shard in range(40):
            taken.append(shard)
            yield shard

    work = executor.map(square, shards(), state=Opened(tmp_path), tell=lambda *one: told.append(one))
    for number, result in work:
        assert number not in found and len(taken) <= len(found) + 3, "shards are taken as they are needed"
        found[number] = result
    assert found == {number: number**2 for number in range(40)}
    assert sorted(told) == [(number, 0.5) for number in range(40)]
    opened, closed = ({one.name[7:] for one in tmp_path.glob(f"{name}-*")} for name in ("opened", "closed"))
    assert opened == closed and 1 <= len(opened) <= 2


@EXECUTORS
def test_no_shard_is_no_work(executor: Executor, tmp_path: Path) -> None:
    assert list(executor.map(square, [], state=Opened(tmp_path))) == []
    assert not list(tmp_path.iterdir()), "nobody opened what nobody needs"


def outcome(executor: Executor, folder: Path, shards: list[int]) -> tuple[list[int], BaseException]:
    """The results of a map that fails, and its error."""
    results = []
    with pytest.raises(Exception) as caught:
        results.extend(result for _, result in executor.map(square, shards, state=Opened(folder)))
    return sorted(results), caught.value


@EXECUTORS
def test_an_error_names_its_shard_and_lets_the_others_finish(executor: Executor, tmp_path: Path) -> None:
    results, error = outcome(executor, tmp_path, [1, -1, 3, -6, 4])
    assert results == [1, 9, 16] and isinstance(error, InputError | MissingDependency)
    assert {"-1", "-6"} == {error.message.split(":")[0], error.message.split("more failed: ")[1].rstrip(")")}
    results, error = outcome(executor, tmp_path, [1, -1, 3])
    assert results == [1, 9] and error.message == "-1: a shard is wrong" and error.remedy == "Mend it."
    results, error = outcome(executor, tmp_path, [1, -2, 3])
    assert results == [1, 9] and isinstance(error, ZeroDivisionError | RuntimeError) and "by a bug" in str(error)


@EXECUTORS
def test_many_failures_end_everything(executor: Executor, tmp_path: Path) -> None:
    _, error = outcome(executor, tmp_path, [-1] * 100)
    assert f"({MOST_FAILED - 1} more failed" in error.message
    assert (tmp_path / "begun--1").stat().st_size <= MOST_FAILED + 1


@EXECUTORS
def test_a_state_that_does_not_open_ends_everything(executor: Executor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^no model$"):
        list(executor.map(square, [1, 2, 3], state=Opened(tmp_path, "no model")))


def test_a_killed_worker_is_replaced_and_its_shard_done_again(tmp_path: Path) -> None:
    found = dict(Processes(2).map(square, [1, -5, 2, 3], state=Opened(tmp_path)))
    assert found == {0: 1, 1: 25, 2: 4, 3: 9}


def test_a_shard_that_always_kills_its_worker_is_named(tmp_path: Path) -> None:
    results, error = outcome(Processes(2), tmp_path, [1, -3, 2, 3])
    assert results == [1, 4, 9] and isinstance(error, EmbedfitError)
    assert error.message.startswith("-3: a worker process ended in the middle of its work (exit code -9), 3 times")
    assert "--workers 1" in (error.remedy or "") and (tmp_path / "begun--3").stat().st_size == 3


def test_who_has_seen_enough_waits_for_nobody(tmp_path: Path) -> None:
    results = Processes(2).map(square, [1, -4], state=Opened(tmp_path))
    assert next(results) == (0, 1)
    results.close()


def test_ours_come_in_by_the_door_that_others_use() -> None:
    listed = toml_of(Path(__file__).parents[2] / "pyproject.toml")["project"]["entry-points"][GROUP]
    assert plugins.places(GROUP) == listed
    assert isinstance(open_executor("inline"), Inline)
    four, three = open_executor("4"), open_executor("processes:3")
    assert isinstance(four, Processes) and isinstance(three, Processes) and (four.count, three.count) == (4, 3)


@pytest.mark.parametrize("spec", ["0", "processes:", "processes:many", "processes:99999"])
def test_a_wrong_number_says_the_right_form(spec: str) -> None:
    with pytest.raises(UsageError, match="no number of processes") as caught:
        open_executor(spec)
    assert "processes:4" in (caught.value.remedy or "")


PLUG_IN = """
from embedfit.scale.executor import ExecutorKind


class Backwards:
    def map(self, function, shards, *, state, cpus=1, gpus=0, tell=None):
        with state as opened:
            for number, shard in reversed(list(enumerate(shards))):
                yield number, function(opened, shard, lambda share: None)


EXECUTOR = ExecutorKind(form="backwards", open=lambda rest: Backwards())
"""


def test_a_plug_in_takes_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, PLUG_IN, "backwards = stranger:EXECUTOR", monkeypatch, group=GROUP)
    done = open_executor("backwards").map(square, [1, 2, 3], state=Opened(tmp_path))
    assert list(done) == [(2, 9), (1, 4), (0, 1)]
    with pytest.raises(UsageError, match=r"no 'dask' among the executors") as caught:
        open_executor("dask:auto")
    assert "backwards, inline, processes" in (caught.value.remedy or "")
