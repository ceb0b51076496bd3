"""Intervals over replications hold the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from sim.planning.intervals import estimate


def test_the_interval_is_students() -> None:
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.low == pytest.approx(2 - 4.302653 / 3**0.5, rel=1e-6)
    assert found.high == pytest.approx(2 + 4.302653 / 3**0.5, rel=1e-6)


def test_one_run_has_no_interval_and_none_has_no_estimate() -> None:
    assert (estimate([5.0]).low, estimate([5.0]).high) == (None, None)
    with pytest.raises(ValueError, match="no runs"):
        estimate([])


def test_a_95_percent_interval_holds_the_truth_in_95_percent() -> None:
    draws = np.random.default_rng(0).normal(10, 3, size=(4_000, 5))
    found = [estimate(list(row)) for row in draws]
    held = [each.low < 10 < each.high for each in found if each.low is not None and each.high is not None]
    assert len(held) == 4_000
    assert 0.94 < np.mean(held) < 0.96
