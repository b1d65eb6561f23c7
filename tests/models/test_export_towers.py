"""embedfit export of a model of two towers."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from embedfit.cli.main import app
from embedfit.errors import ModelError
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
