"""What this machine can do, found by short probes rather than by assumption."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16", "fp16"]


def cores() -> int:
    """Cores that this process may use: its affinity and the container's CPU quota, at least one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            allowed = min(allowed, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return max(1, allowed)


def memory_limit() -> int:
    """Bytes that this process may still take: free memory, and what a container leaves of its limit."""
    limits = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
        maximum = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if maximum != "max":
            used = int(Path("/sys/fs/cgroup/memory.current").read_text())
            limits.append(max(0, int(maximum) - used))
    except (OSError, ValueError):
        pass
    return min(limits) if limits else 4 << 30


def may_have_gpu() -> bool:
    """Whether a GPU's driver is there, so that asking torch is worth loading it."""
    return any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")) or os.name == "nt"


def device() -> torch.device:
    """The first GPU where there is one, else the CPU."""
    import torch  # a server on OpenVINO asks this module for cores, and does without torch's start and memory

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def gemm_rate(precision: Precision, *, seconds: float = 0.15) -> float:
    """FLOP/s of x·Wᵀ of a transformer's feed-forward shape on the CPU, both operands in that precision."""
    import torch  # see device()

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    rows, width = 1024, 768
    hidden = torch.ones(rows, width, dtype=kind)
    weight = torch.ones(4 * width, width, dtype=kind)
    torch.nn.functional.linear(hidden, weight)
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or count < 2:
        torch.nn.functional.linear(hidden, weight)
        count += 1
    return count * 2.0 * rows * width * 4 * width / elapsed


@lru_cache(maxsize=1)
def best_precision() -> Precision:
    """The precision to train and encode in: bf16 where the hardware multiplies it clearly faster, else fp32.

    On CPUs with AMX bf16 products are 6 to 15 times as fast as fp32; on CPUs with AVX512-BF16 alone
    they can be slower, and what surrounds the products gains nothing. Hence a probe, not a flag.
    """
    import torch  # see device()

    if device().type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if gemm_rate("bf16") > 1.5 * gemm_rate("fp32") else "fp32"
