"""Fixtures shared by all tests: data, models, a user folder of their own."""

from __future__ import annotations

import itertools
import os

# Threads that wait for others of their step give the processor away: two test runs on one machine stay quick.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from embedfit.config import Config, load
from embedfit.errors import ModelError
from embedfit.models.sources import resolve_model
from embedfit.path.workspace import Workspace
from embedfit.testing.run_folder import build_run
from embedfit.testing.tiny_model import make_tiny_bert as make_tiny_bert

# A slow machine is no failure: no test measures time.
settings.register_profile("embedfit", deadline=None, derandomize=True)
# `make test-all` draws other inputs each time, and so goes on looking.
settings.register_profile("random", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "embedfit"))

ROOT = Path(__file__).resolve().parents[1]
_HOMES = itertools.count()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real corpora, where they are."""
    folder = Path(os.environ.get("EMBEDFIT_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("the real corpora are not here (set EMBEDFIT_DATA)")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    try:
        return resolve_model("minilm")
    except ModelError as error:
        pytest.skip(f"MiniLM can't be had: {error.message}")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch in one thread: tiny tensors are slower in two, and their number decides the last bit of a vector."""
    import torch  # slow, and most tests do without

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _own_user_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may touch the user's ledger or vectors. Thousands of tests make no folder, so none is made for them."""
    monkeypatch.setenv("EMBEDFIT_HOME", str(tmp_path_factory.getbasetemp() / f"home-{next(_HOMES)}"))


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT, CLS pooling, with a query instruction: the layout of BGE."""
    return make_tiny_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool, bool], Path]:
    """A function that gives a folder with a whole run of the stages, made once for all tests. See build_run.

    Processes that test at the same time share it: the first that needs it makes it.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    @cache
    def build(human: bool, ship: bool) -> Path:
        folder = root / f"finished-run-{human}-{ship}"
        made = folder.with_suffix(".made")
        with FileLock(folder.with_suffix(".lock")):
            if not made.exists():
                folder.mkdir()
                build_run(folder, human=human, ship=ship)
                made.touch()
        return folder

    return build


@pytest.fixture
def run_copy(finished_run: Callable[[bool, bool], Path], tmp_path: Path) -> Callable[..., tuple[Workspace, Config]]:
    """A function that gives a copy of such a run, to change: in tmp_path/NAME/run."""

    def copy(name: str = "made", *, human: bool = True, ship: bool = True) -> tuple[Workspace, Config]:
        folder = shutil.copytree(finished_run(human, ship), tmp_path / name)
        return Workspace(folder / "run"), load(folder / "run" / "embedfit.toml")

    return copy
