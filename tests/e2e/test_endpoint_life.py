"""The example of docs/deploy.md does what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_example_goes_through_an_endpoints_whole_life(minilm):
    done = subprocess.run(
        [sys.executable, "examples/endpoint_life.py", str(minilm)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert "sagemaker.create_endpoint_config" in said
    assert "up to 4 instances" in said
    assert "agrees: True" in said
    assert "Screen Mirroring" in said.split("6. search from LangChain")[1].splitlines()[1]
    assert said.rstrip().endswith("deployments left: 0")
