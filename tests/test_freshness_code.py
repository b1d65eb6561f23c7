"""A stage's version is raised when its results change: nobody retrains at a patch, and nobody keeps old results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from embedfit.path.stages import EVERY
from tests import stage_code


def test_no_stage_s_code_changed_unsaid() -> None:
    record, now = json.loads(stage_code.RECORD.read_text("utf-8")), stage_code.present()
    left = stage_code.unsaid(record, now)
    assert not left, "\n".join(["The code of these stages changed:", *left, "", stage_code.__doc__ or ""])
    assert record == now, "The record is not that of this code. Run: python -m tests.stage_code"


def test_a_changed_module_is_told_of_every_stage_that_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = stage_code.present()
    before = {"versions": now["versions"], "code": {**now["code"], "retrieval.bm25": "another"}}
    told = stage_code.unsaid(before, now)
    assert {line.split(" ")[0] for line in told} >= {"generate", "merge", "evaluate"}
    raised = tuple(replace(stage, version=stage.version + 1) for stage in EVERY)
    monkeypatch.setattr(stage_code, "EVERY", raised)
    assert stage_code.unsaid(before, now) == []


def test_comments_docstrings_and_layout_do_not_count(tmp_path: Path) -> None:
    def of(text: str) -> str:
        path = tmp_path / "module.py"
        path.write_text(text)
        return stage_code.fingerprint(path)

    plain = of("def f(x):\n    return x + 1\n")
    assert of('"""A module."""\n# why\ndef f(x):\n    """What."""\n    return (x +\n        1)\n') == plain
    assert of("def f(x):\n    return x + 2\n") != plain
    assert of("def f(x):\n    return x + True\n") != plain
    assert of("X = 'a'\n") != of("X = 'b'\n")


def test_what_decides_a_stage_reaches_beyond_its_package() -> None:
    known = stage_code.modules()
    found = stage_code.behind("embedfit.merging.stage", known)
    assert {"merging.gate", "models.encoder", "retrieval.bm25", "files.flagembedding"} <= found
    assert not found & {"progress", "path.workspace", "queries.stage"}
    assert "reporting/templates/report.html.j2" in stage_code.behind("embedfit.reporting.stage", known)
