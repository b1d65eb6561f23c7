"""The executor that works in several processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, cast

from embedfit.errors import EmbedfitError, UsageError
from embedfit.numerics.machine import cores
from embedfit.scale.executor import ExecutorKind, Function, Result, Shard, State, TellOf
from embedfit.scale.queue import Numbered, Queue

_FORM = "processes:4"


class Processes:
    """Does the work in `count` processes, each started anew for a map and ended with it."""

    def __init__(self, count: int) -> None:
        self.count = count

    def map(
        self,
        function: Function[State, Shard, Result],
        shards: Iterable[Shard],
        *,
        state: AbstractContextManager[State],
        cpus: int = 1,
        gpus: float = 0,
        tell: TellOf | None = None,
    ) -> Generator[tuple[int, Result], None, None]:
        """Yield (number, result) as they come. A process that ends before its work is replaced."""
        queue = Queue(shards)
        threads = max(cpus, cores() // self.count)
        with ExitStack() as stack:
            busy: dict[Connection, _Worker[State, Shard, Result]] = {}

            def start() -> None:
                if (numbered := queue.next()) is not None:
                    worker = _Worker(function, state, threads)
                    stack.callback(worker.end)
                    worker.give(numbered)
                    busy[worker.connection] = worker

            for _ in range(self.count):
                start()
            while busy:
                for connection in cast(list[Connection], wait(list(busy))):
                    worker = busy[connection]
                    message, value = worker.message()
                    if message == "told":
                        if tell is not None:
                            tell(worker.shard[0], cast(float, value))
                        continue
                    if message == "stuck":
                        raise cast(Exception, value)
                    if message == "done":
                        yield worker.shard[0], cast(Result, value)
                    elif message == "failed":
                        queue.failed(worker.shard[1], cast(Exception, value))
                    else:
                        queue.lost(worker.shard, cast(str, value))
                        del busy[connection]
                        start()
                        continue
                    if (following := queue.next()) is None:
                        del busy[connection]
                    else:
                        worker.give(following)
        queue.end()


class _Worker(Generic[State, Shard, Result]):
    """One process, with the shard that it has."""

    def __init__(
        self, function: Function[State, Shard, Result], state: AbstractContextManager[State], threads: int
    ) -> None:
        # Spawned: a fork would lose torch's threads, and pass on this process's open files.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_work, args=(theirs, function, state), name="embedfit-worker"
        )
        with _threads(threads):
            self.process.start()
        theirs.close()
        self.working = False

    def give(self, numbered: Numbered[Shard]) -> None:
        self.shard, self.working = numbered, True
        try:
            self.connection.send(numbered[1])
        except OSError:  # it has ended: message() says so
            pass

    def message(self) -> tuple[str, object]:
        """The worker's next message: (told, share), (done, result), (failed, error), (stuck, error), (lost, reason)."""
        try:
            message, value = self.connection.recv()
        except (EOFError, OSError):
            self.working = False
            self.process.join(5)
            return "lost", f"a worker process ended in the middle of its work (exit code {self.process.exitcode})"
        self.working = message == "told"
        return message, value

    def end(self) -> None:
        """Let the worker leave its work; kill it if it is in the middle of a shard."""
        self.connection.close()
        if self.working:
            self.process.terminate()
        self.process.join()
        self.process.close()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let processes that are started now compute with so many threads, unless the user has said how many."""
    own = "OMP_NUM_THREADS" not in os.environ
    if own:
        os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        if own:
            del os.environ["OMP_NUM_THREADS"]


def _work(
    connection: Connection, function: Function[State, Shard, Result], state: AbstractContextManager[State]
) -> None:
    """Work on the shards that come through the connection, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    try:
        try:
            with state as opened:
                while True:
                    shard = connection.recv()
                    try:
                        result = function(opened, shard, partial(_tell, connection))
                    except (EOFError, BrokenPipeError):
                        raise
                    except Exception as error:  # of any kind: it is the parent's to raise
                        connection.send(("failed", portable(error)))
                    else:
                        connection.send(("done", result))
        except (EOFError, BrokenPipeError):  # the parent has gone, or closed the connection
            return
        except Exception as error:
            connection.send(("stuck", portable(error)))
    except BrokenPipeError:
        return


def _tell(connection: Connection, share: float) -> None:
    connection.send(("told", share))


def portable(error: Exception) -> Exception:
    """The error as it can be sent to another process: an EmbedfitError itself, else its traceback as a RuntimeError."""
    return error if isinstance(error, EmbedfitError) else RuntimeError("".join(traceback.format_exception(error)))


def _open(rest: str) -> Processes:
    if not rest.isdecimal() or not 0 < int(rest) <= 1024:
        raise UsageError(f"{rest!r} is no number of processes.", remedy=f"For example: --workers {_FORM}")
    return Processes(int(rest))


EXECUTOR = ExecutorKind(form=_FORM, open=_open)
