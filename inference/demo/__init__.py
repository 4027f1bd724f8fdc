"""tether-demo, the model in the package: the first minute needs no download."""

from __future__ import annotations

from pathlib import Path

MODEL_NAME = "tether-demo"
MODEL_VERSION = "1"
MODEL_PATH = Path(__file__).with_name("tether-demo.gguf")
