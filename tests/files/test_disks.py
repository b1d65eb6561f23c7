"""Full, read-only and impossible places: one message with a remedy, whatever a library raises."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from embedfit.errors import EmbedfitError
from embedfit.files.atomic import atomic_file, atomic_folder
from embedfit.llm.ledger import Ledger
from embedfit.models.folder import read_tensors, save_model
from embedfit.models.layout.reading import read_architecture
from embedfit.models.store.files import encode_file
from embedfit.models.store.vectors import VectorStore
from embedfit.progress import Silent
from embedfit.training.checkpoint import TrainingState, save_checkpoint

FULL = (
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    sqlite3.OperationalError("database or disk is full"),
    RuntimeError("PytorchStreamWriter failed writing file data: No space left on device"),
)


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("writer", [atomic_file, atomic_folder])
def test_a_full_disk_is_a_message(tmp_path: Path, error: Exception, writer: Callable[[Path], Any]) -> None:
    with pytest.raises(EmbedfitError, match=r"disk that holds .*out is full") as caught, writer(tmp_path / "out"):
        raise error
    assert "Free some space" in str(caught.value.remedy)
    assert list(tmp_path.iterdir()) == [], "nothing half-written is kept"


def test_other_failures_are_not_taken_for_it(tmp_path: Path) -> None:
    for error in (ValueError("no room"), FileNotFoundError(errno.ENOENT, "gone", "/some/document.txt"), KeyError("x")):
        with pytest.raises(type(error)), atomic_file(tmp_path / "out"):
            raise error


def test_a_checkpoint_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimiser = torch.optim.AdamW([weight])
    save_checkpoint(tmp_path, TrainingState(step=1, settings={}), {"w": weight}, optimiser, {})

    def full(*_: object, **__: object) -> None:
        raise FULL[2]

    monkeypatch.setattr("embedfit.training.checkpoint.save_file", full)
    with pytest.raises(EmbedfitError, match="is full"):
        save_checkpoint(tmp_path, TrainingState(step=2, settings={}), {"w": weight}, optimiser, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"], "the one before is whole and stays"


@pytest.mark.parametrize("home", ["/proc/none", "/dev/null/home"])
def test_no_home_is_a_message(tmp_path: Path, home: str) -> None:
    if not Path(home.rsplit("/", 1)[0]).exists():
        pytest.skip(f"there is no {home.rsplit('/', 1)[0]} here")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "EMBEDFIT_"))}
    script = tmp_path / "use.py"
    script.write_text(
        "import sys\n"
        "from embedfit.errors import EmbedfitError\n"
        "from embedfit.llm.ledger import Ledger\n"
        "from embedfit.runtime import cache_folder, default_ledger\n"
        "from embedfit.files.atomic import atomic_file\n"
        "def write():\n"
        "    with atomic_file(cache_folder() / 'x'):\n"
        "        pass\n"
        "for use in (lambda: Ledger(default_ledger()), write):\n"
        "    try:\n"
        "        use()\n"
        "    except EmbedfitError as error:\n"
        "        assert 'written' in error.message and '--ledger' in error.remedy, str(error)\n"
        "    else:\n"
        "        sys.exit('it worked')\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], env={**environment, "HOME": home}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "embedfit", "ledger", "list"], env={**environment, "HOME": home},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.name != "posix" or os.geteuid() != 0:
        pytest.skip("a small disk takes root")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], check=False)
    if done.returncode:
        pytest.skip("no disk may be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)  # a failed write's connection may not be collected yet


def test_everything_that_writes_says_so_on_a_disk_that_is_really_full(
    small_disk: Path, tmp_path: Path, tiny_bert: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"tv {number}\n" for number in range(4000)))
    weight = torch.nn.Parameter(torch.ones(400, 400))
    optimiser = torch.optim.AdamW([weight])

    class Embedder:
        name, key, instruction, storage = "fake", "k" * 40, "", "shared"

        def embed(self, texts: list[str], *, is_query: bool) -> np.ndarray:
            return np.ones((len(texts), 64), np.float32)

        def release(self) -> None:
            pass

    def ledger() -> None:
        (small_disk / "filler").write_bytes(b"x" * 200_000)
        try:
            Ledger(small_disk / "ledger.sqlite").close()
        finally:
            (small_disk / "filler").unlink()

    def model() -> None:
        with atomic_folder(small_disk / "merged") as folder:
            save_model(folder, {**read_tensors(tiny_bert), "more": weight.detach()}, base=tiny_bert,
                       layout=read_architecture(tiny_bert))  # fmt: skip

    writers: dict[str, Callable[[], object]] = {
        "encode": lambda: encode_file(str(tiny_bert), texts, small_disk / "v.npy", is_query=False, report=Silent()),
        "checkpoint": lambda: save_checkpoint(
            small_disk / "scratch", TrainingState(step=1, settings={}), {"w": weight}, optimiser, {}
        ),
        "merge": model,
        "ledger": ledger,
        "vectors": lambda: VectorStore(small_disk / "vectors").embed(
            Embedder(), [f"text {number}" for number in range(3000)], is_query=False
        ),
    }
    for name, write in writers.items():
        with pytest.raises(EmbedfitError, match="full"):
            write()
            pytest.fail(f"{name} was written")
        shutil.rmtree(small_disk / "vectors", ignore_errors=True)
        left = [path for path in small_disk.rglob("*") if path.is_file() and not path.name.startswith("ledger")]
        assert left == [], f"{name} left something"
