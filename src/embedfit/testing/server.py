"""A server as a process of its own, for tests and benchmarks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from embedfit.errors import ServingError


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that is ready. url has no slash at its end."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def running_server(
    model: str | Path,
    *flags: str,
    environment: dict[str, str] | None = None,
    wait_seconds: float = 120.0,
    command: Sequence[str] = (sys.executable, "-m", "embedfit", "serve"),
) -> Iterator[RunningServer]:
    """Start a server of a model on a free port, wait until it is ready, stop it at the end.

    It asks for no key unless environment or flags give it one; the caller's own keys are not passed on. Raises
    ServingError with the server's log if it does not become ready.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, str(model), "--port", "0", *flags],
                stdout=output,
                stderr=output,
                env={**_without_keys(os.environ), **(environment or {})},
            )
        try:
            yield RunningServer(url=_wait(process, log, wait_seconds), process=process, log=log)
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _without_keys(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in ("EMBEDFIT_API_KEY", "API_KEY")}


def _wait(process: subprocess.Popen[bytes], log: Path, seconds: float) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"(http://\S+) is open", log.read_text("utf-8", "replace"))
        if found and _healthy(found.group(1)):
            return found.group(1)
        time.sleep(0.05)
    raise ServingError(f"The server did not become ready. Its log:\n{log.read_text('utf-8', 'replace')}")


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
