"""What docs/extending.md shows, taken from the page, is installed and used."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import embedfit
from embedfit import plugins
from embedfit.config import resolve
from embedfit.errors import UsageError
from embedfit.index.sinks.sink import kind_of
from embedfit.scale.executor import open_executor
from embedfit.training.losses.loss import Targets, loss_named
from embedfit.training.losses.objective import Objective
from tests.plug_in import install

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "extending.md"
SOUNDS = ("ba", "ke", "li", "mo", "nu", "pra", "sti", "tor", "van", "zel", "dri", "fo")


def files_of(page: Path) -> dict[str, str]:
    """What stands between fences below a line that is a file's name."""
    return dict(re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip has put the plug-in, without a network."""
    pytest.importorskip("setuptools", reason="the plug-in of the page is built with setuptools")
    pytest.importorskip("pip", reason="the plug-in of the page is installed with pip")
    source, target = tmp_path_factory.mktemp("plug-in"), tmp_path_factory.mktemp("installed")
    files = files_of(PAGE)
    assert set(files) == {"pyproject.toml", "example_reader.py", "example_generator.py"}
    for name, text in files.items():
        (source / name).write_text(text, "utf-8")
    options = ["-q", "--no-index", "--no-deps", "--no-build-isolation", "--no-compile"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return target


def talks(folder: Path) -> Path:
    """Subtitles of talks that share no word."""
    chance = random.Random(7)
    folder.mkdir()
    for number in range(24):
        words = ["".join(chance.choices(SOUNDS, k=chance.randint(3, 5))) for _ in range(60)]
        lines = [" ".join(words[start : start + 6]) + "." for start in range(0, 60, 6)]
        cues = [f"{n}\n00:00:0{n % 10},000 --> 00:00:0{n % 10},900\n{line}\n" for n, line in enumerate(lines, 1)]
        (folder / f"talk{number}.srt").write_text("\n".join(cues), "utf-8")
    (folder / "silent.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\n\n", "utf-8")
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_plug_in_of_the_page_reads_and_writes(
    installed: Path, tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(installed))
    run = tmp_path / "run"
    settings = {"model": str(tiny_bert), "generate": {"generator": "rare-words"}}
    embedfit.run(talks(tmp_path / "talks"), run=run, settings=settings, until="generate")
    reasons = {Path(one["path"]).name: one["reason"] for one in rows(run / "documents.jsonl")}
    assert len(reasons) == 25 and {name: why for name, why in reasons.items() if why} == {
        "silent.srt": "nobody speaks in it"
    }
    words = {passage["passage_id"]: passage["text"].lower() for passage in rows(run / "passages.jsonl")}
    assert not any("-->" in text for text in words.values())
    kept = [query for query in rows(run / "queries.jsonl") if query["kept"]]
    assert {query["style"] for query in kept} == {
        *("question", "keywords", "claim", "title"),
        *("conversational", "cause", "problem"),
    }
    assert all(word in words[query["passage_id"]] for query in kept for word in query["text"].split())
    assert 'generator = "rare-words"' in (run / "embedfit.toml").read_text("utf-8")


def test_without_the_plug_in_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'rare-words'.*install the package that brings it"):
        embedfit.run(PAGE, run=tmp_path / "r", settings={"generate": {"generator": "rare-words"}})


def plug_in(heading: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install what a section of the page shows: one module, and one line of entry points."""
    section = PAGE.read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (group, entry), (code,) = (
        re.findall(r'```toml\n\[project\.entry-points\."([\w.]+)"\]\n(.*?)\n```', section)[0],
        re.findall(r"```python\n(.*?)```", section, re.DOTALL),
    )
    entry = entry.replace('"', "").replace("my_package:", "stranger:")
    install(folder, code, entry, monkeypatch, group=group)
    name, _, place = entry.partition(" = ")
    assert plugins.places(group)[name] == place


def test_the_loss_of_the_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in("A loss", tmp_path, monkeypatch)
    assert resolve(assignments=("train.loss=hinge",)).train.loss == "hinge"
    queries = torch.eye(3, 4).requires_grad_()
    passages = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1.0, 0]]), dim=1)
    targets = Targets(
        group=torch.arange(3)[:, None],
        allowed=torch.tensor([[True, True, True], [True, True, True], [False, False, True]]),
        teacher=torch.zeros(3, 1),
        has_teacher=torch.zeros(3, dtype=torch.bool),
    )
    # Scores at this temperature: 5, 3, 0 | 0, 4, 0 | 0, 0, 5, where nothing wrong is allowed.
    loss = Objective(loss=loss_named("hinge"), temperature=0.2)(queries, passages, targets)
    loss.backward()
    assert loss.item() == pytest.approx((3 - 5 + 4) / 3) and torch.isfinite(queries.grad).all()


def test_the_sink_of_the_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in("A sink", tmp_path, monkeypatch)
    given = [
        SimpleNamespace(id=f"p{n}", text="a, b", vector=np.array([n, 0.5], np.float32)) for n in range(2)
    ]  # fmt: skip
    handover = SimpleNamespace(about=SimpleNamespace(fingerprint="f00"), batches=lambda: iter([given[:1], given[1:]]))
    url = f"csv:{tmp_path / 'out.csv'}"
    kind_of(url).open(url).write(handover)
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        "id,text,vectors of f00", 'p0,"a, b",0.0,0.5', 'p1,"a, b",1.0,0.5'
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"csv:FILE, jsonl:DIR, lancedb://DIR"):
        kind_of("nowhere:x")


def test_the_executor_of_the_page_is_one(tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in("An executor", tmp_path, monkeypatch)
    (tmp_path / "docs").mkdir()
    for number in range(3):
        (tmp_path / "docs" / f"{number}.md").write_text(
            f"# Part {number}\n\nThe {SOUNDS[number]} of part {number}. " * 9
        )
    found = []
    for workers in ("inline", "threads:2"):
        runtime = embedfit.Runtime(executor=open_executor(workers))
        run = tmp_path / workers[:3]
        embedfit.run(tmp_path / "docs", run=run, settings={"model": str(tiny_bert)}, until="ingest", runtime=runtime)
        found.append((run / "passages.jsonl").read_bytes())
    assert found[0] == found[1] != b""
