"""The benchmark of scale, at a size at which it measures nothing but shows that it works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "scale.py"
STAGES = {"ingest", "encode", "mine", "index", "evaluate"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_stage_and_the_search_are_measured_and_kept(tmp_path: Path) -> None:
    out, keep = tmp_path / "scale.json", tmp_path / "keep"
    command = [
        sys.executable, str(SCRIPT), "--sizes", "90", "45", "--rows", "2000", "--queries", "60",
        "--keep", str(keep), "--out", str(out),
    ]  # fmt: skip

    def measure(*options: str) -> dict:
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=1000, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        written = json.loads(out.read_text("utf-8"))
        assert json.loads(done.stdout) == written
        return written

    first = measure()
    assert list(first["sizes"]) == ["45", "90"]
    for size, stages in first["sizes"].items():
        assert set(stages) == STAGES | {"disk"}
        for stage in STAGES:
            assert stages[stage]["seconds"] > 0 and stages[stage]["processor_seconds"] > 0
            assert stages[stage]["own_bytes"] >= 0
        lines = (keep / size / "run" / "passages.jsonl").read_text("utf-8").splitlines()
        assert len(lines) == int(size) and stages["disk"]["index_bytes"] > 0
    assert set(first["growth"]) == STAGES
    assert all((one["from"], one["to"]) == (45, 90) for (one,) in first["growth"].values())
    search = first["search"]
    assert search["same_result"] and search["inline"]["rows"] == 2000 and search["inline"]["queries"] == 60
    assert search["workers"]["processes"]["queries"] == 15 and search["workers"]["processes"]["two_against_one"] > 0
    assert search["share_of_product"] > 0 and search["ten_million_rows_hours"] > 0
    assert {"versions", "hardware"} < first.keys()
    assert measure("--rows", "0")["sizes"] == first["sizes"], "what is kept is not measured again"
