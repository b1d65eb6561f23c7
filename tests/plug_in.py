"""A stranger's package, as pip would leave it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def install(
    folder: Path, code: str, entry: str, monkeypatch: pytest.MonkeyPatch, *, group: str, name: str = "stranger"
) -> None:
    """A package `name` with one module, stranger.py, and one entry point."""
    (folder / "stranger.py").write_text(code, "utf-8")
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
