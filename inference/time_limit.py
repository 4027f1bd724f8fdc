"""Stop Python code of a stranger's making that takes too long, in whatever thread it runs."""

from __future__ import annotations

import ctypes
import threading
import time
from types import TracebackType


class TimeLimitExceeded(Exception):
    """Raised inside the code that took too long, wherever it was."""


class TimeLimit:
    """A context that ends its body with TimeLimitExceeded after so many seconds. For one thread at a time.

    A watching thread has the interpreter raise in the other one, at its next bytecode: a loop in Python ends, a single
    long call into C only when it returns.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._changed = threading.Condition()
        self._deadline_s: float | None = None
        self._watched = 0
        self._raised = False
        threading.Thread(target=self._watch, daemon=True).start()

    def __enter__(self) -> None:
        with self._changed:
            self._raised = False
            self._watched = threading.get_ident()
            self._deadline_s = time.monotonic() + self._seconds
            self._changed.notify()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._deadline_s = None
        if self._raised and kind is not TimeLimitExceeded:
            # It is raised at one of the next bytecodes: here, and not in whatever comes after.
            while True:
                time.sleep(0.001)

    def _watch(self) -> None:
        with self._changed:
            while True:
                left_s = None if self._deadline_s is None else self._deadline_s - time.monotonic()
                if left_s is None or left_s > 0:
                    self._changed.wait(left_s)
                    continue
                self._deadline_s = None
                self._raised = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._watched), ctypes.py_object(TimeLimitExceeded)
                )
