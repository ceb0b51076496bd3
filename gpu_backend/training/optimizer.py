"""Muon for matrices, Adam for everything else: the optimiser of the shipped pair.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) turns the momentum of a matrix into the
nearest orthogonal one by a few Newton-Schulz steps. In float32 here: `torch.optim.Muon` iterates in bfloat16,
which processors without such instructions emulate slowly. State is plain tensors, saved and loaded by name.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MUON_MOMENTUM = 0.95
ADAM_BETAS = (0.9, 0.98)
ADAM_EPS = 1e-9
# Coefficients of the quintic that drives all singular values towards 1 (Jordan et al.).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NUM_NEWTON_SCHULZ_STEPS = 5


@dataclass(frozen=True, slots=True)
class LearningRates:
    """Peak learning rates: of matrices in layers (Muon), and of embeddings, head and norms (Adam)."""

    matrices: float = 0.02
    others: float = 3e-3


def is_muon_weight(name: str, weight: Tensor) -> bool:
    """Whether a weight is a matrix inside a layer."""
    return weight.ndim == 2 and name.startswith("model.layers.")


class Optimizer:
    """Updates a dict of weights in place; `state` is all it remembers."""

    def __init__(self, weights: dict[str, Tensor], rates: LearningRates) -> None:
        self._weights = weights
        self._rates = rates
        self.state: dict[str, Tensor] = {}
        for name, weight in weights.items():
            self.state[f"{name}.momentum"] = torch.zeros_like(weight, requires_grad=False)
            if not is_muon_weight(name, weight):
                self.state[f"{name}.square"] = torch.zeros_like(weight, requires_grad=False)

    @torch.no_grad()
    def step(self, num_steps_done: int, rate_fraction: float) -> None:
        """Apply the gradients and clear them.

        Args:
            num_steps_done: Steps before this one; Adam corrects its bias by it.
            rate_fraction: Part of the peak learning rates to use.
        """
        for name, weight in self._weights.items():
            assert weight.grad is not None
            if is_muon_weight(name, weight):
                self._step_muon(name, weight, weight.grad, rate_fraction)
            else:
                self._step_adam(name, weight, weight.grad, num_steps_done, rate_fraction)
            weight.grad = None

    def _step_muon(self, name: str, weight: Tensor, gradient: Tensor, rate_fraction: float) -> None:
        momentum = self.state[f"{name}.momentum"].lerp_(gradient, 1 - MUON_MOMENTUM)
        update = orthogonalized(gradient.lerp(momentum, MUON_MOMENTUM))
        scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
        weight.sub_(update, alpha=self._rates.matrices * rate_fraction * scale)

    def _step_adam(
        self, name: str, weight: Tensor, gradient: Tensor, num_steps_done: int, rate_fraction: float
    ) -> None:
        first_beta, second_beta = ADAM_BETAS
        mean = self.state[f"{name}.momentum"].lerp_(gradient, 1 - first_beta)
        square = self.state[f"{name}.square"].lerp_(gradient.square(), 1 - second_beta)
        mean = mean / (1 - first_beta ** (num_steps_done + 1))
        root = (square / (1 - second_beta ** (num_steps_done + 1))).sqrt()
        weight.sub_(mean / (root + ADAM_EPS), alpha=self._rates.others * rate_fraction)


def orthogonalized(matrix: Tensor) -> Tensor:
    """Nearly the orthogonal matrix next to this one: its singular values driven to about 1."""
    first, third, fifth = NEWTON_SCHULZ
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if is_tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(NUM_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = first * x + (third * gram + fifth * gram @ gram) @ x
    result: Tensor = x.mT if is_tall else x
    return result
