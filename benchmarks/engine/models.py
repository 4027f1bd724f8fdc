"""The models of `make bench-engine`: random weights in real shapes, written once."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.random_model import write_random_model
from benchmarks.report import OUT, say

CONTEXT: Final = 4_096
SHAPES: Final = {
    "25M": {"dim": 512, "layers": 8, "heads": 8, "ff": 1_408},
    "135M": {"dim": 768, "layers": 19, "heads": 12, "ff": 2_048},
    "500M": {"dim": 1_024, "layers": 40, "heads": 16, "ff": 2_816},
}
"""Parameters to shape; with the small vocabulary of the built-in model nearly all of them are in the layers."""


def model_path(name: str) -> Path:
    """The file of a model, written if it is not there yet."""
    path = OUT / f"random-{name}.gguf"
    if not path.exists():
        OUT.mkdir(exist_ok=True)
        parameters = write_random_model(path, context=CONTEXT, **SHAPES[name])
        say(f"{path.name}: {parameters / 1e6:.0f} M parameters")
    return path
