"""The executor that works in actors of a Ray cluster. It uses Ray Core alone."""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any, Generic

from embedfit import __version__
from embedfit.errors import EmbedfitError, InputError, MissingDependency, UsageError
from embedfit.numerics.machine import cores
from embedfit.scale.actors import Member, Worker
from embedfit.scale.executor import ExecutorKind, Function, Result, Shard, State, TellOf
from embedfit.scale.queue import Numbered, Queue

if TYPE_CHECKING:
    from types import ModuleType

_FORM = "ray:auto"
#: Shards that an actor has at a time: one that it works on, and one that waits so that the actor never does.
_IN_FLIGHT = 2
#: Seconds for which a cluster may have no worker at all before we give up: time enough for an autoscaler's new node.
_PATIENCE = 900.0
#: Seconds that actors get to leave their state, such as a process of a reader, or to fail after another one.
_CLOSING = 5.0


class Ray:
    """Does the work in actors of a cluster.

    An actor that ends, with its node or alone, is replaced, and its shards are done elsewhere. Ray itself retries
    nothing, so a shard is given out as often as embedfit.scale.queue says.
    """

    def __init__(self, address: str, workers: int | None = None) -> None:
        """address: "local" (a cluster of this machine, which ends with this process), "auto", or a cluster's.

        workers: the number of actors; None: as many as the cluster has room for.
        """
        self.address, self.workers = address, workers

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
        """Yield (number, result) as they come. Raises EmbedfitError if the cluster has no room for an actor."""
        queue = Queue(shards)
        if queue.is_empty():
            return
        ray = self._connected()
        count, needs = _room(ray.nodes(), self.workers, cpus, gpus)
        crew: _Crew[State, Shard, Result] = _Crew(ray, needs, (function, state))
        try:
            crew.hire(count)
            while True:
                crew.give(queue)
                if crew.idle and queue.is_empty():
                    break
                yield from crew.results(queue)
        finally:
            crew.end()
        queue.end()

    def together(
        self, work: str, arguments: tuple[str, ...], count: int, *, gpus: float = 0
    ) -> Generator[str, None, None]:
        """Yield the lines that `count` actors say, which work at the same time. Raises the error of one that fails."""
        ray = self._connected()
        room, needs = _room(ray.nodes(), count, 1, gpus)
        if self.address == "local" and _room(ray.nodes(), None, 1, gpus)[0] < room:
            needs = dict.fromkeys(needs, 0.0)  # as torchrun does, which counts no cores
        kind = ray.remote(max_restarts=0, max_task_retries=0, **needs)(Member)
        members = [kind.remote() for _ in range(count)]
        try:
            places = _placed(ray, [member.place.remote() for member in members], needs)
            streams = [
                member.work.remote(__version__, work, arguments, environment)
                for member, environment in zip(members, _environments(places, needs["num_gpus"]), strict=True)
            ]
            yield from _said(ray, streams)
        finally:
            for member in members:
                with suppress(ray.exceptions.RayError):
                    ray.kill(member)

    def _connected(self) -> ModuleType:
        """Ray's module, connected to the cluster. A program that is connected already stays so."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray  # an extra, and slow to import
        except ImportError:
            raise MissingDependency("ray", extra="ray", needed_for="--ray") from None
        if ray.is_initialized():
            return ray
        local: dict[str, Any] = {"num_cpus": max(cores(), self.workers or 1), "include_dashboard": False}
        try:
            ray.init(
                address=self.address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(local if self.address == "local" else {}),
            )
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise InputError(
                f"There is no Ray cluster at {self.address!r}: {str(error).splitlines()[0] if str(error) else error!r}",
                remedy="Start one with `ray start --head`, name its address (--ray HOST:6379), or use --ray local.",
            ) from error
        return ray


def _room(nodes: list[dict[str, Any]], workers: int | None, cpus: int, gpus: float) -> tuple[int, dict[str, float]]:
    """The number of actors, and the CPUs and GPUs of each. GPUs are asked for only if the cluster has some."""
    free = [node["Resources"] for node in nodes if node["Alive"]]
    each = [int(one.get("CPU", 0)) for one in free] or [0]
    if not any(one.get("GPU", 0) for one in free):
        gpus = 0.0

    def fitting(cpus: int) -> int:
        return sum(
            min(own // cpus, int(one.get("GPU", 0) // gpus) if gpus else own)
            for own, one in zip(each, free, strict=False)
        )

    if workers is None:
        cpus = max(1, min(cpus, max(each)))
        workers = max(1, fitting(cpus))
    else:
        wanted = max(1, min(workers, fitting(1)))
        cpus = next((most for most in range(max(each), 1, -1) if fitting(most) >= wanted), 1)
    return workers, {"num_cpus": cpus, "num_gpus": gpus}


def _no_room(count: int, needs: dict[str, float]) -> EmbedfitError:
    wanted = ", ".join(f"{value:g} {name[4:].upper()}" for name, value in needs.items() if value)
    workers = "a worker" if count == 1 else f"{count} workers, each"
    return EmbedfitError(
        f"The Ray cluster has had no room for {workers} of {wanted} for {_PATIENCE / 60:.0f} minutes.",
        remedy="Look at `ray status`. What is done is kept: the same command goes on.",
    )


def _unable(error: Exception) -> EmbedfitError:
    return EmbedfitError(
        f"A node of the Ray cluster can't do embedfit's work: {str(error).splitlines()[-1]}",
        remedy="Install the same Python, embedfit and models on every node, and mount the same folders.",
    )


def _too_large(error: Exception) -> EmbedfitError:
    """The error of a shard whose result has no room. Ray keeps on the disk what its object store can't hold."""
    return EmbedfitError(
        "its result has no room on its node: Ray's object store is full, and so is the disk that takes what the store "
        f"can't hold ({str(error).strip().splitlines()[-1]})",
        remedy="Free some space on that node, or start it with a larger store or on a larger disk: `ray start` "
        "--object-store-memory BYTES, --object-spilling-directory FOLDER. What is done is kept: the same command "
        "goes on.",
    )


