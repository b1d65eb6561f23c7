"""The plug-in of docs/extending.md, taken from the page, is installed and run."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
    command = [
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        target,
        source,
    ]
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return target


def python(installed: Path, home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    paths = [str(installed), str(ROOT / "src")]
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "XDG_DATA_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
    )


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


PATH = """
import sys, embedfit
docs, model, run = sys.argv[1:]
settings = {"model": model, "generate": {"generator": "rare-words"}}
embedfit.run(docs, run=run, settings=settings, until="generate")
"""


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_plug_in_of_the_page_reads_and_writes(installed: Path, tmp_path: Path, tiny_bert: Path) -> None:
    run = tmp_path / "run"
    done = python(installed, tmp_path, "-c", PATH, talks(tmp_path / "talks"), tiny_bert, run)
    assert done.returncode == 0, done.stderr
    reasons = {Path(one["path"]).name: one["reason"] for one in rows(run / "documents.jsonl")}
    assert len(reasons) == 25 and {name: why for name, why in reasons.items() if why} == {
        "silent.srt": "nobody speaks in it"
    }
    words = {passage["passage_id"]: passage["text"].lower() for passage in rows(run / "passages.jsonl")}
    assert not any("-->" in text for text in words.values())
    kept = [query for query in rows(run / "queries.jsonl") if query["kept"]]
    assert {query["style"] for query in kept} == {"question", "keywords", "claim", "title", "conversational"}
    assert all(word in words[query["passage_id"]] for query in kept for word in query["text"].split())
    assert 'generator = "rare-words"' in (run / "embedfit.toml").read_text("utf-8")


def test_without_the_plug_in_the_error_says_what_to_do(tmp_path: Path) -> None:
    command = ("-m", "embedfit", "run", PAGE, "--generator", "rare-words", "--run", tmp_path / "r")
    done = python(tmp_path, tmp_path, *command)
    assert done.returncode == 2
    assert "'rare-words'" in done.stderr and "install the package that brings it" in done.stderr
