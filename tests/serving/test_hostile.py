"""Clients that want to keep others out: slow, silent, greedy, half closed, and against the protocol's rules."""

from __future__ import annotations

import json
import resource
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import jsonschema
import psutil
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from embedfit.embedders.tei import tei
from embedfit.errors import EmbedfitError
from embedfit.llm.transport.retry import CallError
from embedfit.serving.edge.limits import BoundedProtocol
from embedfit.serving.server import serve
from embedfit.serving.settings import from_environment
from embedfit.testing.server import RunningServer, running_server

BODY = b'{"inputs":"mute the tv"}'
ENGINE = ("--engine", "openvino", "--precision", "fp32")
SMALL = ("--max-concurrent-requests", "16")  # 128 connections
KEY = "a-key-of-the-tests"


@pytest.fixture(scope="module", autouse=True)
def many_files() -> Iterator[None]:
    """Both ends of many connections: ours are open files too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def plain(tiny_bert: Path) -> Iterator[RunningServer]:
    with running_server(tiny_bert, *ENGINE, "--write-timeout", "3", "--max-client-batch-size", "64") as running:
        yield running


@pytest.fixture(scope="module")
def small(tiny_bert: Path) -> Iterator[RunningServer]:
    """With a key, and with few open files."""
    shell = ("sh", "-c", 'ulimit -n 220; exec "$0" -m embedfit serve "$@"', sys.executable)
    environment = {"EMBEDFIT_API_KEY": KEY}
    with running_server(tiny_bert, *ENGINE, *SMALL, environment=environment, command=shell) as running:
        yield running


def dial(server: RunningServer) -> socket.socket:
    address = urllib.parse.urlsplit(server.url)
    return socket.create_connection((address.hostname, address.port), timeout=20)


@contextmanager
def crowd(server: RunningServer, count: int, first: bytes, later: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many clients that send `first`, and then `later` each second while they can."""
    with ExitStack() as stack:
        clients = [stack.enter_context(dial(server)) for _ in range(count)]
        for client in clients:
            send(client, first)
        over = threading.Event()

        def trickle() -> None:
            while later and not over.wait(1.0):
                for client in clients:
                    send(client, later)

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            yield clients
        finally:
            over.set()
            thread.join()


def send(client: socket.socket, data: bytes) -> None:
    try:
        client.sendall(data)
    except OSError:
        pass  # it was closed: what many of these tests want


def request(body: bytes, *headers: str, start: str = "POST /embed HTTP/1.1") -> bytes:
    return "\r\n".join([start, "host: x", "content-type: application/json", *headers, "", ""]).encode() + body


def sized(body: bytes, *headers: str, start: str = "POST /embed HTTP/1.1") -> bytes:
    return request(body, f"content-length: {len(body)}", *headers, start=start)


def talk(server: RunningServer, data: bytes) -> bytes:
    with dial(server) as client:
        send(client, data)
        return read_all(client)


def read_all(client: socket.socket) -> bytes:
    received = b""
    try:
        while block := client.recv(65_536):
            received += block
    except ConnectionResetError:
        pass  # closed while we still wrote
    return received


