"""What actors of a Ray cluster run."""

from __future__ import annotations

import os
import platform
import socket
import threading
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from queue import SimpleQueue
from typing import Generic, Literal

from embedfit import __version__
from embedfit.errors import InputError
from embedfit.scale.executor import Function, Result, Shard, State
from embedfit.scale.processes import portable

#: What a member says: a line for people; at the end "ended" or its error.
Said = tuple[Literal["line", "ended", "failed"], object]


class Worker(Generic[State, Shard, Result]):
    """The actor: it has the state, and does one shard after another."""

    _state: AbstractContextManager[State] | None = None  # until it is entered

    def open(
        self, version: str, function: Function[State, Shard, Result], state: AbstractContextManager[State]
    ) -> Exception | None:
        """Enter the state. Returns the error if it can't be entered."""
        if (wrong := _other_version(version)) is not None:
            return wrong
        try:
            self._opened = state.__enter__()
        except Exception as error:  # of any kind: it is the driver's to raise
            return _explained(error)
        self._function, self._state = function, state
        return None

    def do(self, shard: Shard) -> tuple[bool, Result | Exception]:
        """(True, the result of a shard) or (False, its error)."""
        try:
            return True, self._function(self._opened, shard, _ignore)
        except Exception as error:  # of any kind: it is the driver's to raise
            return False, _explained(error)

    def close(self) -> None:
        """Leave the state if it was entered."""
        if self._state is not None:
            self._state.__exit__(None, None, None)


class Member:
    """The actor that does one work together with others, as one of torchrun's processes would."""

    def place(self) -> tuple[str, int]:
        """(this node's address, a free port of it)."""
        from ray.util import get_node_ip_address  # an extra

        address: str = get_node_ip_address()  # type: ignore[no-untyped-call]
        with socket.socket() as taken:
            taken.bind((address, 0))
            return address, int(taken.getsockname()[1])

    def work(
        self, version: str, work: str, arguments: tuple[str, ...], environment: Mapping[str, str]
    ) -> Generator[Said, None, None]:
        """Call the function "module:name" in that environment; yield what it says."""
        said: SimpleQueue[Said] = SimpleQueue()

        def call() -> None:
            try:
                module, _, name = work.partition(":")
                getattr(import_module(module), name)(*arguments, lambda line: said.put(("line", line)))
            except Exception as error:  # of any kind: it is the driver's to raise
                said.put(("failed", _explained(error)))
            else:
                said.put(("ended", None))

        if (wrong := _other_version(version)) is not None:
            yield "failed", wrong
            return
        os.environ.update(environment)
        threading.Thread(target=call, daemon=True).start()
        ended = False
        while not ended:
            one = said.get()
            ended = one[0] != "line"
            yield one


def _other_version(version: str) -> InputError | None:
    """The error of a node that has another version than the driver."""
    if __version__ == version:
        return None
    return InputError(
        f"{platform.node()}, a node of the Ray cluster, has embedfit {__version__}, not {version}.",
        remedy=f"Install the same version on every node: pip install 'embedfit[ray]=={version}'",
    )


def _explained(error: Exception) -> Exception:
    """The error as the driver raises it. A node that lacks a file is a fault of the cluster, not of embedfit."""
    if isinstance(error, FileNotFoundError):
        return InputError(
            f"{platform.node()}, a node of the Ray cluster, has no {error.filename}.",
            remedy="Documents, models, the run and EMBEDFIT_CACHE must lie in a folder that every node mounts.",
        )
    return portable(error)


def _ignore(share: float) -> None:
    pass
