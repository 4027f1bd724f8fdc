"""The optimizer: Muon for the matrices inside the blocks, Adam for the rest.

Muon orthogonalizes each matrix's momentum by Newton-Schulz steps before it is applied (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/). On a corpus this small it learns as much from about half the tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch

from inference.demo.model import Tensor, Weights

MUON_RATE, ADAM_RATE = 0.02, 0.004
MUON_MOMENTUM, DECAY = 0.95, 0.01
ADAM_BETAS, ADAM_EPSILON = (0.9, 0.95), 1e-10
# The quintic of the paper: five steps bring every singular value near 1.
QUINTIC, NEWTON_SCHULZ_STEPS = (3.4445, -4.7750, 2.0315), 5


class Optimizer:
    """Steps the weights in place. state: momenta by name, for checkpoints."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.state: Weights = {}
        groups: defaultdict[tuple[int, ...], list[str]] = defaultdict(list)
        for name, weight in weights.items():
            if _is_inner_matrix(name, weight):
                groups[tuple(weight.shape)].append(name)
                self.state[f"{name}.momentum"] = torch.zeros_like(weight)
            else:
                self.state[f"{name}.mean"] = torch.zeros_like(weight)
                self.state[f"{name}.square"] = torch.zeros_like(weight)
        self._groups = list(groups.values())
        self._others = [name for name, weight in weights.items() if not _is_inner_matrix(name, weight)]

    def step(self, number: int, share: float) -> None:
        """One update from the gradients. number: from 0; share: of the full learning rate, 0 to 1."""
        with torch.no_grad():
            for names in self._groups:
                self._muon(names, MUON_RATE * share)
            self._adam(self._others, number + 1, ADAM_RATE * share)
        for weight in self.weights.values():
            weight.grad = None

    def _muon(self, names: list[str], rate: float) -> None:
        """All matrices of one shape at once: names of them."""
        pushes = []
        for name in names:
            gradient, momentum = self.weights[name].grad, self.state[f"{name}.momentum"]
            momentum.lerp_(gradient, 1 - MUON_MOMENTUM)
            pushes.append(gradient.lerp(momentum, MUON_MOMENTUM))
        directions = _orthogonalized(torch.stack(pushes))
        rows, columns = directions.shape[1:]
        for name, direction in zip(names, directions, strict=True):
            self.weights[name].mul_(1 - rate * DECAY).sub_(
                direction, alpha=rate * max(1.0, rows / columns) ** 0.5
            )

    def _adam(self, names: Iterable[str], count: int, rate: float) -> None:
        for name in names:
            weight, mean, square = (
                self.weights[name],
                self.state[f"{name}.mean"],
                self.state[f"{name}.square"],
            )
            mean.lerp_(weight.grad, 1 - ADAM_BETAS[0])
            square.lerp_(weight.grad.square(), 1 - ADAM_BETAS[1])
            fair_mean, fair_square = (
                mean / (1 - ADAM_BETAS[0] ** count),
                square / (1 - ADAM_BETAS[1] ** count),
            )
            weight.sub_(fair_mean / (fair_square.sqrt() + ADAM_EPSILON), alpha=rate)


def _is_inner_matrix(name: str, weight: Tensor) -> bool:
    return weight.ndim == 2 and name.startswith("blk.")


def _orthogonalized(matrices: Tensor) -> Tensor:
    """(count, rows, columns) -> the nearest matrices whose singular values are all about 1."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.transpose(1, 2) if tall else matrices).bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = QUINTIC
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.transpose(1, 2) if tall else x).float()
