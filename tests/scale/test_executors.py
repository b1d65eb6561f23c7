"""Executors: the same results here, in processes, and where a stranger's plug-in takes the work."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from embedfit import plugins
from embedfit.errors import EmbedfitError, InputError, UsageError
from embedfit.files.textfiles import toml_of
from embedfit.scale.executor import GROUP, Executor, open_executor
from embedfit.scale.inline import Inline
from embedfit.scale.processes import Processes
from tests.plug_in import install


class Square:
    """Squares numbers, and writes down who opened and closed it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Square:
        (self.folder / f"opened-{os.getpid()}").touch()
        return self

    def __exit__(self, *error: object) -> None:
        (self.folder / f"closed-{os.getpid()}").touch()

    def __call__(self, shard: int, tell) -> int:
        tell(0.5)
        if shard == -1:
            raise InputError("a shard is wrong", remedy="Mend it.")
        if shard == -2:
            raise ZeroDivisionError("by a bug")
        if shard == -3:
            os.kill(os.getpid(), 9)
        if shard == -4:
            time.sleep(600)
        return shard**2


EXECUTORS = pytest.mark.parametrize("executor", [Inline(), Processes(2)], ids=["inline", "processes"])


@EXECUTORS
def test_every_shard_is_done_once(executor: Executor, tmp_path: Path) -> None:
    taken, told = [], []
    found = {}

    def shards():
        for shard in range(40):
            taken.append(shard)
            yield shard

    for number, result in executor.map(Square(tmp_path), shards(), lambda *one: told.append(one)):
        assert number not in found and len(taken) <= len(found) + 3, "shards are taken as they are needed"
        found[number] = result
    assert found == {number: number**2 for number in range(40)}
    assert sorted(told) == [(number, 0.5) for number in range(40)]
    opened, closed = ({one.name[7:] for one in tmp_path.glob(f"{name}-*")} for name in ("opened", "closed"))
    assert opened == closed and 1 <= len(opened) <= 2


@EXECUTORS
def test_no_shard_is_no_work(executor: Executor, tmp_path: Path) -> None:
    assert list(executor.map(Square(tmp_path), [])) == []


@EXECUTORS
def test_an_error_ends_the_work_and_arrives_whole(executor: Executor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a shard is wrong") as caught:
        list(executor.map(Square(tmp_path), [1, -1, 3]))
    assert caught.value.remedy == "Mend it."
    with pytest.raises((ZeroDivisionError, RuntimeError), match="by a bug"):
        list(executor.map(Square(tmp_path), [1, -2]))


def test_a_worker_that_is_killed_is_an_error_for_people(tmp_path: Path) -> None:
    with pytest.raises(EmbedfitError, match=r"ended in the middle of its work \(exit code -9\)") as caught:
        list(Processes(2).map(Square(tmp_path), [1, -3, 2, 3]))
    assert "--workers 1" in (caught.value.remedy or "")


def test_who_has_seen_enough_waits_for_nobody(tmp_path: Path) -> None:
    results = Processes(2).map(Square(tmp_path), [1, -4])
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
    def map(self, work, shards, tell=None):
        with work:
            for number, shard in reversed(list(enumerate(shards))):
                yield number, work(shard, lambda share: None)


EXECUTOR = ExecutorKind(form="backwards", open=lambda rest: Backwards())
"""


def test_a_plug_in_takes_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, PLUG_IN, "backwards = stranger:EXECUTOR", monkeypatch, group=GROUP)
    assert list(open_executor("backwards").map(Square(tmp_path), [1, 2, 3])) == [(2, 9), (1, 4), (0, 1)]
    with pytest.raises(UsageError, match=r"no 'ray' among the executors") as caught:
        open_executor("ray:auto")
    assert "backwards, inline, processes" in (caught.value.remedy or "")
