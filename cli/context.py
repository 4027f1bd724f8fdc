"""What all groups of tetherctl's commands share: whose daemon is asked, and how the answer is printed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from platformdirs import user_data_path

from cli import show
from cli.control import Control
from p2p.errors import FIELD_INVALID, TetherError

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_Answer = TypeVar("_Answer")


@dataclass
class Context:
    """Set once from the options that stand before or after any command."""

    data_dir: Path
    json: bool = False
    url: str = ""

    @property
    def control(self) -> Control:
        return Control(self.data_dir, self.url, os.environ.get("TETHERCTL_KEY", "") if self.url else "")


context: Final = Context(user_data_path("tether"))


def printed(answer: _Answer, people: Callable[[_Answer], None]) -> None:
    """As JSON if that was asked for, else as people shows it."""
    if context.json:
        show.as_json(answer)
    else:
        people(answer)


def seconds(text: str, name: str = "ttl") -> float:
    """Read 30m, 24h or 7d. Raises TetherError(FIELD_INVALID)."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match is None:
        raise TetherError(FIELD_INVALID, f"{name} is {text!r}; it has to be like 30m, 24h or 7d.", field=name)
    return float(match[1]) * _UNITS[match[2]]
