"""A kill at any step of writing a folder loses nothing, and the next run of the folder leaves nothing of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from embedfit.files.atomic import atomic_file, atomic_folder, is_temporary, sweep
from embedfit.path.workspace import Workspace

#: Writes a folder over an older one and is killed before its nth step.
_KILLED = """
import os, shutil, sys
from pathlib import Path
from embedfit.files.atomic import atomic_folder

target, step = Path(sys.argv[1]), int(sys.argv[2])
count = 0

def counted(real):
    def call(*arguments, **options):
        global count
        if count == step:
            os._exit(9)
        count += 1
        return real(*arguments, **options)
    return call

Path.replace, Path.mkdir, os.fsync, shutil.rmtree = map(counted, (Path.replace, Path.mkdir, os.fsync, shutil.rmtree))
with atomic_folder(target) as folder:
    (folder / "weights").write_text("new")
    (folder / "config").write_text("new")
"""


def killed_at(target: Path, step: int) -> bool:
    """Whether the process was killed: there are so many steps."""
    done = subprocess.run([sys.executable, "-c", _KILLED, str(target), str(step)], check=False, timeout=120)
    assert done.returncode in (0, 9)
    return done.returncode == 9


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_kill_at_every_step_leaves_one_whole_folder(tmp_path: Path) -> None:
    states = []
    for step in range(30):
        run = tmp_path / str(step)
        (run / "merged").mkdir(parents=True)
        for name in ("weights", "config"):
            (run / "merged" / name).write_text("old")
        if not killed_at(run / "merged", step):
            break
        states.append(frozenset(name for name in everything(run) if is_temporary(name.split("/")[0])))
        with Workspace(run).lock():
            pass
        assert everything(run) == {".lock", "merged", "merged/weights", "merged/config"}, step
        assert len({(run / "merged" / name).read_text() for name in ("weights", "config")}) == 1, step
    assert len(states) >= 5, "the kills hit each step: making, flushing, moving aside, moving in, removing"
    aside = [one for one in states if any(name.endswith(".old") for name in one)]
    assert any(any(name.endswith(".tmp") for name in one) for one in aside), "one hits between the two moves"


def test_leftovers_deep_in_the_run_and_of_files_go_too(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    process = int(dead.stdout)
    for name in ("", ".partial/train", "merged", "eval/qrels"):
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".half.json.{process}.tmp").write_text("{")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / f".half.{process}.tmp").write_text("the user's own")
    with Workspace(tmp_path).lock():
        pass
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if is_temporary(path.name)}
    assert left == {f"mine/.half.{process}.tmp"}


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / f".merged.{os.getppid()}.tmp"
    theirs.mkdir()
    with atomic_folder(tmp_path / "finetuned") as own, atomic_file(tmp_path / "x.json") as file:
        file.write("1")
        with Workspace(tmp_path).lock():
            assert own.exists() and theirs.exists()
    assert (tmp_path / "x.json").read_text() == "1" and (tmp_path / "finetuned").is_dir()


def test_in_a_container_each_process_may_have_the_same_number(tmp_path: Path) -> None:
    (tmp_path / f".merged.{os.getpid()}.tmp").mkdir()
    old = tmp_path / f".eval.{os.getpid()}.old"
    old.mkdir()
    (old / "corpus.jsonl").write_text("whole")
    with Workspace(tmp_path).lock():
        assert everything(tmp_path) == {".lock", "eval", "eval/corpus.jsonl"}


def test_a_folder_outside_of_runs_is_swept_when_it_is_written_again(tmp_path: Path) -> None:
    left = tmp_path / f".model.{os.getpid()}.tmp"
    left.mkdir()
    (left / "half").write_text("x")
    other = tmp_path / f".another.{os.getpid()}.tmp"
    other.mkdir()
    with atomic_folder(tmp_path / "model") as folder:
        assert not (folder / "half").exists()
    assert everything(tmp_path) == {"model", other.name}


@pytest.mark.parametrize("name", [".a.1.tmp", ".a.b.99999999999999999999.old", ".a\n.1.tmp"])
def test_any_number_is_only_a_number(tmp_path: Path, name: str) -> None:
    assert is_temporary(name)
    (tmp_path / name).write_text("x")
    sweep(tmp_path)
    sweep(tmp_path / "nowhere")
