"""How long prompts and outputs are, if no trace says so.

Draws are rounded to whole tokens and clipped to `low`..`high`, so the mean of a strongly cut law is not
its `mean`. Lognormal and gamma laws are given by mean and coefficient of variation (`cv`, standard
deviation over mean) of the uncut law:

    lognormal   sigma^2 = ln(1 + cv^2), mu = ln(mean) - sigma^2 / 2
    gamma       shape = 1 / cv^2, scale = mean * cv^2
    zipf        P(k) proportional to k^-exponent for low <= k <= high
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workloads.errors import WorkloadError
from workloads.spec import Ints

MAX_TOKENS = 10_000_000
"""No length may be above this: a longer one is a slip of the pen."""


def _check_range(low: int, high: int) -> None:
    if not 1 <= low <= high <= MAX_TOKENS:
        raise WorkloadError(f"lengths: need 1 <= low <= high <= {MAX_TOKENS}, not low {low}, high {high}")


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise WorkloadError(f"lengths: {name} must be a positive number, not {value}")


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same."""

    tokens: int

    def __post_init__(self) -> None:
        _check_range(self.tokens, self.tokens)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Whole numbers from `low` to `high`, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Normal:
    """Bell curve."""

    mean: float
    std: float
    low: int = 1
    high: int = MAX_TOKENS

    def __post_init__(self) -> None:
        _check_positive(mean=self.mean, std=self.std)
        _check_range(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Long right tail, as prompts have."""

    mean: float
    cv: float
    low: int = 1
    high: int = MAX_TOKENS

    def __post_init__(self) -> None:
        _check_positive(mean=self.mean, cv=self.cv)
        _check_range(self.low, self.high)


@dataclass(frozen=True, slots=True)
class GammaLengths:
    """Right tail, as outputs have."""

    mean: float
    cv: float
    low: int = 1
    high: int = MAX_TOKENS

    def __post_init__(self) -> None:
        _check_positive(mean=self.mean, cv=self.cv)
        _check_range(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Zipf:
    """Power law between two bounds."""

    exponent: float
    low: int
    high: int

    def __post_init__(self) -> None:
        _check_positive(exponent=self.exponent)
        _check_range(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Empirical:
    """Given lengths with given weights (equal ones if left out)."""

    values: tuple[int, ...]
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.values:
            raise WorkloadError("lengths: empirical needs at least one value")
        _check_range(min(self.values), max(self.values))
        if self.weights and len(self.weights) != len(self.values):
            raise WorkloadError(
                f"lengths: {len(self.values)} values have {len(self.weights)} weights; give one each, or none"
            )
        if self.weights and not (min(self.weights) >= 0 and 0 < sum(self.weights) < math.inf):
            raise WorkloadError("lengths: weights must not be negative, and not all zero")


Lengths = Fixed | Uniform | Normal | Lognormal | GammaLengths | Zipf | Empirical


def draw_lengths(lengths: Lengths, count: int, rng: np.random.Generator) -> Ints:
    """`count` lengths in tokens."""
    match lengths:
        case Fixed(tokens):
            return np.full(count, tokens, dtype=np.int64)
        case Uniform(low, high):
            return rng.integers(low, high, count, endpoint=True)
        case Normal(mean, std, low, high):
            return _clip(rng.normal(mean, std, count), low, high)
        case Lognormal(mean, cv, low, high):
            variance = math.log1p(cv**2)
            return _clip(rng.lognormal(math.log(mean) - variance / 2, math.sqrt(variance), count), low, high)
        case GammaLengths(mean, cv, low, high):
            return _clip(rng.gamma(1 / cv**2, mean * cv**2, count), low, high)
        case Zipf(exponent, low, high):
            values = np.arange(low, high + 1, dtype=np.int64)
            weights = (values / low) ** -exponent
            return rng.choice(values, count, p=weights / weights.sum())
        case Empirical(values, weights):
            chosen = np.array(values, dtype=np.int64)
            probabilities = np.array(weights) / sum(weights) if weights else None
            return rng.choice(chosen, count, p=probabilities)


def _clip(values: NDArray[np.float64], low: int, high: int) -> Ints:
    return np.clip(np.rint(values), low, high).astype(np.int64)
