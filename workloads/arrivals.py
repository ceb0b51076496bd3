"""When requests arrive, if no trace says so.

    poisson        independent exponential gaps
    gamma          independent gamma gaps of shape `burstiness`: 1 is Poisson, below 1 burstier
    vllm_gamma     the same, then all gaps rescaled so that the last request comes at exactly
                   num_requests / rate: what `vllm bench serve` does (no Poisson process even at 1)
    constant       equal gaps
    all_at_once    everything at time 0
    closed_loop    a fixed number of users, each waiting for his answer before he sends the next request

Rates are requests per second of simulated time. The first request comes one gap after time 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from workloads.errors import WorkloadError
from workloads.spec import Ints

NS_PER_S = 1_000_000_000


def _check_rate(rate_per_s: float) -> None:
    if not (math.isfinite(rate_per_s) and rate_per_s > 0):
        raise WorkloadError(
            f"arrivals: rate must be a positive number of requests per second, not {rate_per_s}"
        )


def _check_burstiness(burstiness: float) -> None:
    if not (math.isfinite(burstiness) and burstiness > 0):
        raise WorkloadError(f"arrivals: burstiness must be positive, not {burstiness}")


@dataclass(frozen=True, slots=True)
class Poisson:
    """Memoryless arrivals."""

    rate_per_s: float

    def __post_init__(self) -> None:
        _check_rate(self.rate_per_s)


@dataclass(frozen=True, slots=True)
class Gamma:
    """Renewal process with gamma gaps of shape `burstiness`; their variation is 1 / sqrt(burstiness)."""

    rate_per_s: float
    burstiness: float = 1.0

    def __post_init__(self) -> None:
        _check_rate(self.rate_per_s)
        _check_burstiness(self.burstiness)


@dataclass(frozen=True, slots=True)
class VllmGamma:
    """As `vllm bench serve --request-rate --burstiness`."""

    rate_per_s: float
    burstiness: float = 1.0

    def __post_init__(self) -> None:
        _check_rate(self.rate_per_s)
        _check_burstiness(self.burstiness)


@dataclass(frozen=True, slots=True)
class Constant:
    """Equal gaps."""

    rate_per_s: float

    def __post_init__(self) -> None:
        _check_rate(self.rate_per_s)


@dataclass(frozen=True, slots=True)
class AllAtOnce:
    """Everything at time 0."""


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """`concurrency` users, each thinking `think_time_ns` between an answer and his next request."""

    concurrency: int
    think_time_ns: int = 0

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.think_time_ns < 0:
            raise WorkloadError(
                f"arrivals: concurrency ({self.concurrency}) must be at least 1, think_time "
                f"({self.think_time_ns} ns) not negative"
            )


Arrivals = Poisson | Gamma | VllmGamma | Constant | AllAtOnce | ClosedLoop


def draw_arrivals(arrivals: Arrivals, count: int, rng: np.random.Generator) -> Ints:
    """Arrival times of `count` requests in nanoseconds, ascending."""
    match arrivals:
        case AllAtOnce() | ClosedLoop():
            return np.zeros(count, dtype=np.int64)
        case Constant(rate):
            return _to_ns(np.arange(1, count + 1) / rate)
        case Poisson(rate):
            return _to_ns(np.cumsum(rng.exponential(1 / rate, count)))
        case Gamma(rate, burstiness):
            return _to_ns(np.cumsum(rng.gamma(burstiness, 1 / (rate * burstiness), count)))
        case VllmGamma(rate, burstiness):
            times = np.cumsum(rng.gamma(burstiness, 1 / (rate * burstiness), count))
            return _to_ns(times * (count / rate / times[-1]))


def _to_ns(times_s: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Ints:
    if len(times_s) and times_s[-1] > 2**62 / NS_PER_S:
        raise WorkloadError(
            "arrivals: the last request would arrive after more than a century; raise the rate"
        )
    return np.rint(times_s * NS_PER_S).astype(np.int64)
