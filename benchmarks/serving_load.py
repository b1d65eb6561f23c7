"""The load generator of serving.py, a process of its own: closed loop (N clients) or open loop (N requests a second).

Reads one JSON object on stdin, writes one on stdout. Its client is a few lines on a socket, so that it takes
little of the cores that it shares with the server.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import httptools
import uvloop


class Connection(asyncio.Protocol):
    """One kept connection with one request under way at most."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[int] | None = None
        self.transport: asyncio.Transport | None = None
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready for a request."""
        self.transport = transport  # type: ignore[assignment]
        self.open = True
        self.parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        """Part of an answer."""
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        status = self.parser.get_status_code()
        self.parser = httptools.HttpResponseParser(self)
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(status)

    def connection_lost(self, exc: Exception | None) -> None:
        """No answer will come."""
        self.open = False
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(0)

    async def send(self, request: bytes) -> int:
        """The status, 0 where the connection broke."""
        self.answer = asyncio.get_running_loop().create_future()
        assert self.transport is not None
        self.transport.write(request)
        return await self.answer


@dataclass
class Tally:
    """What happened. latencies: seconds of requests that succeeded; refusals: of those that got 429."""

    latencies: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    tokens: int = 0

    def add(self, status: int, seconds: float, tokens: int) -> None:
        """One answer."""
        self.statuses[status] += 1
        if status == 200:
            self.latencies.append(seconds)
            self.tokens += tokens
        elif status == 429:
            self.refusals.append(seconds)


def encode(host: str, port: int, path: str, body: dict[str, object]) -> bytes:
    content = json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", f"host: {host}:{port}", "content-type: application/json"]
    return "\r\n".join([*head, f"content-length: {len(content)}", "", ""]).encode() + content


async def connect(host: str, port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(Connection, host, port)
    return connection


async def closed_loop(
    host: str, port: int, requests: list[tuple[bytes, int]], clients: int, seconds: float, tally: Tally
) -> None:
    stop = time.perf_counter() + seconds
    order = random.Random(7)

    async def client() -> None:
        connection = await connect(host, port)
        while time.perf_counter() < stop:
            if not connection.open:
                connection = await connect(host, port)
            request, tokens = order.choice(requests)
            begun = time.perf_counter()
            status = await connection.send(request)
            tally.add(status, time.perf_counter() - begun, tokens)

    await asyncio.gather(*(client() for _ in range(clients)))


async def open_loop(
    host: str, port: int, requests: list[tuple[bytes, int]], rate: float, seconds: float, tally: Tally
) -> None:
    order = random.Random(7)
    idle: list[Connection] = []
    running: set[asyncio.Task[None]] = set()

    async def one() -> None:
        request, tokens = order.choice(requests)
        begun = time.perf_counter()
        connection = idle.pop() if idle else await connect(host, port)
        if not connection.open:
            connection = await connect(host, port)
        status = await connection.send(request)
        tally.add(status, time.perf_counter() - begun, tokens)
        if connection.open:
            idle.append(connection)

    start = time.perf_counter()
    due = 0.0
    while due < seconds:
        await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
        task = asyncio.create_task(one())
        running.add(task)
        task.add_done_callback(running.discard)
        due += order.expovariate(rate)
    await asyncio.wait_for(asyncio.gather(*running, return_exceptions=True), timeout=60)


def percentile(values: list[float], share: float) -> float | None:
    """In milliseconds; None where there are no values."""
    if not values:
        return None
    ordered = sorted(values)
    return round(1e3 * ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)], 2)


def main() -> None:
    job = json.load(sys.stdin)
    requests = [(encode(job["host"], job["port"], job["path"], body), tokens) for body, tokens in job["requests"]]
    tally = Tally()
    begun = time.perf_counter()
    if job["mode"] == "closed":
        uvloop.run(closed_loop(job["host"], job["port"], requests, job["clients"], job["seconds"], tally))
    else:
        uvloop.run(open_loop(job["host"], job["port"], requests, job["rate"], job["seconds"], tally))
    took = time.perf_counter() - begun
    json.dump(
        {
            "seconds": round(took, 2),
            "requests_per_second": round(len(tally.latencies) / took, 1),
            "tokens_per_second": round(tally.tokens / took),
            "tokens": tally.tokens,
            "p50_ms": percentile(tally.latencies, 0.5),
            "p95_ms": percentile(tally.latencies, 0.95),
            "p99_ms": percentile(tally.latencies, 0.99),
            "refused_p99_ms": percentile(tally.refusals, 0.99),
            "refused_max_ms": percentile(tally.refusals, 1.0),
            "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