def assert_served(server: RunningServer, times: int = 20, key: str | None = None) -> None:
    """Honest clients, each with a connection of its own, are answered."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    fresh = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=server.url, headers=headers, limits=fresh, timeout=20) as http:
        for _ in range(times):
            answer = http.post("/embed", json={"inputs": "mute the tv"})
            assert answer.status_code == 200, answer.text
            parts = iter([b'{"inputs":', b'"mute', b' the tv"}'])  # in several reads
            assert http.post("/embed", content=parts, headers={"content-type": "application/json"}).is_success


HALF = request(b"{", "content-length: 24")


def test_half_sent_bodies_do_not_lock_others_out(plain: RunningServer):
    with crowd(plain, 520, HALF, later=b" "):
        assert_served(plain, 50)
        time.sleep(2.5)  # the crowd goes on
        assert_served(plain, 50)
    assert_served(plain)


def keyed(*headers: str) -> bytes:
    return request(b"{", f"authorization: Bearer {KEY}", *headers)


CROWDS = {
    "nothing at all": (b"", b""),
    "a header without end": (b"POST /embed HTTP/1.1\r\nhost: x\r\n", b"x: y\r\n"),
    "kept connections": (b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n", b""),
    "a second header that never ends": (b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET /hea", b""),
    "bodies of a byte a second": (keyed("content-length: 5000"), b" "),
    "chunks without end": (keyed("transfer-encoding: chunked").removesuffix(b"{"), b"1\r\n \r\n"),
    "bodies that nobody waits for": (HALF.replace(b"24", b"5000"), b" "),  # without the key
    "answers that nobody reads": (b"GET /api-doc/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 60, b""),
}


#: The others take as long and break the same bounds in other ways.
ALWAYS = ("a header without end", "kept connections", "bodies of a byte a second", "answers that nobody reads")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ALWAYS else pytest.mark.slow) for name in CROWDS]
)
def test_a_crowd_over_the_number_of_connections_does_not_lock_others_out(small: RunningServer, name: str):
    first, later = CROWDS[name]
    with crowd(small, 300, first, later):
        assert_served(small, 10, KEY)
        time.sleep(1.2)
        assert_served(small, 10, KEY)
    assert_served(small, 3, KEY)


def test_few_open_files_are_enough(small: RunningServer):
    with crowd(small, 400, b"POST /em"):
        assert_served(small, 10, KEY)
    assert small.log.read_text().count("\n") < 10


def large_answer() -> bytes:
    return sized(json.dumps({"inputs": ["mute the tv sound " * 60] * 64}).encode(), start="POST /embed_all HTTP/1.1")


def successes(server: RunningServer) -> float:
    lines = httpx.get(f"{server.url}/metrics", timeout=20).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("te_request_success"))


def eventually(check: Callable[[], bool], seconds: float = 40) -> bool:
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.slow
def test_answers_that_nobody_reads_are_dropped_and_their_memory_with_them(plain: RunningServer):
    process = psutil.Process(plain.process.pid)
    with dial(plain) as client:  # what one such answer costs is there already
        send(client, large_answer().replace(b"content-length", b"connection: close\r\ncontent-length"))
        size = len(read_all(client))
    assert size > 2_500_000
    before, served = process.memory_info().rss, successes(plain)
    with crowd(plain, 80, large_answer()):
        assert eventually(lambda: successes(plain) >= served + 30, 120)  # others may be refused: too much work
        assert eventually(lambda: process.memory_info().rss - before < 20 * size, 120)
        assert_served(plain)
    assert "Traceback" not in plain.log.read_text()


def test_the_next_request_waits_until_the_last_answer_is_read(plain: RunningServer):
    before = successes(plain)
    with dial(plain) as client:
        send(client, large_answer() * 20)
        assert eventually(lambda: successes(plain) > before)
        time.sleep(1.0)
        assert successes(plain) - before <= 3  # those that the kernel's buffers took, and one
        assert_served(plain)


def test_a_slow_reader_gets_the_whole_of_its_answer(plain: RunningServer):
    with dial(plain) as client:
        send(client, large_answer().replace(b"content-length", b"connection: close\r\ncontent-length"))
        received = b""
        while block := client.recv(65_536):
            received += block
            if len(received) < 1 << 20:
                time.sleep(0.05)
    head, _, body = received.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head.lower()


def test_requests_without_end_before_an_answer_end_the_connection(plain: RunningServer):
    flood = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * 2_000
    assert talk(plain, flood).count(b"HTTP/1.1 200") < 2_000
    assert_served(plain, 2)


def padded(total: int, filler: Callable[[int], bytes]) -> bytes:
    """A GET whose header has so many bytes."""
    start, end = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n", b"\r\n"
    return start + filler(total - len(start) - len(end)) + end


def one_line(size: int) -> bytes:
    return b"x-big: " + b"y" * (size - 9) + b"\r\n"


def spaces(size: int) -> bytes:
    return b"x:" + b" " * (size - 5) + b"y\r\n"


def short_lines(size: int) -> bytes:
    lines = b"a: b\r\n" * (size // 6 - 2)
    return lines + one_line(size - len(lines))


@pytest.mark.parametrize("filler", [one_line, spaces, short_lines])
@pytest.mark.parametrize(
    ("size", "status"), [(1_000, 200), (65_000, 200), (65_536, 200), (65_537, 431), (70_000, 431), (200_000, 431)]
)
def test_headers_over_64_kib_are_refused_however_they_arrive(plain: RunningServer, filler, size, status):
    header = padded(size, filler)
    assert len(header) == size
    assert talk(plain, header).startswith(b"HTTP/1.1 %d" % status)
    with dial(plain) as client:  # in pieces
        for start in range(0, size, 30_000):
            send(client, header[start : start + 30_000])
            time.sleep(0.01)
        assert read_all(client)[:12] in (b"HTTP/1.1 %d" % status, *([b""] if status == 431 else []))


def test_a_long_address_is_refused(plain: RunningServer):
    assert talk(plain, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n").startswith(b"HTTP/1.1 431")


def test_a_large_header_behind_another_request_is_not_served(plain: RunningServer):
    answers = talk(plain, sized(BODY) + padded(70_000, one_line))
    assert answers.count(b"HTTP/1.1 200") <= 1


@pytest.mark.parametrize(
    ("name", "piece"),
    [("trailers", b"x: y\r\n"), ("one trailer", b"y" * 1_000), ("a chunk's extension", b"y" * 1_000)],
)
def test_chunked_bodies_cost_no_more_than_their_bytes(plain: RunningServer, name, piece):
    start = b"1;x=" if "extension" in name else b"18\r\n" + BODY + b"\r\n0\r\nx: "
    with dial(plain) as client:
        send(client, request(start, "transfer-encoding: chunked"))
        for _ in range(400_000 // len(piece)):
            send(client, piece)
        assert read_all(client)[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400", b"")
    assert_served(plain, 2)


@pytest.mark.parametrize(
    "data",
    [
        sized(BODY),
        sized(BODY, "connection: close"),
        request(b"18\r\n" + BODY + b"\r\n0\r\n\r\n", "transfer-encoding: chunked"),
        sized(BODY, start="POST /embed HTTP/1.0"),
        b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
def test_half_closed_clients_get_their_answer(plain: RunningServer, data):
    with dial(plain) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert b" 200 OK" in read_all(client)[:20]


def test_a_half_closed_client_gets_every_answer_that_it_asked_for(plain: RunningServer):
    with dial(plain) as client:
        client.sendall(sized(BODY) * 5)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).count(b"HTTP/1.1 200") == 5


def test_a_half_closed_client_gets_a_large_answer_whole(plain: RunningServer):
    with dial(plain) as client:
        client.sendall(large_answer())
        client.shutdown(socket.SHUT_WR)
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head.lower()


def test_a_client_that_closes_in_the_middle_of_a_body_is_let_go(plain: RunningServer):
    with dial(plain) as client:
        client.sendall(HALF)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "TLS/1.0", ""])
@pytest.mark.parametrize("has_body", [True, False])
def test_upgrades_are_answered_as_requests(plain: RunningServer, protocol, has_body):
    headers = ("connection: Upgrade", f"upgrade: {protocol}", "sec-websocket-version: 13", "sec-websocket-key: eA==")
    data = sized(BODY, *headers) if has_body else request(b"", *headers, start="GET /health HTTP/1.1")
    with dial(plain) as client:
        client.sendall(data[:10])  # in two reads
        time.sleep(0.01)
        client.sendall(data[10:])
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).startswith(b"HTTP/1.1 200")
    assert "websockets" not in plain.log.read_text()


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (request(BODY, "content-length: 24", "transfer-encoding: chunked", "connection: close"), {400}),
        (request(BODY, "content-length: 24", "content-length: 25"), {400}),
        (request(BODY, "content-length: +24"), {400}),
        (request(BODY, "content-length: 99999999999999999999999"), {400, 413}),
        (request(BODY, "content-length: -1"), {400}),
        (request(BODY, "transfer-encoding: chunked, identity", "connection: close"), {400, 422}),
        (request(b"zz\r\n", "transfer-encoding: chunked"), {400}),
        (sized(BODY, "connection: close", start="POST http://x/embed HTTP/1.1"), {200}),
        (sized(BODY, "connection: close", start="POST /embed?x=1#y HTTP/1.1"), {200, 400}),
        (sized(BODY, start="POST /embed HTTP/1.0"), {200}),
        (sized(BODY, start="POST /embed HTTP/3.0"), {400}),
        (sized(BODY, "connection: close", "expect: 100-continue"), {100}),
        (sized(BODY, "connection: close", "expect: a miracle"), {200, 417}),
        (b"OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", {400, 404, 405}),
        (b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n", {400, 404, 405}),
        (b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", {400, 404}),
        (b"GET /%ff%00%ud800 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", {404}),
        (b"GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", {404}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", {400}),  # TLS
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400}),
        (b"GET /health HTTP/1.1\r\nhost: x\r\nx y: z\r\n\r\n", {400}),
        (b"GET /health HTTP/1.1\r\nhost: x\r\nx: a\x00b\r\n\r\n", {400}),
        (b"GET /health\r\n\r\n", {200, 400}),  # HTTP/0.9
    ],
)
def test_requests_against_the_rules_get_a_clean_answer(plain: RunningServer, data, statuses):
    answer = talk(plain, data)
    assert int(answer.split(b" ")[1]) in statuses, answer[:200]
    assert answer.count(b"HTTP/1.1 ") == (2 if statuses == {100} else 1)
    assert "Traceback" not in plain.log.read_text()


@pytest.mark.parametrize(
    ("content", "statuses"),
    [
        (b'{"inputs":"a\\ud800"}', {400}),
        (b'{"inputs":"a\\u0000b"}', {200}),
        (b'{"inputs":"a","dimensions":1e308}', {422}),
        (b'{"inputs":"a","dimensions":Infinity}', {400}),
        (b'{"inputs":[1e308]}', {422}),
        (b'{"inputs":NaN}', {400}),
        (b'{"inputs":"a","inputs":["b"],"inputs":"c"}', {200}),
        (b'{"inputs":' + b"[" * 100 + b'"a"' + b"]" * 100 + b"}", {422}),
        (b'{"x":' * 100 + b"1" + b"}" * 100, {422}),
        (b"\xef\xbb\xbf" + BODY, {200, 400}),
        (BODY.decode().encode("utf-16"), {400}),
    ],
)
@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings"])
def test_hostile_bodies_get_a_clean_answer(plain: RunningServer, path, content, statuses):
    if path == "/v1/embeddings":
        content = content.replace(b"inputs", b"input")
    answer = httpx.post(plain.url + path, content=content, headers={"content-type": "application/json"}, timeout=20)
    assert answer.status_code in statuses, answer.text


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "GZIP", "aes128gcm"])
def test_compressed_bodies_are_refused(plain: RunningServer, encoding):
    headers = {"content-type": "application/json", "content-encoding": encoding}
    answer = httpx.post(f"{plain.url}/embed", content=b"\x1f\x8b" + b"\0" * 1_000, headers=headers, timeout=20)
    assert answer.status_code == 415
    assert "Content-Encoding" in answer.json()["error"]


def test_every_failure_has_the_form_that_the_document_says(small: RunningServer):
    document = httpx.get(f"{small.url}/api-doc/openapi.json").json()
    seen = 0
    http = httpx.Client(base_url=small.url, headers={"content-type": "application/json"}, timeout=20)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            answers = [http.request(method, path)]
            if method == "post":
                headers = {"authorization": f"Bearer {KEY}"}
                answers += [
                    http.post(path, content=content, headers=headers | extra)
                    for content, extra in [
                        (b"{", {}), (b"{}", {}), (b"[]", {}), (b"x" * 2_100_000, {}),
                        (b"{}", {"content-type": "text/plain"}), (b"{}", {"content-encoding": "gzip"}),
                    ]
                ]  # fmt: skip
            for answer in answers:
                if answer.status_code == 200:
                    continue
                schema = operation["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
                jsonschema.validate(answer.json(), {**schema, "components": document["components"]})
                seen += 1
    http.close()
    assert seen > 50


def test_the_hooks_that_limits_rely_on_are_uvicorns():
    """A new uvicorn that renames one would switch a bound off; the tests above would say which."""
    own = {name for name in vars(BoundedProtocol) if name in vars(HttpToolsProtocol)}
    assert own >= {
        "connection_made", "connection_lost", "data_received", "eof_received", "pause_writing", "send_400_response",
        "on_message_begin", "on_url", "on_header", "on_headers_complete", "on_body", "on_message_complete",
        "on_response_complete",
    }  # fmt: skip


def test_clients_send_the_key_of_the_environment(small: RunningServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("EMBEDFIT_API_KEY", raising=False)
    for key in (None, "another"):
        embedder = tei(small.url, api_key=key)
        with pytest.raises(CallError, match="401") as caught:
            embedder.embed(["tv"])
        assert "EMBEDFIT_API_KEY" in str(caught.value.remedy)
        embedder.release()
    monkeypatch.setenv("EMBEDFIT_API_KEY", KEY)
    embedder = tei(small.url)
    assert len(embedder.embed(["tv"])) == 1
    embedder.release()


@pytest.mark.parametrize(("host", "environment", "says"), [
    ("0.0.0.0", {}, True), ("::", {}, True), ("127.0.0.1", {}, False), ("0.0.0.0", {"API_KEY": "k"}, False),
])  # fmt: skip
def test_a_server_that_others_reach_without_a_key_says_so(host, environment, says):
    """Without a model it stops again at once."""
    settings = from_environment(environment, overrides={"host": host, "port": 0})
    lines: list[str] = []
    with pytest.raises(EmbedfitError):
        serve("/nothing/here", settings, log=lines.append)
    assert sum("EMBEDFIT_API_KEY" in line for line in lines) == says
