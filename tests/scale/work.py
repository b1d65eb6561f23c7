"""Work for executors: it counts itself in files, and fails as its shards say."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from embedfit.errors import InputError, MissingDependency


class Opened:
    """A state that writes down who opened it, worked in it and closed it, and how often a shard was begun."""

    def __init__(self, folder: Path, fault: str = "") -> None:
        self.folder, self.fault = folder, fault

    def __enter__(self) -> Path:
        (self.folder / f"opened-{os.getpid()}").touch()
        if self.fault:
            raise InputError(self.fault)
        return self.folder

    def __exit__(self, *error: object) -> None:
        (self.folder / f"closed-{os.getpid()}").touch()


def square(folder: Path, shard: int, tell) -> int:
    (folder / f"worked-{os.getpid()}").touch()
    with (folder / f"begun-{shard}").open("a") as begun:
        begun.write("x")
    tell(0.5)
    if shard == -1:
        raise InputError("a shard is wrong", remedy="Mend it.")
    if shard == -2:
        raise ZeroDivisionError("by a bug")
    if shard == -3 or (shard == -5 and (folder / "begun--5").stat().st_size == 1):
        os.kill(os.getpid(), 9)
    if shard == -4:
        time.sleep(600)
    if shard == -6:
        raise MissingDependency("gold", extra="bank", needed_for="Paying")
    return shard**2


def blown_up(folder: Path, shard: int, tell) -> bytes:
    """As many bytes as the shard says."""
    return bytes(range(251)) * (shard // 251) + bytes(shard % 251)


def meet(folder: str, fault: str, say: Callable[[str], None]) -> None:
    """Say one's place when all have come. With a fault the second worker fails, and then the others miss it."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    (Path(folder) / f"came-{rank}").write_text(str(os.getpid()))
    while len(list(Path(folder).glob("came-*"))) < size:
        time.sleep(0.02)
    say(f"{rank} of {size}, here {os.environ['LOCAL_RANK']} of {os.environ['LOCAL_WORLD_SIZE']}")
    if not fault:
        return
    if rank == 1:
        if fault == "killed":
            os.kill(os.getpid(), 9)
        raise InputError("a row is wrong", remedy="Mend it.") if fault == "row" else ZeroDivisionError("by a bug")
    if fault == "bug":
        time.sleep(600)
    raise RuntimeError("Connection closed by peer")
