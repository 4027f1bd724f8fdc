"""What a machine has for engines. Pure: texts of the kernel's files in, numbers out; `survey.py` reads the files.

Sources: proc(5), the kernel's cgroup-v1/memory and cgroup-v2 documents.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

KIB: Final = 1024
NO_LIMIT_BYTES: Final = 1 << 60
"""cgroup v1 writes the largest page-aligned number where there is no limit."""
ENGINE_FEATURES: Final = (
    ("avx2", "avx2"),
    ("avx512f", "avx512"),
    ("avx512_vnni", "vnni"),
    ("avx_vnni", "vnni"),
    ("avx512_bf16", "bf16"),
    ("amx_int8", "amx"),
    ("asimd", "neon"),
    ("asimddp", "dotprod"),
    ("i8mm", "i8mm"),
    ("sve", "sve"),
)
"""Flags of /proc/cpuinfo (x86 and Arm) for which ggml has kernels of their own, and what we call them."""


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Device:
    """cores: that this process may use; memory_bytes: of the machine, or what its container may take; free_bytes: of
    that, what could be taken without swapping."""

    cpu: str
    features: tuple[str, ...]
    cores: int
    memory_bytes: int
    free_bytes: int
    gpus: tuple[Gpu, ...] = ()

    @property
    def gpu_class(self) -> str:
        return self.gpus[0].name if self.gpus else "cpu"


@dataclass(frozen=True, slots=True)
class CgroupMemory:
    """limit_bytes: None without one. reclaimable_bytes: of used_bytes, files' pages that go when memory is wanted."""

    limit_bytes: int | None
    used_bytes: int
    reclaimable_bytes: int = 0

    @property
    def free_bytes(self) -> int | None:
        if self.limit_bytes is None:
            return None
        return max(0, self.limit_bytes - max(0, self.used_bytes - self.reclaimable_bytes))


def read_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    """The processor's name, and what it can that engines use, of /proc/cpuinfo."""
    name = re.search(r"^(?:model name|Model|cpu model)\s*: *(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: *(.+)$", text, re.MULTILINE)
    there = set(flags[1].split()) if flags else set[str]()
    features = dict.fromkeys(ours for flag, ours in ENGINE_FEATURES if flag in there)
    return (name[1].strip() if name else "unknown"), tuple(features)


def read_meminfo(text: str) -> tuple[int, int] | None:
    """Total and available bytes of /proc/meminfo; None if it does not say."""
    values = {name: int(kib) * KIB for name, kib in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}
    if "MemTotal" not in values or "MemAvailable" not in values:
        return None
    return values["MemTotal"], values["MemAvailable"]


def read_cgroups(text: str) -> dict[str, str]:
    """Where this process is in each hierarchy, of /proc/self/cgroup: by controller, "" for version 2."""
    places: dict[str, str] = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if separator:
            places.update(dict.fromkeys(controllers.split(","), path))
    return places


def read_cpu_max(text: str) -> float | None:
    """Cores' worth of time that a version 2 cgroup may use (cpu.max: "200000 100000"); None without a limit."""
    quota, _, period = text.strip().partition(" ")
    return read_quota(quota, period or "100000")


def read_quota(quota: str, period: str) -> float | None:
    """The same of version 1, whose two numbers are files: cpu.cfs_quota_us is -1 without a limit."""
    if not quota.strip().isdecimal() or not period.strip().isdecimal() or int(period) == 0:
        return None
    return int(quota) / int(period)


def read_limit(text: str) -> int | None:
    """Bytes of memory.max or memory.limit_in_bytes; None without a limit."""
    value = text.strip()
    return int(value) if value.isdecimal() and int(value) < NO_LIMIT_BYTES else None


def read_count(text: str, name: str) -> int:
    """One number of memory.stat; 0 if it is not there."""
    found = re.search(rf"^{re.escape(name)} (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


def usable_cores(allowed: int, quotas: list[float]) -> int:
    """allowed: cores that the scheduler may use; quotas: cores' worth of time of each cgroup above this process."""
    return max(1, int(min([float(allowed), *quotas])))


def usable_memory(total: int, available: int, groups: list[CgroupMemory]) -> tuple[int, int]:
    """What of the machine's memory this process and its children may take in all, and now."""
    limits = [group.limit_bytes for group in groups if group.limit_bytes is not None]
    free = [group.free_bytes for group in groups if group.free_bytes is not None]
    return min([total, *limits]), min([available, *free])
