"""The interface of executors, which do one piece of work to each of many shards."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from embedfit import plugins

#: Entry points of this group name an ExecutorKind as "module:NAME"; the entry point's name comes before the colon of
#: --workers.
GROUP = "embedfit.executors"

State = TypeVar("State")
Shard = TypeVar("Shard")
Result = TypeVar("Result")

#: Is called with the part of a shard that is done, 0 to 1.
Tell = Callable[[float], None]
#: Is called with a shard's number and the part of it that is done.
TellOf = Callable[[int, float], None]
#: The work that is done to each shard: (what the worker's state opened, the shard, Tell) → result.
Function = Callable[[State, Shard, Tell], Result]


class Executor(Protocol):
    """Does work to shards."""

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
        """Yield (number of the shard, result) in any order, each number once.

        function: depends on the state and its shard alone, so whoever does a shard, and however often, gives the same
        result. state: what many shards need, such as a model or a process. A worker enters it once, calls the function
        for one shard after another, and leaves it at the end. cpus, gpus: what a worker needs.
        tell: is called with the progress of each shard, if the executor knows it.

        Function, state, shards and results can be pickled; the function stands at the top of a module. Shards are taken
        as they are needed, so that many don't lie in memory. Closing the generator stops the work. An error of a shard,
        which its str() names, is raised when the other shards are done (embedfit.scale.queue).
        """


@runtime_checkable
class WorksTogether(Protocol):
    """An executor whose workers can also do one work together, such as a training."""

    def together(
        self, work: str, arguments: tuple[str, ...], count: int, *, gpus: float = 0
    ) -> Generator[str, None, None]:
        """Call a function in `count` workers at the same time, and yield the lines that they say.

        work: "module:name" of the function, of the arguments and of a callable that takes a line. gpus: what a worker
        needs. Each worker has the environment of a process of torchrun: MASTER_ADDR, MASTER_PORT, RANK, LOCAL_RANK,
        WORLD_SIZE, LOCAL_WORLD_SIZE. Raises the error of a worker that failed, or EmbedfitError if one is lost; the
        others are ended. Closing the generator ends all.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorKind:
    """One kind of executor.

    form: an example of --workers. open: makes the executor from the text behind the colon; raises UsageError, or
    MissingDependency that names the package to install.
    """

    form: str
    open: Callable[[str], Executor]


def open_executor(spec: str) -> Executor:
    """The executor that --workers names: a number of processes, or a kind, a colon and a text for that kind."""
    kind, _, rest = f"processes:{spec}".partition(":") if spec.isdecimal() else spec.partition(":")
    return plugins.find(GROUP, kind, ExecutorKind).open(rest)