def _placed(ray: ModuleType, asked: list[object], needs: dict[str, float]) -> list[tuple[str, int]]:
    """The (address, free port) of each member, when all have started. All or none: one alone would wait for ever."""
    ready, _ = ray.wait(asked, num_returns=len(asked), timeout=_PATIENCE)
    if len(ready) < len(asked):
        raise _no_room(len(asked), needs)
    try:
        places: list[tuple[str, int]] = ray.get(asked)
    except ray.exceptions.RayError as error:
        raise _unable(error) from error
    return places


def _environments(places: Sequence[tuple[str, int]], gpus: float) -> list[dict[str, str]]:
    """The variables by which torchrun tells each process its place, for members at these places.

    gpus: of each member. Ray shows an actor no GPU but its own, so that it is the first one there.
    """
    hosts = [host for host, _ in places]
    return [
        {
            "MASTER_ADDR": hosts[0],
            "MASTER_PORT": str(places[0][1]),
            "RANK": str(rank),
            "LOCAL_RANK": "0" if gpus else str(hosts[:rank].count(own)),
            "WORLD_SIZE": str(len(hosts)),
            "LOCAL_WORLD_SIZE": str(hosts.count(own)),
        }
        for rank, own in enumerate(hosts)
    ]


def _said(ray: ModuleType, streams: Sequence[Any]) -> Generator[str, None, None]:
    """Yield the lines of all members until all have ended. Raises the error that ended the others.

    If a member ends, the others fail because they miss it. So errors are gathered for a moment: the first error for
    people is raised, or that a member is lost, or a bug, in this order.
    """
    waiting, until = {stream: rank for rank, stream in enumerate(streams, 1)}, math.inf
    failures: list[tuple[int, Exception]] = []
    while waiting and (left := until - time.monotonic()) > 0:
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=None if math.isinf(left) else left)
        for stream in ready:
            try:
                kind, value = ray.get(next(stream))
            except StopIteration:
                del waiting[stream]
                continue
            except ray.exceptions.RayTaskError as error:  # not of the work, whose errors come as values
                kind, value = "failed", _unable(error)
            except ray.exceptions.RayError as error:
                lost = f"Worker {waiting[stream]} of {len(streams)} that work together on the Ray cluster has ended"
                kept = "What is done is kept: the same command goes on."
                kind, value = "lost", EmbedfitError(f"{lost} ({str(error).splitlines()[0]}).", remedy=kept)
            if kind == "line":
                yield value
            elif kind != "ended":
                del waiting[stream]
                until = min(until, time.monotonic() + _CLOSING)
                failures.append((1 if kind == "lost" else 2 * (not isinstance(value, EmbedfitError)), value))
    if failures:
        raise min(failures, key=lambda one: one[0])[1]


class _Member(Generic[Shard]):
    """An actor as the driver sees it. opening: is there until the actor has entered the state."""

    def __init__(self, actor: Any, opening: object) -> None:  # noqa: ANN401 - Ray makes its class
        self.actor = actor
        self.opening: object | None = opening
        self.shards: deque[tuple[object, Numbered[Shard]]] = deque()

    @property
    def awaited(self) -> object | None:
        """What the actor gives next. It works on its shards in turn."""
        return self.opening or (self.shards[0][0] if self.shards else None)


