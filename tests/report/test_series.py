"""Curves for pictures: means over time are exact, rates add up, tails survive."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.report.series import (
    Bins,
    arrival_and_completion_rates,
    cdf,
    mean_over_time,
    prefill_rate,
    rate_of_events,
    round_bins,
)
from tests.records import MS, S, Served, StepRow, make_record, toy_run

TEN_MS = Bins(10 * MS, 4)


def test_a_mean_over_a_bin_weighs_each_step_by_its_time_there() -> None:
    steps = [StepRow(0, 15, num_running=4), StepRow(15, 20, num_running=2), StepRow(30, 35, num_running=6)]
    record = make_record([Served(0, 0, ((40,),))], steps)
    assert mean_over_time(record, "num_running", TEN_MS).tolist() == pytest.approx([4, 3, 0, 3])


def test_replicas_are_summed() -> None:
    steps = [StepRow(0, 40, num_running=1), StepRow(0, 20, num_running=2, replica=1)]
    record = make_record([Served(0, 0, ((40,),))], steps, num_replicas=3)
    assert mean_over_time(record, "num_running", TEN_MS).tolist() == pytest.approx([3, 3, 1, 1])


def test_rates_are_per_second_and_the_last_moment_counts() -> None:
    times = np.array([0, 1, 10, 40]) * MS
    assert rate_of_events(times, TEN_MS).tolist() == pytest.approx([200, 100, 0, 100])


def test_nothing_is_lost_in_the_bins() -> None:
    record = toy_run(100, 4.0)
    bins = round_bins(record, 60)
    width_s = bins.width_ns / S
    arrived, completed = arrival_and_completion_rates(record, bins)
    assert arrived.sum() * width_s == pytest.approx(100)
    assert completed.sum() * width_s == pytest.approx(100)
    assert rate_of_events(record.token_times, bins).sum() * width_s == pytest.approx(len(record.token_times))
    assert prefill_rate(record, bins).sum() * width_s == pytest.approx(record.requests["prompt_tokens"].sum())
    lasted = (record.steps["end"] - record.steps["start"]).astype(np.int64)
    area = (record.steps["num_running"] * lasted).sum()
    assert (mean_over_time(record, "num_running", bins) * bins.width_ns).sum() == pytest.approx(area)


@given(st.integers(1, 10**15), st.integers(1, 500))
def test_bins_are_round_cover_the_run_and_are_not_too_many(end_ms_tenths: int, at_most: int) -> None:
    end_ns = end_ms_tenths * 100
    record = make_record([Served(0, 0, ((end_ns / MS,),))])
    end_ns = int(record.token_times[0])
    bins = round_bins(record, at_most)
    assert bins.count <= at_most
    assert bins.width_ns * (bins.count - 1) < max(end_ns, 1) <= bins.width_ns * bins.count
    assert str(bins.width_ns).rstrip("0") in ("1", "2", "5")


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=2000))
def test_a_long_sample_keeps_its_ends_and_its_order(sample: list[int]) -> None:
    values, shares = cdf(np.array(sample, dtype=np.float64), at_most=50)
    assert len(values) <= 50
    assert (values[0], values[-1]) == (min(sample), max(sample))
    assert shares[-1] == 1
    assert (np.diff(values) >= 0).all()
    assert (np.diff(shares) > 0).all()
    assert all(
        (np.array(sample) <= value).mean() >= share for value, share in zip(values, shares, strict=True)
    )
