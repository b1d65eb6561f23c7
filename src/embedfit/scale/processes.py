"""The executor that works in several processes of this machine."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Generator, Iterable
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, cast

from embedfit.errors import EmbedfitError, UsageError
from embedfit.scale.executor import ExecutorKind, Result, Shard, TellOf, Work

_FORM = "processes:4"


class Processes:
    """Does the work in `count` processes, each started anew for a map and ended with it."""

    def __init__(self, count: int) -> None:
        self.count = count

    def map(
        self, work: Work[Shard, Result], shards: Iterable[Shard], tell: TellOf | None = None
    ) -> Generator[tuple[int, Result], None, None]:
        """Yield (number, result) as they come. Raises EmbedfitError where a process ends before its work."""
        numbered = iter(enumerate(shards))
        with ExitStack() as stack:
            busy: dict[Connection, _Worker[Shard, Result]] = {}
            for _, numbered_shard in zip(range(self.count), numbered, strict=False):
                worker = _Worker(work)
                stack.callback(worker.end)
                worker.give(*numbered_shard)
                busy[worker.connection] = worker
            while busy:
                for connection in cast(list[Connection], wait(list(busy))):
                    worker = busy[connection]
                    message, value = worker.message()
                    if message == "told" and tell is not None:
                        tell(worker.shard, cast(float, value))
                    elif message == "done":
                        yield worker.shard, cast(Result, value)
                        if (following := next(numbered, None)) is None:
                            del busy[connection]
                        else:
                            worker.give(*following)


class _Worker(Generic[Shard, Result]):
    """One process, with the number of the shard that it has."""

    def __init__(self, work: Work[Shard, Result]) -> None:
        # Spawned: a fork would lose torch's threads, and pass on this process's open files.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(theirs, work), name="embedfit-worker")
        self.process.start()
        theirs.close()
        self.shard, self.working = -1, False

    def give(self, number: int, shard: Shard) -> None:
        self.shard, self.working = number, True
        try:
            self.connection.send(shard)
        except OSError:
            raise self._ended() from None

    def message(self) -> tuple[str, object]:
        """The worker's next message. Raises the EmbedfitError that the worker met."""
        try:
            message, value = self.connection.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        self.working = message == "told"
        if message == "failed":
            raise value
        return message, value

    def _ended(self) -> EmbedfitError:
        self.process.join(5)
        return EmbedfitError(
            f"A worker process ended in the middle of its work (exit code {self.process.exitcode}).",
            remedy="Where memory is short, let fewer work at once: --workers 1",
        )

    def end(self) -> None:
        """Let the worker leave its work; kill it if it is in the middle of a shard."""
        self.connection.close()
        if self.working:
            self.process.terminate()
        self.process.join()
        self.process.close()


def _work(connection: Connection, work: Work[Shard, Result]) -> None:
    """Work on the shards that come through the connection, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    try:
        with work:
            while True:
                shard = connection.recv()
                connection.send(("done", work(shard, partial(_tell, connection))))
    except (EOFError, BrokenPipeError):  # the parent has gone, or closed the connection
        return
    except EmbedfitError as error:
        connection.send(("failed", error))
    except Exception:
        connection.send(("failed", RuntimeError(traceback.format_exc())))


def _tell(connection: Connection, share: float) -> None:
    connection.send(("told", share))


def _open(rest: str) -> Processes:
    if not rest.isdecimal() or not 0 < int(rest) <= 1024:
        raise UsageError(f"{rest!r} is no number of processes.", remedy=f"For example: --workers {_FORM}")
    return Processes(int(rest))


EXECUTOR = ExecutorKind(form=_FORM, open=_open)