class _Crew(Generic[State, Shard, Result]):
    """The actors of one map."""

    def __init__(
        self,
        ray: ModuleType,
        needs: dict[str, float],
        job: tuple[Function[State, Shard, Result], AbstractContextManager[State]],
    ) -> None:
        self._ray, self._needs = ray, needs
        self._full = (ray.exceptions.OutOfDiskError, ray.exceptions.ObjectStoreFullError)
        # Explicit, although they are Ray's defaults: what is done again is decided here, not there.
        self._kind = ray.remote(max_restarts=0, max_task_retries=0, **needs)(Worker)
        self._job = [ray.put(one) for one in job]
        self._members: list[_Member[Shard]] = []

    @property
    def idle(self) -> bool:
        """Whether no actor has a shard."""
        return not any(member.shards for member in self._members)

    def hire(self, count: int) -> None:
        """Start actors, each as soon as the cluster has room for it."""
        for _ in range(count):
            actor = self._kind.remote()
            self._members.append(_Member(actor, actor.open.remote(__version__, *self._job)))

    def give(self, queue: Queue[Shard]) -> None:
        """Give shards to actors that are ready, one each and then the next, so that the last shards spread.

        A shard whose worker ended is given to an actor that has no other, so that it alone is blamed the next time.
        """
        for depth in range(1, _IN_FLIGHT + 1):
            for member in self._members:
                if member.opening is not None or len(member.shards) >= depth:
                    continue
                if any(queue.is_suspect(numbered) for _, numbered in member.shards):
                    continue
                if (numbered := queue.next()) is None:
                    return
                if member.shards and queue.is_suspect(numbered):
                    queue.give_back(numbered)
                else:
                    member.shards.append((member.actor.do.remote(numbered[1]), numbered))

    def results(self, queue: Queue[Shard]) -> Generator[tuple[int, Result], None, None]:
        """Wait until an actor has something to say, and yield the results."""
        awaited = {member.awaited: member for member in self._members if member.awaited is not None}
        ready, _ = self._ray.wait(list(awaited), num_returns=1, timeout=_PATIENCE)
        if not ready and self.idle:
            raise _no_room(1, self._needs)
        for one in ready:
            member = awaited[one]
            try:
                said = self._ray.get(one)
            except self._full as error:
                _, (_, shard) = member.shards.popleft()
                queue.failed(shard, _too_large(error))
                continue
            except self._ray.exceptions.RayTaskError as error:  # not of the work, whose errors come as values
                raise _unable(error) from error
            except self._ray.exceptions.RayError as error:
                self._replace(member, queue, str(error).splitlines()[0])
                continue
            if member.opening is not None:
                member.opening = None
                if said is not None:
                    raise said
                continue
            _, (number, shard) = member.shards.popleft()
            fine, value = said
            if fine:
                yield number, value
            else:
                queue.failed(shard, value)

    def _replace(self, member: _Member[Shard], queue: Queue[Shard], reason: str) -> None:
        """Take the shards of an actor back that has ended, and start another one.

        The result of the first shard may have been lost on its way, so that any of them may be the one that ended it.
        """
        self._members.remove(member)
        self._kill(member)
        self.hire(1)
        for _, numbered in member.shards:
            queue.lost(numbered, f"a worker of the Ray cluster ended in the middle of its work ({reason})")

    def end(self) -> None:
        """Let actors that are ready leave their state; end all of them, also one that enters its state just now."""
        with suppress(self._ray.exceptions.RayError):
            if opening := {one.opening: one for one in self._members if one.opening is not None}:
                for entered in self._ray.wait(list(opening), num_returns=len(opening), timeout=0)[0]:
                    opening[entered].opening = None
            closing = [one.actor.close.remote() for one in self._members if one.opening is None and not one.shards]
            if closing:
                self._ray.wait(closing, num_returns=len(closing), timeout=_CLOSING)
        for member in self._members:
            self._kill(member)
        self._members.clear()

    def _kill(self, member: _Member[Shard]) -> None:
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(member.actor)


def _open(rest: str) -> Ray:
    address, comma, workers = rest.rpartition(",")
    if not comma:
        address, workers = rest, ""
    if not address or (workers and (not workers.isdecimal() or not 0 < int(workers) <= 100_000)):
        raise UsageError(
            f"{rest!r} names no Ray cluster.", remedy=f"For example: --ray local --workers 2, or --workers {_FORM}"
        )
    return Ray(address, int(workers) if workers else None)


EXECUTOR = ExecutorKind(form=_FORM, open=_open)
