"""A file's hash is that of its present content, however often it was read before."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from embedfit.files import hashes

LARGE = b"embedfit" * 40_000


def test_a_large_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    real = hashes._sha256
    monkeypatch.setattr(hashes, "_sha256", lambda path: read.append(path) or real(path))
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    assert hashes.sha256_file(path) == hashes.sha256_file(path) == hashlib.sha256(LARGE).hexdigest()
    assert len(read) == 2  # it may change again within a tick of the disk's clock
    monkeypatch.setattr(hashes, "_TICK_NS", 0)
    for _ in range(3):
        assert hashes.sha256_file(path) == hashlib.sha256(LARGE).hexdigest()
    assert len(read) == 3
    times = path.stat()
    time.sleep(0.02)  # longer than a tick
    path.write_bytes(LARGE[::-1])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a copy with its times
    assert hashes.sha256_file(path) == hashlib.sha256(LARGE[::-1]).hexdigest()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        hashes.sha256_file(path)
