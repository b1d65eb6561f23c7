"""A short soak: many requests, every answer checked, memory flat."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from embedfit.models.encoder import Encoder
from embedfit.testing.server import running_server

#: The issue's number is 100,000; set EMBEDFIT_SOAK_REQUESTS for the whole of it.
REQUESTS = int(os.environ.get("EMBEDFIT_SOAK_REQUESTS", "6000"))
CLIENTS = 32
WORDS = ["mute", "the", "tv", "sound", "query", "what", "is", "how", "of", "to"]


async def soak(url: str, texts: list[str], expected: np.ndarray, count: int) -> float:
    """The least cosine of any answer with the offline vector."""
    numbers = iter(range(count))
    generator = np.random.default_rng(count)
    worst = [1.0]

    async def client(http: httpx.AsyncClient) -> None:
        for _ in numbers:
            rows = generator.integers(0, len(texts), generator.integers(1, 5))
            answer = await http.post("/embed", json={"inputs": [texts[row] for row in rows]})
            assert answer.status_code == 200, answer.text
            worst.append(float((np.array(answer.json()) * expected[rows]).sum(1).min()))

    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as http:
        await asyncio.gather(*(client(http) for _ in range(CLIENTS)))
    return min(worst)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_answer_is_right_and_memory_stays_flat(tiny_bert: Path):
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, generator.integers(1, 90))) for _ in range(400)]
    expected = Encoder.load(tiny_bert, precision="fp32").encode(texts)
    with running_server(tiny_bert, "--engine", "openvino", "--precision", "fp32") as server:
        process = psutil.Process(server.process.pid)
        assert asyncio.run(soak(server.url, texts, expected, REQUESTS // 3)) > 0.99999
        before = process.memory_info().rss
        assert asyncio.run(soak(server.url, texts, expected, REQUESTS - REQUESTS // 3)) > 0.99999
        grown = process.memory_info().rss - before
    assert grown < 40 << 20, f"memory grew by {grown >> 20} MiB"
