"""What is found of a machine: by the kernel's own texts, and of this one."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.device import (
    CgroupMemory,
    read_cgroups,
    read_count,
    read_cpu_max,
    read_cpuinfo,
    read_limit,
    read_meminfo,
    read_quota,
    usable_cores,
    usable_memory,
)
from inference.survey import nvidia_gpus, survey

X86 = """processor\t: 0
model name\t: AMD EPYC 9R14
flags\t\t: fpu sse4_2 avx2 avx512f avx512_bf16 avx_vnni avx512_vnni

processor\t: 1
model name\t: AMD EPYC 9R14
flags\t\t: fpu sse4_2 avx2 avx512f avx512_bf16 avx_vnni avx512_vnni
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n\nModel\t\t: Raspberry Pi 5\n"
MEMINFO = "MemTotal:       24684092 kB\nMemFree:        21816928 kB\nMemAvailable:   22461124 kB\n"
GIB = 1 << 30


def test_the_processor_is_named_with_what_engines_use_of_it() -> None:
    assert read_cpuinfo(X86) == ("AMD EPYC 9R14", ("avx2", "avx512", "vnni", "bf16"))
    assert read_cpuinfo(ARM) == ("Raspberry Pi 5", ("neon", "dotprod", "i8mm"))
    assert read_cpuinfo("") == ("unknown", ())


def test_memory_is_read_in_bytes() -> None:
    assert read_meminfo(MEMINFO) == (24684092 * 1024, 22461124 * 1024)
    assert read_meminfo("MemTotal: 12 pages") is None


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000\n", None), ("200000 100000\n", 2.0), ("50000", 0.5), ("", None), ("1 0", None)],
)
def test_a_version_2_quota_is_cores_worth_of_time(text: str, cores: float | None) -> None:
    assert read_cpu_max(text) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1\n", None), ("150000\n", 1.5), ("", None)])
def test_a_version_1_quota_is_two_files(quota: str, cores: float | None) -> None:
    assert read_quota(quota, "100000\n") == cores


@pytest.mark.parametrize(
    ("text", "limit"), [("max\n", None), ("9223372036854771712\n", None), ("1073741824\n", GIB), ("", None)]
)
def test_a_memory_limit_may_be_none_in_either_version(text: str, limit: int | None) -> None:
    assert read_limit(text) == limit


def test_a_process_is_in_one_group_of_each_hierarchy() -> None:
    text = "9:name=systemd:/\n4:memory:/box/a\n1:cpu,cpuacct:/box\n0::/user.slice\n"
    places = read_cgroups(text)
    assert (places["memory"], places["cpuacct"], places[""]) == ("/box/a", "/box", "/user.slice")


def test_a_containers_limits_count_before_the_machines() -> None:
    group = CgroupMemory(limit_bytes=4 * GIB, used_bytes=3 * GIB, reclaimable_bytes=GIB)
    assert usable_memory(64 * GIB, 32 * GIB, [group, CgroupMemory(None, 9)]) == (4 * GIB, 2 * GIB)
    assert usable_memory(64 * GIB, GIB, [group]) == (4 * GIB, GIB)
    assert [usable_cores(16, quotas) for quotas in ([], [2.5], [0.5], [64.0])] == [16, 2, 1, 16]


@given(st.text(max_size=200))
def test_whatever_the_kernel_writes_nothing_raises(text: str) -> None:
    read_cpuinfo(text)
    read_meminfo(text)
    read_cgroups(text)
    read_cpu_max(text)
    read_quota(text, text)
    read_limit(text)
    read_count(text, "inactive_file")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_limits_of_groups_above_count_as_well(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": X86,
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/pod/box\n",
        "sys/fs/cgroup/pod/memory.max": str(2 * GIB),
        "sys/fs/cgroup/pod/memory.current": str(GIB),
        "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
        "sys/fs/cgroup/pod/box/memory.max": "max\n",
        "sys/fs/cgroup/pod/box/cpu.max": "100000 100000\n",
    }
    found = survey(write(tmp_path, files))
    assert (found.cores, found.memory_bytes, found.free_bytes) == (1, 2 * GIB, GIB + GIB // 2)
    assert (found.cpu, found.gpus, found.gpu_class) == ("AMD EPYC 9R14", (), "cpu")


def test_version_1_limits_count_the_same(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "4:memory:/box\n1:cpu,cpuacct:/box\n",
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": str(3 * GIB),
        "sys/fs/cgroup/memory/box/memory.usage_in_bytes": str(2 * GIB),
        "sys/fs/cgroup/memory/box/memory.stat": f"total_inactive_file {GIB}\n",
        "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "100000",
        "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000",
    }
    found = survey(write(tmp_path, files))
    assert (found.cores, found.memory_bytes, found.free_bytes) == (1, 3 * GIB, 2 * GIB)


def test_this_machine_has_a_core_and_some_memory() -> None:
    found = survey()
    assert found.cores >= 1 and 0 < found.free_bytes <= found.memory_bytes


def test_without_nvidias_driver_its_library_is_not_even_imported(tmp_path: Path) -> None:
    class Trap(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"pynvml.{name} was asked for")

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pynvml", Trap("pynvml"))
        assert survey(write(tmp_path, {"proc/meminfo": MEMINFO})).gpus == ()


def test_gpus_come_with_their_memory_and_a_broken_driver_is_none() -> None:
    class Broken(Exception):
        pass

    class Memory:
        total, free = 80 * GIB, 79 * GIB

    class Nvml(ModuleType):
        NVMLError = Broken
        works = True

        def nvmlInit(self) -> None:
            if not self.works:
                raise Broken

        def nvmlShutdown(self) -> None:
            pass

        def nvmlDeviceGetCount(self) -> int:
            return 2

        def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
            return index

        def nvmlDeviceGetName(self, handle: int) -> str | bytes:
            return b"NVIDIA H100" if handle else "NVIDIA H100"

        def nvmlDeviceGetMemoryInfo(self, _handle: int) -> type[Memory]:
            return Memory

    with pytest.MonkeyPatch.context() as patch:
        library = Nvml("pynvml")
        patch.setitem(sys.modules, "pynvml", library)
        first, second = nvidia_gpus()
        assert first == second and (first.name, first.memory_bytes) == ("NVIDIA H100", 80 * GIB)
        library.works = False
        assert nvidia_gpus() == ()
        patch.setitem(sys.modules, "pynvml", None)
        assert nvidia_gpus() == ()
