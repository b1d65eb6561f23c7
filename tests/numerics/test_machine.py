"""Control groups as Linux lays them out; elsewhere only the machine's own limits count."""

import os

import pytest

from embedfit.numerics import machine as hardware

GIB = 1 << 30


@pytest.fixture
def linux(tmp_path, monkeypatch):
    """A machine with 20 GiB of free memory, of 8 cores, whose files are written by the test."""
    monkeypatch.setattr(hardware, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(hardware, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    write({"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable: {20 << 20} kB\n", "proc/self/cgroup": "0::/\n"})
    return write


def test_a_machine_without_containers(linux):
    assert hardware.memory_limit() == 20 * GIB
    assert hardware.cores() == 8


def test_version_2_and_its_parents(linux):
    linux(
        {
            "proc/self/cgroup": "0::/pod/container\n",
            "groups/pod/memory.max": f"{12 * GIB}\n",
            "groups/pod/memory.current": f"{5 * GIB}\n",
            "groups/pod/memory.stat": f"anon 7\ninactive_file {2 * GIB}\n",
            "groups/pod/container/memory.max": "max\n",
            "groups/pod/container/memory.current": f"{GIB}\n",
            "groups/pod/cpu.max": "max 100000\n",
            "groups/pod/container/cpu.max": "250000 100000\n",
        }
    )
    assert hardware.memory_limit() == 9 * GIB  # two of the five are files that can be read again
    assert hardware.cores() == 2


def test_version_1(linux):
    linux(
        {
            "proc/self/cgroup": "9:name=systemd:/\n4:memory:/job\n2:cpu,cpuacct:/job\n0::/\n",
            "groups/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "groups/memory/memory.usage_in_bytes": f"{3 * GIB}\n",
            "groups/memory/job/memory.limit_in_bytes": f"{4 * GIB}\n",
            "groups/memory/job/memory.usage_in_bytes": f"{5 * GIB}\n",
            "groups/memory/job/memory.stat": f"inactive_file 1\ntotal_inactive_file {2 * GIB}\n",
            "groups/cpu/job/cpu.cfs_quota_us": "50000\n",
            "groups/cpu/job/cpu.cfs_period_us": "100000\n",
            "groups/cpu/cpu.cfs_quota_us": "-1\n",
            "groups/cpu/cpu.cfs_period_us": "100000\n",
        }
    )
    assert hardware.memory_limit() == GIB
    assert hardware.cores() == 1


def test_a_container_sees_its_own_group_as_the_root(linux):
    linux(
        {
            "proc/self/cgroup": "4:memory:/docker/0a1b\n0::/../outside\n",
            "groups/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
            "groups/memory/memory.usage_in_bytes": f"{GIB}\n",
        }
    )
    assert hardware.memory_limit() == GIB


def test_other_systems(linux, tmp_path):
    (tmp_path / "proc" / "meminfo").unlink()
    (tmp_path / "proc" / "self" / "cgroup").unlink()
    assert hardware.memory_limit() == 4 * GIB
    assert hardware.cores() == 8


def test_rates_are_operations_by_the_quickest_round(monkeypatch):
    seconds = {"slow": iter([9.0, 4.0, 2.0]), "quick": iter([9.0, 0.5, 1.0])}  # the first call only prepares
    now = [0.0]
    monkeypatch.setattr(hardware.time, "perf_counter", lambda: now[0])

    def product(name):
        def multiply():
            now[0] += next(seconds[name])

        return multiply

    assert hardware.rates({name: product(name) for name in seconds}, 8.0, rounds=2) == {"slow": 4.0, "quick": 16.0}
