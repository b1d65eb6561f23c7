"""embedfit export of a model of two towers."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from embedfit.cli.main import app
from embedfit.errors import ModelError
from embedfit.models.layout.golden import write_golden
from embedfit.testing.tiny_model import make_tiny_bert
from tests.models.tiny_towers import save_mapped, save_tuned


def test_each_tower_gets_its_graph(tmp_path: Path) -> None:
    folder = save_tuned(make_tiny_bert(tmp_path / "base"), tmp_path)
    done = CliRunner().invoke(app, ["export", str(folder), "--onnx"])
    assert done.exit_code == 0, done.output
    graphs = [folder / role / "onnx" / "model.onnx" for role in ("document", "query")]
    assert [line for line in done.stdout.splitlines() if line] == [str(path) for path in graphs]
    assert graphs[0].read_bytes() != graphs[1].read_bytes()
    assert not (folder / "onnx").exists()


def test_a_map_gets_no_graph_that_would_leave_it_out(tmp_path: Path) -> None:
    folder = save_mapped(make_tiny_bert(tmp_path / "base"), tmp_path)
    done = CliRunner().invoke(app, ["export", str(folder), "--onnx"])
    assert done.exit_code != 0 and isinstance(done.exception, ModelError)
    assert "leave out the folder's Dense" in done.exception.message
    assert (folder / "document" / "onnx" / "model.onnx").exists() and not (folder / "query" / "onnx").exists()


def test_a_graph_is_proved_by_golden_vectors_and_a_changed_folder_gets_none(tmp_path: Path) -> None:
    folder = make_tiny_bert(tmp_path / "model", pooling="mean")
    write_golden(folder)
    assert CliRunner().invoke(app, ["export", str(folder), "--onnx"]).exit_code == 0
    (folder / "onnx" / "model.onnx").unlink()
    path = folder / "1_Pooling" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pooling_mode": "max"}))
    done = CliRunner().invoke(app, ["export", str(folder), "--onnx"])
    assert isinstance(done.exception, ModelError) and "DIFFER" in done.exception.message
    assert not (folder / "onnx" / "model.onnx").exists()
