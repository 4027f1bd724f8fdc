"""What a process that holds prompts in its memory does to keep them there."""

from __future__ import annotations

import ctypes
import resource
import signal
import sys
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def forbid_core_dumps() -> None:
    """Leave no image of this process's memory on a disk when it crashes.

    The limit alone is not enough: a kernel that pipes cores to a handler (systemd-coredump, apport) ignores it
    (core(5)), but no kernel dumps a process that says it is not dumpable. Such a process cannot be traced by others
    of its user either.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def leave_signals_to_parent() -> None:
    """Ignore what a terminal or a service manager sends to a whole group: the parent decides when this process ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
