"""What a process does that holds prompts in its memory and may die of one: it takes nothing along, and nobody."""

from __future__ import annotations

import ctypes
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

_PR_SET_DUMPABLE: Final = 4
_FIRST_VICTIM: Final = "800"
"""Of 1000 that may be added to what the kernel reckons from memory alone: before the daemon, whatever that holds."""


def forbid_core_dumps() -> None:
    """Leave no image of this process's memory on a disk when it crashes.

    The limit alone is not enough: a kernel that pipes cores to a handler (systemd-coredump, apport) ignores it
    (core(5)), but no kernel dumps a process that says it is not dumpable. Such a process cannot be traced by others
    of its user either.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def die_before_parent() -> None:
    """When memory runs out, let the kernel end this process and not the daemon, which starts it anew (proc(5))."""
    with suppress(OSError):  # no Linux, or a container that forbids it
        Path("/proc/self/oom_score_adj").write_text(_FIRST_VICTIM)


def leave_signals_to_parent() -> None:
    """Ignore what a terminal or a service manager sends to a whole group: the parent decides when this process ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
