"""docs/tutorial.md, from its first block to its last, as a reader does it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "tutorial.md"


def done(words: list[str], folder: Path) -> str:
    """What a command prints. It has succeeded."""
    environment = {**os.environ, "EMBEDFIT_HOME": str(folder / "home"), "COLUMNS": "200"}
    ran = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=1500, env=environment)
    assert ran.returncode == 0, f"{shlex.join(words)}\n{ran.stderr}"
    return ran.stdout


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_block_of_the_tutorial_works(tmp_path: Path, minilm: Path) -> None:
    printed: dict[str, str] = {}
    for block in blocks(PAGE):
        if block.skipped:
            continue
        if block.language == "python":
            done([sys.executable, "-c", block.text], tmp_path)
            continue
        assert block.language == "bash", f"{block}: say what it is"
        for line in block.text.splitlines():
            command, *words = shlex.split(line)
            assert command == "embedfit", f"{block}: {line}"
            printed[line] = done([sys.executable, "-m", "embedfit", *words], tmp_path)
    first = printed['embedfit search --index runs/first "how do I repeat something until a condition is false"']
    assert "while" in first.lower()
    found = json.loads(printed['embedfit search --run runs/tuned --json "what does yield do"'])
    assert len(found["hits"]) == 5
    assert (tmp_path / "runs" / "tuned" / "report.html").exists()
