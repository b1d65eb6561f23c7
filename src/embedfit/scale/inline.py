"""The executor that works in this process, one shard after another."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager
from functools import partial

from embedfit.scale.executor import ExecutorKind, Function, Result, Shard, State, TellOf
from embedfit.scale.queue import Queue


class Inline:
    """Does the work in this process, in the order of the shards."""

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
        """Yield (number, result) of each shard in turn."""
        queue = Queue(shards)
        if (following := queue.next()) is None:
            return
        with state as opened:
            while following is not None:
                number, shard = following
                try:
                    result = function(opened, shard, partial(tell, number) if tell else _ignore)
                except Exception as error:  # of any kind: the other shards are done first
                    queue.failed(shard, error)
                else:
                    yield number, result
                following = queue.next()
        queue.end()


def _ignore(share: float) -> None:
    pass


EXECUTOR = ExecutorKind(form="inline", open=lambda rest: Inline())
