"""Looks at this machine: processor, memory, and GPUs of NVIDIA where their driver is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

from inference.device import (
    CgroupMemory,
    Device,
    Gpu,
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

NVIDIA_DRIVER: Final = Path("dev/nvidiactl")
"""Without it there is nothing to ask, and NVML is not even imported."""


def survey(root: Path = Path("/")) -> Device:
    """What this process may use of the machine, now. root: another one's files, for tests."""
    cpu, features = read_cpuinfo(_read(root / "proc/cpuinfo"))
    memory = psutil.virtual_memory()
    total, available = read_meminfo(_read(root / "proc/meminfo")) or (memory.total, memory.available)
    places = read_cgroups(_read(root / "proc/self/cgroup"))
    groups, quotas = list(_memory_groups(root, places)), list(_cpu_quotas(root, places))
    limit_bytes, free_bytes = usable_memory(total, available, groups)
    gpus = nvidia_gpus() if (root / NVIDIA_DRIVER).exists() else ()
    return Device(cpu, features, usable_cores(_allowed_cores(), quotas), limit_bytes, free_bytes, gpus)


def nvidia_gpus() -> tuple[Gpu, ...]:
    """By NVML (nvidia-ml-py); none if it, the driver or the card is missing or broken."""
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(_gpu(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _gpu(handle: object) -> Gpu:
    import pynvml

    name, memory = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(name if isinstance(name, str) else name.decode(), int(memory.total), int(memory.free))


def _allowed_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_groups(root: Path, places: dict[str, str]) -> Iterator[CgroupMemory]:
    for folder in _upwards(root / "sys/fs/cgroup/memory", places.get("memory")):
        limit = read_limit(_read(folder / "memory.limit_in_bytes"))
        used = read_limit(_read(folder / "memory.usage_in_bytes")) or 0
        yield CgroupMemory(limit, used, read_count(_read(folder / "memory.stat"), "total_inactive_file"))
    for folder in _upwards(root / "sys/fs/cgroup", places.get("")):
        limit = read_limit(_read(folder / "memory.max"))
        used = read_limit(_read(folder / "memory.current")) or 0
        yield CgroupMemory(limit, used, read_count(_read(folder / "memory.stat"), "inactive_file"))


def _cpu_quotas(root: Path, places: dict[str, str]) -> Iterator[float]:
    for folder in _upwards(root / "sys/fs/cgroup/cpu", places.get("cpu")):
        quota = read_quota(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))
        if quota is not None:
            yield quota
    for folder in _upwards(root / "sys/fs/cgroup", places.get("")):
        if (quota := read_cpu_max(_read(folder / "cpu.max"))) is not None:
            yield quota


def _upwards(mount: Path, place: str | None) -> list[Path]:
    """A cgroup's folder and those above it, whose limits count as well; in a container some may not be mounted."""
    if place is None:
        return []
    inner = mount / place.lstrip("/")
    return [inner, *(folder for folder in inner.parents if folder.is_relative_to(mount))]


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
