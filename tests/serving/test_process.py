"""What only a real process shows: slow clients, many clients, signals."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from embedfit.models.encoder import Encoder
from embedfit.testing.server import RunningServer, running_server


@contextmanager
def connection(server: RunningServer) -> Iterator[socket.socket]:
    address = urllib.parse.urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as open_socket:
        yield open_socket


def read_all(open_socket: socket.socket) -> bytes:
    received = b""
    while block := open_socket.recv(65_536):
        received += block
    return received


def request(body: bytes, *headers: str) -> bytes:
    lines = ["POST /embed HTTP/1.1", "host: x", "content-type: application/json", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


BODY = b'{"inputs":"mute the tv"}'


def test_a_client_that_never_sends_a_header_is_closed(server: RunningServer):
    with connection(server) as slow:
        assert read_all(slow).startswith(b"HTTP/1.1 408")


def test_a_header_that_trickles_is_closed(server: RunningServer):
    with connection(server) as slow:
        slow.sendall(b"POST /embed HTTP/1.1\r\nhost: x\r\n")
        for _ in range(6):
            time.sleep(0.5)
            try:
                slow.sendall(b"x-more: y\r\n")
            except OSError:
                break
        assert b" 408 " in read_all(slow)[:20]


def test_a_body_that_never_comes_is_closed(server: RunningServer):
    with connection(server) as slow:
        slow.sendall(request(BODY[:5], f"content-length: {len(BODY)}"))
        answer = read_all(slow)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"error_type":"Timeout"' in answer


def test_a_header_without_end_is_refused(server: RunningServer):
    with connection(server) as big:
        big.sendall(b"POST /embed HTTP/1.1\r\nhost: x\r\nx-big: ")
        try:
            for _ in range(40):
                big.sendall(b"y" * 4096)
            answer = read_all(big)
        except OSError:
            return  # closed while we wrote: refused all the same
    assert answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))


def test_two_pipelined_requests_get_two_answers(server: RunningServer):
    with connection(server) as open_socket:
        one = request(BODY, f"content-length: {len(BODY)}")
        last = request(BODY, f"content-length: {len(BODY)}", "connection: close")
        open_socket.sendall(one + last)
        assert read_all(open_socket).count(b"HTTP/1.1 200") == 2


def test_a_chunked_body_is_read(server: RunningServer):
    with connection(server) as open_socket:
        chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
        open_socket.sendall(request(chunk, "transfer-encoding: chunked", "connection: close"))
        assert read_all(open_socket).startswith(b"HTTP/1.1 200")


def test_a_client_that_leaves_costs_nothing_further(server: RunningServer):
    for _ in range(20):
        with connection(server) as open_socket:
            open_socket.sendall(request(BODY, f"content-length: {len(BODY)}"))
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert "Exception" not in server.log.read_text()


def test_a_kept_connection_serves_again_after_its_timers(server: RunningServer):
    with httpx.Client(base_url=server.url) as client:
        assert client.post("/embed", json={"inputs": "tv"}).status_code == 200
        time.sleep(2.5)  # longer than the header's time-out: between requests it does not run
        assert client.post("/embed", json={"inputs": "tv"}).status_code == 200


def test_many_clients_each_get_their_own_vectors(server: RunningServer, tiny_bert: Path):
    generator = np.random.default_rng(0)
    words = ["mute", "the", "tv", "sound", "query", "what", "is", "how"]
    texts = [" ".join(generator.choice(words, generator.integers(1, 60))) for _ in range(240)]
    expected = Encoder.load(tiny_bert, precision="fp32").encode(texts)
    worst: list[float] = []

    def client(start: int) -> None:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            for first in range(start, len(texts), 48):
                rows = range(first, min(first + 6, len(texts)))
                vectors = np.array(http.post("/embed", json={"inputs": [texts[row] for row in rows]}).json())
                worst.append(float((vectors * expected[list(rows)]).sum(1).min()))

    threads = [threading.Thread(target=client, args=(6 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(worst) == 40
    assert min(worst) > 0.99999


def test_sigterm_drains_and_exits_0(tiny_bert: Path):
    """Requests under way are answered; afterwards the process is gone, with success."""
    answers: list[int] = []
    with running_server(tiny_bert, "--engine", "openvino", "--precision", "fp32") as server:
        body = json.dumps({"inputs": ["mute the tv " * 40] * 32})
        begun = threading.Barrier(9)

        def client() -> None:
            with httpx.Client(base_url=server.url, timeout=60) as http:
                http.get("/health")
                begun.wait()
                answers.append(
                    http.post("/embed", content=body, headers={"content-type": "application/json"}).status_code
                )

        threads = [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        begun.wait()
        while httpx.get(f"{server.url}/metrics").text.find('te_request_count{method="batch"} 8') < 0:
            time.sleep(0.005)
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert server.process.wait(timeout=30) == 0
        assert "drained" in server.log.read_text()
    assert answers == [200] * 8


def run_serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "embedfit", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_taken_port_says_so_at_once(server: RunningServer, tiny_bert: Path):
    port = str(urllib.parse.urlsplit(server.url).port)
    done = run_serve(str(tiny_bert), "--port", port)
    assert done.returncode == 1
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_model_says_so(tmp_path: Path):
    done = run_serve(str(tmp_path / "nothing"), "--port", "0")
    assert done.returncode == 1
    assert "nothing" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("variable", "value"), [("PORT", "many"), ("PRECISION", "fp8")])
def test_a_wrong_variable_is_named(variable, value, tiny_bert, monkeypatch):
    monkeypatch.setenv(variable, value)
    done = run_serve(str(tiny_bert))
    assert done.returncode == 2
    assert value in done.stderr
