"""The wheel of this installation, and the program that installs it."""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from embedfit.deploy.jobs.wheel import own_wheel


def test_the_wheel_is_whole_and_the_same_each_time() -> None:
    name, content = own_wheel()
    assert own_wheel() == (name, content)
    archive = zipfile.ZipFile(io.BytesIO(content))
    names = archive.namelist()
    assert {"embedfit/cli/main.py", "embedfit/py.typed", "embedfit/config/presets.toml"} <= set(names)
    assert not [one for one in names if one.endswith(".pyc") or "__pycache__" in one]
    record = next(one for one in names if one.endswith("RECORD"))
    for line in archive.read(record).decode().splitlines():
        file, digest, size = line.split(",")
        if digest:
            found = archive.read(file)
            want = base64.urlsafe_b64encode(hashlib.sha256(found).digest()).rstrip(b"=").decode()
            assert (digest, size) == (f"sha256={want}", str(len(found)))


@pytest.mark.slow
def test_pip_installs_it_and_it_runs(tmp_path: Path) -> None:
    name, content = own_wheel()
    (tmp_path / name).write_bytes(content)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path / "site")]
    subprocess.run([*pip, str(tmp_path / name)], check=True, timeout=300)
    code = "import embedfit; from embedfit.generators import generators; print(embedfit.__file__); print(*generators())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    where, kinds = done.stdout.splitlines()
    assert where.startswith(str(tmp_path)) and "bedrock" in kinds
