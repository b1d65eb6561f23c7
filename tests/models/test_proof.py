"""embedfit doctor MODEL: what it shows, and that it finds a vector that differs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from embedfit.cli.main import app
from embedfit.models.encoder import Encoder
from embedfit.models.layout.proof import compare_with_sentence_transformers
from tests.models.tiny_families import save_family, two_dense


def test_modules_and_prompts_are_shown(tiny_bert: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", str(tiny_bert)])
    assert done.exit_code == 0
    for part in ("1. Transformer", "2. Pooling: modes cls", "3. Norm", "queries:  'query: '", "folder's own"):
        assert part in done.stdout


def test_the_comparison_passes_and_says_so(tmp_path: Path) -> None:
    folder = save_family("bert", tmp_path / "model", after=two_dense, prompts={"query": "q: "}, include_prompt=False)
    done = CliRunner().invoke(app, ["doctor", str(folder), "--against", "sentence-transformers", "--json"])
    told = json.loads(done.stdout[done.stdout.index("{") :])
    assert done.exit_code == 0 and told["comparison"]["same"] is True
    assert told["modules"][2].startswith("Dense in 2_Dense/")


def test_the_module_that_differs_is_named(tmp_path: Path) -> None:
    folder = save_family("bert", tmp_path / "model")
    other = shutil.copytree(folder, tmp_path / "other")
    pooling = other / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({**json.loads(pooling.read_text()), "pooling_mode": "mean"}))
    encoder = Encoder.load(other, precision="fp32")
    encoder.folder = folder
    found = compare_with_sentence_transformers(encoder)
    assert not found.same and "Pooling" in found.differs and found.least_cosine < 0.999


@pytest.mark.parametrize("arguments", [["--against", "sentence-transformers"], ["MODEL", "--against", "nothing"]])
def test_what_can_not_be_compared_is_an_error(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, ["doctor", *arguments]).exit_code != 0
