"""SKILL.md and llms.txt, which coding agents read: each of their commands is run, and each page is listed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from embedfit.cli import main as cli
from embedfit.config import Config
from embedfit.files.beir import write_beir
from embedfit.files.retrieval import Entry, RetrievalData
from embedfit.path.workspace import Workspace
from tests.docs.pages import ROOT, blocks
from tests.json_forms import forms, printed

FILES = (ROOT / "SKILL.md", ROOT / "llms.txt")
COMMANDS = [
    (f"{block}", line)
    for path in FILES
    for block in blocks(path)
    if block.language == "bash"
    for line in block.text.splitlines()
]
#: A port that the test takes in place of the one in the text.
PORT = 18_473


def test_the_skill_has_what_agents_read_first() -> None:
    head = re.match(r"---\nname: ([a-z-]+)\ndescription: (.+)\n---\n", FILES[0].read_text("utf-8"))
    assert head and head[1] == "embedfit" and 100 < len(head[2]) <= 1024


def test_the_list_of_pages_is_whole() -> None:
    listed = set(re.findall(r"\]\(([\w./-]+)\)", FILES[1].read_text("utf-8")))
    site = set(re.findall(r"^ +- (?:.*: )?([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M))
    pages = {f"docs/{name}" for name in site if (ROOT / "docs" / name).exists()} - {"docs/index.md"}
    assert all((ROOT / name).exists() for name in listed)
    assert len(pages) > 25 and not pages - listed, f"llms.txt does not name {pages - listed}"


@pytest.fixture
def folder(run_copy: Callable[..., tuple[Workspace, Config]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a user has: documents, a log, labelled data, and a run that is up to date."""
    workspace, _ = run_copy()
    place = tmp_path / "user"
    (place / "docs").mkdir(parents=True)
    for name in ("remote", "screen", "cable"):
        (place / "docs" / f"{name}.md").write_text(f"# {name}\n\nHow to reset, mount and repair the {name}. " * 9)
    entries = {f"p{n}": Entry(text=f"Reset part {n} by key {n}.", title="") for n in range(4)}
    labelled = RetrievalData(corpus=entries, queries={"q": "reset part 1"}, qrels={"q": {"p1": 1.0}})
    write_beir(place / "beir", labelled)
    shutil.copy(place / "beir" / "corpus.jsonl", place / "corpus.jsonl")
    (place / "log.txt").write_text("\n".join(f"how do I reset part {n}" for n in range(20)))
    (place / "runs").mkdir()
    shutil.move(workspace.root, place / "runs" / "mine")
    for beside in workspace.root.parent.iterdir():  # the run's documents and model
        shutil.move(beside, place / "runs" / beside.name)
    monkeypatch.chdir(place)
    return place


@pytest.mark.slow
def test_each_command_is_run(folder: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(COMMANDS) > 15
    for place, line in COMMANDS:
        # The run is there already and up to date; the model is as small as models are.
        line = line.replace("docs --run runs/mine --preset offline", "--run runs/mine").replace(
            "minilm", str(tiny_bert)
        )
        _, *words = shlex.split(line)
        if words[0] == "serve":
            serves(words)
            continue
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        output = capsys.readouterr()
        allowed = {"--fail-if-not-better": (0, 3), "doctor": (0, 1)}
        codes = next((codes for word, codes in allowed.items() if word in words), (0,))
        assert (caught.value.code or 0) in codes, f"{place}: {line}\n{output.err}"
        if "--json" in words:
            name = max((one for one in forms() if f"embedfit {' '.join(words)}".startswith(one)), key=len)
            printed(name, output.out)


def serves(words: list[str]) -> None:
    """The server starts, answers and ends; with --mcp stdio it ends with its input."""
    words = [str(PORT) if word == "8080" else word for word in words]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "embedfit", *words]
    if "stdio" in words:
        done = subprocess.run(command, input="", capture_output=True, text=True, timeout=200, env=environment)
        assert done.returncode == 0, done.stderr
        return
    log = Path("server.log")
    with log.open("w") as written, subprocess.Popen(command, stdout=written, stderr=written, env=environment) as server:
        try:
            for _ in range(400):
                assert server.poll() is None, log.read_text()
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5) as answer:
                        assert answer.status == 200
                        break
                except OSError:
                    time.sleep(0.5)
            else:
                pytest.fail("the server does not answer")
            body = json.dumps({"query": "how do I reset the remote", "k": 2}).encode()
            request = urllib.request.Request(
                f"http://127.0.0.1:{PORT}/search", body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.status == 200
        finally:
            server.send_signal(signal.SIGTERM)
