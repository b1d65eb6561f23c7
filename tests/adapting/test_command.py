"""The command `adapt` against an OpenAI-compatible server in a process of its own, and after kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from embedfit.models.encoder import Encoder
from embedfit.models.query_map import QueryMap
from embedfit.path.artefacts import Passage
from embedfit.path.workspace import Workspace
from tests.json_forms import printed


class Vectors(ThreadingHTTPServer):
    """OpenAI's route for embeddings over a tiny model, which counts the texts. hold: answers wait for `go`."""

    daemon_threads = True

    def __init__(self, model: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.encoder, self.lock = Encoder.load(model, precision="fp32"), threading.Lock()
        self.texts: list[str] = []
        self.reached, self.go, self.hold_after = threading.Event(), threading.Event(), 10**9

    @property
    def spec(self) -> str:
        return f"openai:http://127.0.0.1:{self.server_address[1]}/v1#frozen"


class Handler(BaseHTTPRequestHandler):
    server: Vectors

    def do_POST(self) -> None:
        texts = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
        with self.server.lock:
            self.server.texts += texts
            waits = len(self.server.texts) > self.server.hold_after
            rows = self.server.encoder.encode(texts)
        if waits:
            self.server.reached.set()
            self.server.go.wait(120)
        body = json.dumps({"data": [{"index": n, "embedding": row.tolist()} for n, row in enumerate(rows)]}).encode()
        try:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass  # the client was killed

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(world: Path) -> Iterator[Vectors]:
    made = Vectors(world / "frozen")
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.go.set()
    made.shutdown()
    made.server_close()
    thread.join()


def command(world: Path, server: Vectors, run: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "embedfit", "adapt", str(world / "manuals" / "corpus.jsonl"), "--vectors", server.spec,
        "--queries", str(world / "log.txt"), "--eval-beir", str(world / "beir"), "--model", str(world / "teacher"),
        "--run", str(run), "--set", "evaluate.bootstrap=100", *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_the_command_prints_what_it_made(world: Path, server: Vectors, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = subprocess.run(command(world, server, run), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Search with mapped query vectors" in done.stdout and "frozen" in done.stdout
    assert "Traceback" not in done.stderr
    again = subprocess.run(
        [sys.executable, "-m", "embedfit", "adapt", "--run", str(run), "--json"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert again.returncode == 0, again.stderr
    result = printed("embedfit adapt", again.stdout)
    assert result["schema"] == 1 and result["map"]["ship"] and result["data"]["asked"] == 45
    assert result["systems"]["mapped"]["metrics"]["ndcg@10"] > result["systems"]["frozen"]["metrics"]["ndcg@10"]
    # Each text was asked once, but for the short ones that show whether the server has another model now.
    counts = {text: server.texts.count(text) for text in server.texts}
    assert sum(count > 1 for count in counts.values()) <= 4
    status = subprocess.run(
        [sys.executable, "-m", "embedfit", "status", "--run", str(run), "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert json.loads(status.stdout)["stages"] == {"ingest": "fresh", "adapt": "fresh", "adapt_report": "fresh"}


@pytest.mark.slow
def test_kill_9_then_the_same_command_goes_on(world: Path, server: Vectors, tmp_path: Path) -> None:
    whole = subprocess.run(command(world, server, tmp_path / "whole"), capture_output=True, text=True, timeout=300)
    assert whole.returncode == 0, whole.stderr
    expected = QueryMap.load(tmp_path / "whole" / "adapt" / "query_map.safetensors")
    environment = {**os.environ, "EMBEDFIT_HOME": str(tmp_path / "other")}
    server.hold_after = len(server.texts) + 150
    run = tmp_path / "killed"
    process = subprocess.Popen(
        command(world, server, run), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert server.reached.wait(240)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / "adapt").exists()
    server.hold_after = 10**9
    server.go.set()
    before = len(server.texts)
    done = subprocess.run(command(world, server, run), env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    passages = {one.content for one in Workspace(run).read(Passage)}
    assert len(passages) == 120 and not passages & set(server.texts[before:])
    made = QueryMap.load(run / "adapt" / "query_map.safetensors")
    np.testing.assert_allclose(made.matrix, expected.matrix, atol=1e-4)
