"""Reading in a process of its own, so that no document can hang, exhaust or end a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from pydantic import TypeAdapter

from embedfit.corpus.blocks import ParsedDocument, UnreadableDocument
from embedfit.corpus.readers.registry import Progress, Reader
from embedfit.corpus.readers.worker import Request
from embedfit.errors import EmbedfitError
from embedfit.plugins import Registered

#: Isolated mode: neither the working directory nor the user's environment adds modules; ours come as arguments.
_START = "import sys; sys.path[:] = sys.argv[2:]; from embedfit.corpus.readers.worker import main; main()"
_SECONDS_TO_START = 120
_SECONDS_TO_END = 5
#: 0, the code of no signal, on Windows.
_CPU_TIME_EXCEEDED = int(getattr(signal, "SIGXCPU", 0))
_DOCUMENT = TypeAdapter(ParsedDocument)


class _Answer(TypedDict, total=False):
    """A line from the process: readiness, progress, full memory, a document, or the reason why there is none."""

    ready: bool
    progress: tuple[int, int]
    memory: bool
    document: object
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of reading one document.

    seconds: of processor time, for a small file. seconds_per_mib: what each MiB of the file adds. wall: the limit of
    elapsed time, as a multiple of the processor time, for a reader that waits for ever. memory: MiB of address space.
    """

    seconds: int = 60
    seconds_per_mib: int = 10
    wall: int = 4
    memory: int = 2048

    def seconds_for(self, size: int) -> int:
        """Seconds of processor time for a file of so many bytes."""
        return self.seconds + self.seconds_per_mib * (size >> 20)


class ReadingProcess:
    """A process that reads documents. It starts with the first one, and again after a document that ended it.

    As a context manager it ends the process. Not safe for several threads.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ReadingProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def read(self, registered: Registered[Reader], path: Path, progress: Progress | None = None) -> ParsedDocument:
        """The document at path.

        Raises UnreadableDocument, with the reason, if the reader refuses the file, fails, crashes or exceeds a limit.
        """
        seconds = self._limits.seconds_for(path.stat().st_size)
        if self._process is not None and self._process.poll() is not None:
            self.close()
        process = self._process or self._started()
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            process.kill()

        watch = threading.Timer(self._limits.wall * seconds, expire)
        watch.daemon = True
        watch.start()
        try:
            _send(process, {"place": registered.place, "path": str(path.absolute()), "seconds": seconds})
            answer = _answer(process, progress)
        except BaseException:
            self.close()  # an interrupt in the middle of a document leaves half an answer in the pipe
            raise
        finally:
            watch.cancel()
        if answer is None or "memory" in answer:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_TO_END)
            self.close()
            raise UnreadableDocument(self._why_it_ended(process.returncode, seconds, expired.is_set(), answer))
        if "document" in answer:
            return _DOCUMENT.validate_python(answer["document"])
        raise UnreadableDocument(answer["reason"])

    def _started(self) -> subprocess.Popen[bytes]:
        # An empty entry of sys.path is the working directory.
        places = [place or os.getcwd() for place in sys.path]
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", _START, str(self._limits.memory), *places],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:  # not the document's fault
            raise EmbedfitError(
                f"The process that reads documents can't be started: {error.strerror or error} ({sys.executable}).",
                remedy="Let this user run that program, and more processes if there are too many (ulimit -u).",
            ) from error
        watch = threading.Timer(_SECONDS_TO_START, process.kill)
        watch.start()
        try:
            ready = _answer(process, None)
        finally:
            watch.cancel()
        if ready is None:
            process.communicate()
            raise EmbedfitError(
                f"The process that reads documents does not start (exit code {process.returncode}).",
                remedy="Give it more memory: --set ingest.max_memory_mb=4096",
            )
        self._process = process
        return process

    def _why_it_ended(self, code: int, seconds: int, expired: bool, answer: _Answer | None) -> str:
        if answer is not None:
            return f"reading it takes more than {self._limits.memory:,} MiB of memory (ingest.max_memory_mb)"
        if expired or (code and code == -_CPU_TIME_EXCEEDED):
            return f"reading it takes more than {seconds:,} seconds (ingest.max_seconds)"
        return f"its reader crashed ({_exit(code)})"


def _exit(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"


def _send(process: subprocess.Popen[bytes], request: Request) -> None:
    assert process.stdin is not None
    with suppress(OSError):  # a process that has ended takes no request
        process.stdin.write(json.dumps(request).encode("ascii") + b"\n")
        process.stdin.flush()


def _answer(process: subprocess.Popen[bytes], progress: Progress | None) -> _Answer | None:
    """The process's answer; None if it ended before it gave one."""
    assert process.stdout is not None
    for line in process.stdout:
        if not line.endswith(b"\n"):
            return None
        answer: _Answer = json.loads(line)
        if "progress" not in answer:
            return answer
        if progress is not None:
            progress(*answer["progress"])
    return None
