"""The package as people install it: a wheel in an environment of its own, with no source beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedfit of an environment that holds the wheel; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    install = [sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, timeout=300)
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "embedfit"


def outside() -> dict[str, str]:
    """The environment without the paths that would find the source."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def test_wheel_and_source_hold_every_file_of_the_package(built: Path) -> None:
    source = ROOT / "src"
    ours = {
        path.relative_to(source).as_posix()
        for path in (source / "embedfit").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    (wheel,), (archive,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as inside:
        assert ours <= set(inside.namelist())
    with tarfile.open(archive) as inside:
        names = {name.partition("/")[2] for name in inside.getnames()}
    assert {f"src/{one}" for one in ours} <= names


def test_the_wheel_s_demo_begins_with_the_retriever_without_training(
    installed: Path, minilm: Path, tmp_path: Path
) -> None:
    command = [installed, "demo", "--untrained", "--run", tmp_path / "run"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=1100, check=False, cwd=tmp_path, env=outside()
    )
    assert done.returncode == 0, done.stderr
    assert "Without training, embedfit's retriever finds more than one vector" in done.stderr
    assert f"{installed} index DOCS..." in done.stdout
    where = subprocess.run(
        [installed.with_name("python"), "-c", "import embedfit; print(embedfit.__file__)"],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=outside(),
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(installed.parents[1])
