"""Arrival laws: their distributions, exact cases, and streams that do not disturb each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from workloads.arrivals import (
    AllAtOnce,
    Arrivals,
    ClosedLoop,
    Constant,
    Gamma,
    Poisson,
    VllmGamma,
    draw_arrivals,
)
from workloads.errors import WorkloadError
from workloads.streams import stream

NS_PER_S = 1_000_000_000


def _gaps_s(arrivals: Arrivals, count: int = 20_000) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    times = draw_arrivals(arrivals, count, stream(1, "test"))
    return np.diff(times, prepend=0) / NS_PER_S


def test_poisson_gaps_are_exponential() -> None:
    assert stats.kstest(_gaps_s(Poisson(8.0)), stats.expon(scale=1 / 8).cdf).pvalue > 0.01


@pytest.mark.parametrize("burstiness", [0.3, 1.0, 4.0])
def test_gamma_gaps_follow_the_gamma_law(burstiness: float) -> None:
    law = stats.gamma(burstiness, scale=1 / (8 * burstiness))
    assert stats.kstest(_gaps_s(Gamma(8.0, burstiness)), law.cdf).pvalue > 0.01


def test_a_wrong_law_would_be_noticed() -> None:
    assert stats.kstest(_gaps_s(Gamma(8.0, 1.3)), stats.expon(scale=1 / 8).cdf).pvalue < 1e-6


@given(
    rate=st.floats(0.01, 1000),
    burstiness=st.floats(0.1, 10),
    count=st.integers(1, 200),
    seed=st.integers(0, 99),
)
def test_vllm_gamma_ends_at_exactly_the_number_of_requests_over_the_rate(
    rate: float, burstiness: float, count: int, seed: int
) -> None:
    times = draw_arrivals(VllmGamma(rate, burstiness), count, stream(seed, "test"))
    assert times[-1] == pytest.approx(count / rate * NS_PER_S, rel=1e-12, abs=1)
    assert (np.diff(times) >= 0).all()


def test_constant_arrivals_are_evenly_spaced_from_the_first_gap_on() -> None:
    times = draw_arrivals(Constant(4.0), 3, stream(0, "test"))
    assert times.tolist() == [NS_PER_S // 4, NS_PER_S // 2, NS_PER_S * 3 // 4]


def test_all_at_once_and_closed_loop_have_no_arrival_times_of_their_own() -> None:
    for arrivals in (AllAtOnce(), ClosedLoop(3)):
        assert draw_arrivals(arrivals, 4, stream(0, "test")).tolist() == [0, 0, 0, 0]


@given(st.integers(0, 2**32), st.text(max_size=20), st.text(max_size=20))
def test_streams_depend_on_seed_and_name_alone(seed: int, name: str, other: str) -> None:
    drawn = stream(seed, name).random(4).tolist()
    stream(seed, other).random(100)
    assert stream(seed, name).random(4).tolist() == drawn
    if name != other:
        assert stream(seed, other).random(4).tolist() != drawn


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Poisson(-1.0), "rate"),
        (lambda: Poisson(float("nan")), "rate"),
        (lambda: Constant(0.0), "rate"),
        (lambda: VllmGamma(float("inf")), "rate"),
        (lambda: Gamma(1.0, 0.0), "burstiness"),
        (lambda: ClosedLoop(0), "concurrency"),
        (lambda: ClosedLoop(1, -5), "think_time"),
        (lambda: draw_arrivals(Constant(1e-12), 9, stream(0, "test")), "century"),
    ],
)
def test_impossible_arrivals_are_refused_by_name(make: object, word: str) -> None:
    with pytest.raises(WorkloadError, match=word):
        make()  # type: ignore[operator]
