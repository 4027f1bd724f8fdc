"""What a joining node shows: each phase as it is reached, a progress line for the slow ones."""

from __future__ import annotations

import sys
import time
from typing import Final, Literal

import msgspec

from tetherd.phases import Phases

_WIDTH: Final = 14
_NEXT: Final = (
    "\x1b[2m  Point OpenAI clients there, with /v1 behind it. In another terminal: tetherctl chat, "
    "tetherctl invite. Ctrl-C drains and leaves.\x1b[0m"
)


def phases_for(log_format: Literal["text", "json"]) -> Phases:
    if log_format == "json":
        return JsonPhases()
    return TerminalPhases() if sys.stderr.isatty() else PlainPhases()


class PlainPhases:
    """One line a phase, for pipes and journals."""

    def begin(self, region: str) -> None:
        print(f"tetherd: joining region {region}", file=sys.stderr, flush=True)

    def reached(self, phase: str, detail: str) -> None:
        print(f"tetherd: {phase}: {detail}", file=sys.stderr, flush=True)

    def progress(self, phase: str, fraction: float, detail: str) -> None:
        """Only the end matters in a file."""

    def notice(self, text: str) -> None:
        print(f"tetherd: {text}", file=sys.stderr, flush=True)


class TerminalPhases:
    """A tick a phase; a phase under way redraws its own line."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._open = False

    def begin(self, region: str) -> None:
        self._line(f"\x1b[1mtether\x1b[0m  joining region {region}")

    def reached(self, phase: str, detail: str) -> None:
        self._line(
            f"\x1b[32m✓\x1b[0m {phase.ljust(_WIDTH)}{detail}  \x1b[2m{time.monotonic() - self._began:.1f}s\x1b[0m"
        )
        if phase == "ready":
            self._line(_NEXT)

    def progress(self, phase: str, fraction: float, detail: str) -> None:
        print(
            f"\r\x1b[K… {phase.ljust(_WIDTH)}{fraction:4.0%}  {detail}", end="", file=sys.stderr, flush=True
        )
        self._open = True

    def notice(self, text: str) -> None:
        self._line(f"\x1b[33m! {text}\x1b[0m")

    def _line(self, text: str) -> None:
        clear = "\r\x1b[K" if self._open else ""
        self._open = False
        print(f"{clear}{text}", file=sys.stderr, flush=True)


class JsonPhases:
    """One JSON object a line, beside the JSON logs."""

    def begin(self, region: str) -> None:
        self._write({"event": "phase", "phase": "begin", "region": region})

    def reached(self, phase: str, detail: str) -> None:
        self._write({"event": "phase", "phase": phase, "detail": detail})

    def progress(self, phase: str, fraction: float, detail: str) -> None:
        self._write({"event": "progress", "phase": phase, "fraction": round(fraction, 3), "detail": detail})

    def notice(self, text: str) -> None:
        self._write({"event": "notice", "text": text})

    def _write(self, fields: dict[str, object]) -> None:
        print(msgspec.json.encode(fields).decode(), file=sys.stderr, flush=True)
