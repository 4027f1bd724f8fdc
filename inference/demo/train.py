"""Makes tether-demo: corpus, vocabulary, training on a CPU, GGUF. `make demo-model` runs it.

The same seed, steps and threads on the same kind of CPU give the same file; elsewhere rounding makes a sibling.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch.nn import functional

from inference.demo import MODEL_PATH
from inference.demo.corpus import chat
from inference.demo.gguf_file import write
from inference.demo.model import Shape, Tensor, Weights, hidden, initial, logits
from inference.demo.muon import Optimizer
from inference.demo.vocabulary import BOS, SIZE, Marked, Vocabulary, learn

STEPS = 2400
SEED = 1
WARM_UP_STEPS = 40
# The rate stays full for this share of the steps and then falls to nothing in a straight line.
FULL_RATE_SHARE = 0.45
CONTEXT_TOKENS = 1024
SAVE_EVERY_STEPS = 200
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Stage:
    """Rows of one length. until: the share of all steps at which it ends. Every batch holds 4,096 tokens."""

    until: float
    rows: int
    length: int


# Facts are learnt from short rows, which are cheap; long stories, long counts and long chats come last.
STAGES = (Stage(0.70, 32, 128), Stage(0.90, 8, 512), Stage(1.0, 4, CONTEXT_TOKENS))


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    shape = Shape(vocabulary=SIZE)
    vocabulary = learn(options.seed)
    weights = initial(shape, options.seed)
    print(
        f"{sum(weight.numel() for weight in weights.values()):,} weights, {options.steps} steps", flush=True
    )
    train(weights, shape, vocabulary, options.steps, options.seed, options.checkpoint)
    arrays = {name: weight.detach().numpy() for name, weight in weights.items()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write(options.out, shape, vocabulary, arrays, CONTEXT_TOKENS)
    options.checkpoint.unlink(missing_ok=True)
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")


def train(
    weights: Weights, shape: Shape, vocabulary: Vocabulary, steps: int, seed: int, checkpoint: Path
) -> None:
    """Train in place, from the checkpoint on if it is there and of the same run."""
    optimizer = Optimizer(weights)
    first = _restore(checkpoint, optimizer, (steps, seed))
    began = time.monotonic()
    for step in range(first, steps):
        rows, targets = batch(vocabulary, _stage(step / steps), seed, step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            learnt = targets != IGNORED
            scores = logits(weights, hidden(weights, shape, rows)[learnt])
        loss = functional.cross_entropy(scores.float(), targets[learnt])
        loss.backward()
        optimizer.step(step, _rate(step, steps))
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step} loss {loss.item():.3f} seconds {time.monotonic() - began:.0f}", flush=True)
        if step % SAVE_EVERY_STEPS == SAVE_EVERY_STEPS - 1:
            _save(checkpoint, optimizer, (steps, seed), step + 1)


def batch(vocabulary: Vocabulary, stage: Stage, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """The inputs and targets of one step, (rows, length) each: a function of its arguments alone."""
    chats = _encoded(vocabulary, Random(f"{seed}/{step}"), stage.length)
    tokens = np.full((stage.rows, stage.length + 1), BOS, dtype=np.int64)
    targets = np.full((stage.rows, stage.length), IGNORED, dtype=np.int64)
    for row in range(stage.rows):
        filled: list[Marked] = []
        while len(filled) <= stage.length:
            filled += next(chats)
        ids, learnt = zip(*filled[: stage.length + 1], strict=True)
        tokens[row] = ids
        targets[row] = np.where(learnt[1:], ids[1:], IGNORED)
    return torch.from_numpy(tokens[:, :-1]), torch.from_numpy(targets)


def _encoded(vocabulary: Vocabulary, rng: Random, limit: int) -> Iterator[list[Marked]]:
    while True:
        yield vocabulary.encode(chat(rng), limit)


def _stage(progress: float) -> Stage:
    return next(stage for stage in STAGES if progress < stage.until)


def _rate(step: int, steps: int) -> float:
    remaining = (steps - step) / (steps * (1 - FULL_RATE_SHARE))
    return min(1.0, (step + 1) / WARM_UP_STEPS, remaining)


def _save(path: Path, optimizer: Optimizer, run: tuple[int, int], step: int) -> None:
    """Arrays only, no pickle, and never half a file in the place of a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: value.detach().numpy() for name, value in (optimizer.weights | optimizer.state).items()}
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, progress=np.array([*run, step]), **arrays)
    partial.replace(path)


def _restore(path: Path, optimizer: Optimizer, run: tuple[int, int]) -> int:
    """The step to go on with: 0 if there is no checkpoint of this run."""
    if not path.exists():
        return 0
    with np.load(path, allow_pickle=False) as saved:
        *saved_run, step = saved["progress"].tolist()
        if tuple(saved_run) != run:
            return 0
        for name, value in (optimizer.weights | optimizer.state).items():
            value.detach().copy_(torch.from_numpy(saved[name]))
    print(f"going on from step {step} of {path}", flush=True)
    return int(step)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train tether-demo and write it as a GGUF.")
    parser.add_argument("--out", type=Path, default=MODEL_PATH, help="the GGUF to write")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="batches of 4,096 tokens (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="of corpus and weights (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("dist/tether-demo.npz"),
        help="kept until the GGUF is written",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
