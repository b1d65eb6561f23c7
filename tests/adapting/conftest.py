"""A corpus with people's questions, and a frozen embedder: another tiny model than the one that teaches."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedfit.commands.adapting import adapt
from embedfit.models.store.vectors import VectorStore
from embedfit.path.artefacts import Adapted
from embedfit.runtime import Runtime
from embedfit.testing.run_folder import write_manuals
from embedfit.testing.tiny_model import make_tiny_bert


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Every test here runs torch in one thread."""


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """manuals/ (a BEIR folder, written.jsonl), log.txt and beir/ with half of its questions each, teacher/, frozen/."""
    folder = tmp_path_factory.mktemp("adapt")
    manuals = write_manuals(folder / "manuals")
    text = (manuals / "corpus.jsonl").read_text("utf-8").lower()
    words = sorted(word for word in set(re.findall("[a-z]+", text)) if len(word) > 1)
    make_tiny_bert(folder / "teacher", pooling="mean", words=words)
    make_tiny_bert(folder / "frozen", pooling="mean", words=words, seed=1)
    asked = [json.loads(line) for line in (manuals / "queries.jsonl").read_text("utf-8").splitlines()]
    (folder / "log.txt").write_text("".join(one["text"] + "\n" for one in asked[::2]), "utf-8")
    beir = folder / "beir"
    (beir / "qrels").mkdir(parents=True)
    (beir / "corpus.jsonl").write_text((manuals / "corpus.jsonl").read_text("utf-8"), "utf-8")
    (beir / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked[1::2]), "utf-8")
    kept = {one["_id"] for one in asked[1::2]}
    header, *lines = (manuals / "qrels" / "test.tsv").read_text("utf-8").splitlines(keepends=True)
    (beir / "qrels" / "test.tsv").write_text(
        header + "".join(line for line in lines if line.split("\t")[0] in kept), "utf-8"
    )
    return folder


@pytest.fixture
def adapted(world: Path, tmp_path: Path) -> Callable[..., Adapted]:
    """A function that adapts in tmp_path/run; named arguments are those of adapt() in place of the usual ones."""

    def call(**arguments: Any) -> Adapted:
        settings = {"model": str(world / "teacher"), "evaluate": {"bootstrap": 100}, **arguments.pop("settings", {})}
        usual: dict[str, Any] = {
            "docs": world / "manuals" / "corpus.jsonl",
            "run": tmp_path / "run",
            "vectors": str(world / "frozen"),
            "runtime": Runtime(ledger=tmp_path / "ledger.sqlite", vectors=VectorStore(tmp_path / "vectors")),
        }
        return adapt(**{**usual, **arguments, "settings": settings})

    return call
