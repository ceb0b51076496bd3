"""Length laws: bounds, means, shapes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from workloads.errors import WorkloadError
from workloads.lengths import (
    Empirical,
    Fixed,
    GammaLengths,
    Lengths,
    Lognormal,
    Normal,
    Uniform,
    Zipf,
    draw_lengths,
)
from workloads.streams import stream


def _draw(lengths: Lengths, count: int = 20_000) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return draw_lengths(lengths, count, stream(2, "test"))


bounds = st.tuples(st.integers(1, 3000), st.integers(0, 3000)).map(lambda pair: (pair[0], sum(pair)))


@given(bounds, st.sampled_from([Uniform, Normal, Lognormal, GammaLengths, Zipf]), st.floats(0.2, 3))
def test_every_draw_is_a_whole_number_within_its_bounds(
    low_high: tuple[int, int], law: type, spread: float
) -> None:
    low, high = low_high
    lengths: Lengths
    if law is Uniform:
        lengths = Uniform(low, high)
    elif law is Zipf:
        lengths = Zipf(spread, low, high)
    else:
        lengths = law(500.0, spread, low, high)
    drawn = draw_lengths(lengths, 50, stream(0, "test"))
    assert drawn.dtype == np.int64
    assert low <= drawn.min() <= drawn.max() <= high


@pytest.mark.parametrize("law", [Lognormal(161.31, 1.0), GammaLengths(337.99, 0.88)])
def test_mean_and_variation_are_those_asked_for(law: Lognormal | GammaLengths) -> None:
    drawn = _draw(law, 200_000)
    assert drawn.mean() == pytest.approx(law.mean, rel=0.01)
    assert drawn.std() / drawn.mean() == pytest.approx(law.cv, rel=0.03)


def test_normal_lengths_are_normal() -> None:
    assert _draw(Normal(1000, 100)).mean() == pytest.approx(1000, abs=3)
    assert stats.kstest(_draw(Normal(1000, 100)), stats.norm(1000, 100).cdf).statistic < 0.02


def test_zipf_follows_the_power_law() -> None:
    drawn = _draw(Zipf(1.5, 1, 1000), 100_000)
    share = [(drawn == value).mean() for value in (1, 2, 4)]
    assert share[0] / share[1] == pytest.approx(2**1.5, rel=0.05)
    assert share[1] / share[2] == pytest.approx(2**1.5, rel=0.08)


def test_empirical_draws_follow_their_weights() -> None:
    drawn = _draw(Empirical((10, 20, 30), (1.0, 0.0, 3.0)))
    assert set(drawn.tolist()) == {10, 30}
    assert (drawn == 30).mean() == pytest.approx(0.75, abs=0.02)


def test_fixed_is_fixed_and_uniform_reaches_both_ends() -> None:
    assert set(_draw(Fixed(7)).tolist()) == {7}
    assert set(_draw(Uniform(3, 5)).tolist()) == {3, 4, 5}


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Fixed(0), "low"),
        (lambda: Uniform(5, 4), "low"),
        (lambda: Lognormal(float("nan"), 1.0), "mean"),
        (lambda: GammaLengths(10, -1), "cv"),
        (lambda: Normal(10, 0), "std"),
        (lambda: Zipf(0, 1, 5), "exponent"),
        (lambda: Empirical(()), "at least one value"),
        (lambda: Empirical((1, 2), (1.0,)), "weights"),
        (lambda: Empirical((1,), (0.0,)), "weights"),
        (lambda: Uniform(1, 10**9), "high"),
    ],
)
def test_impossible_laws_are_refused_by_name(make: object, word: str) -> None:
    with pytest.raises(WorkloadError, match=word):
        make()  # type: ignore[operator]
