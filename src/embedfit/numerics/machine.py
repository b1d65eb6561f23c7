"""The speed and memory of this machine, measured by short probes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16", "fp16"]


_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """Cores that this process may use: its affinity and its containers' CPU quotas, at least one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    for group in _control_groups("cpu"):
        quota = _words(group / "cpu.max")
        if not quota:
            quota = _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
        if len(quota) == 2 and quota[0] not in ("max", "-1"):
            allowed = min(allowed, max(1, round(int(quota[0]) / int(quota[1]))))
    return max(1, allowed)


def memory_limit() -> int:
    """Bytes that this process may still take: free memory, and what its containers leave of their limits."""
    limits = []
    free = _table(_PROC / "meminfo").get("MemAvailable:")
    if free is not None:
        limits.append(free * 1024)
    for group in _control_groups("memory"):
        maximum = _words(group / "memory.max") or _words(group / "memory.limit_in_bytes")
        used = _words(group / "memory.current") or _words(group / "memory.usage_in_bytes")
        if maximum and used and maximum[0] != "max":
            # Cached pages of files count as used memory, but the kernel drops them before it kills a process.
            held = _table(group / "memory.stat")
            reclaimable = held.get("total_inactive_file", held.get("inactive_file", 0))
            limits.append(max(0, int(maximum[0]) - max(0, int(used[0]) - reclaimable)))
    return min(limits, default=4 << 30)


def _control_groups(controller: str) -> list[Path]:
    """Folders of the control groups that this process is in, of versions 1 and 2, from the innermost outwards.

    In a container the kernel may name the host's path; the container's own group then is at the root.
    """
    found = []
    try:
        lines = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        root = _GROUPS / controller if names else _GROUPS
        own = root / path.strip("/")
        found += [folder for folder in (own, *own.parents) if folder.is_relative_to(root) and folder.is_dir()]
    return found


def _words(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text().split())
    except OSError:
        return ()


def _table(path: Path) -> dict[str, int]:
    """The first number after each line's first word."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}


def may_have_gpu() -> bool:
    """Whether a GPU's driver is there, so that asking torch is worth loading it."""
    return any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")) or os.name == "nt"


def has_gpu() -> bool:
    """Whether torch can use a GPU. torch is loaded only where a GPU's driver is."""
    return may_have_gpu() and device().type == "cuda"


def device() -> torch.device:
    """The first GPU, or the CPU of a machine without one."""
    import torch  # imported late: a server on OpenVINO takes `cores` from here without torch's start and memory

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def rates(products: Mapping[str, Callable[[], object]], operations: float, *, rounds: int) -> dict[str, float]:
    """Operations a second of each product: the best of several rounds, in which the products take turns.

    Other programs can only make a round slower, hence the best; taking turns, a busy moment hits all products alike.
    """
    fastest = dict.fromkeys(products, float("inf"))
    for multiply in products.values():
        multiply()  # the first time prepares memory and code
    for _ in range(rounds):
        for name, multiply in products.items():
            start = time.perf_counter()
            multiply()
            fastest[name] = min(fastest[name], time.perf_counter() - start)
    return {name: operations / seconds for name, seconds in fastest.items()}


def gemm_rates(*kinds: Precision, rounds: int = 6) -> dict[str, float]:
    """FLOP/s of x·Wᵀ of a transformer's feed-forward shape on the CPU, both operands in each of the precisions."""
    import torch  # see device()

    rows, width = 1024, 768
    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    products: dict[str, Callable[[], object]] = {
        kind: partial(
            torch.nn.functional.linear,
            torch.ones(rows, width, dtype=types[kind]),
            torch.ones(4 * width, width, dtype=types[kind]),
        )
        for kind in kinds
    }
    return rates(products, 2.0 * rows * width * 4 * width, rounds=rounds)


def gemm_rate(kind: Precision) -> float:
    """FLOP/s of the same product in one precision."""
    return gemm_rates(kind)[kind]


@lru_cache(maxsize=1)
def best_precision() -> Precision:
    """The precision to train in: bf16 where the hardware multiplies it clearly faster, else fp32.

    On CPUs with AMX bf16 products are 6 to 15 times as fast as fp32; on CPUs with AVX512-BF16 alone they can be slower,
    and the operations around the products gain nothing. A CPU's flags don't tell this, so a probe measures it.
    """
    import torch  # see device()

    if device().type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    found = gemm_rates("fp32", "bf16")
    return "bf16" if found["bf16"] > 1.5 * found["fp32"] else "fp32"


def encoding_precision() -> Precision:
    """The precision to encode in: fp32 on a CPU, where vectors must be those of sentence-transformers.

    bf16 moves them by about 1e-2, and a text's vector then depends on the texts that are encoded beside it. A probe
    could also choose different precisions in two processes, and the second would not find the vectors that the first
    one stored.
    """
    return best_precision() if has_gpu() else "fp32"
