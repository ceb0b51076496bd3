"""Synthetic workloads: reproducible, with independent properties."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from workloads.arrivals import ClosedLoop, Poisson
from workloads.errors import WorkloadError
from workloads.generate import build
from workloads.lengths import Fixed, Lognormal, Uniform
from workloads.synthetic import SharedPrefix, SyntheticWorkload

CONFIG = SyntheticWorkload(200, Poisson(5.0), Lognormal(200, 1.0), Uniform(1, 50))


def test_the_same_seed_gives_the_same_requests_and_another_seed_others() -> None:
    assert build(CONFIG, seed=1).requests() == build(CONFIG, seed=1).requests()
    assert build(CONFIG, seed=1).requests() != build(CONFIG, seed=2).requests()


def test_changing_one_property_leaves_the_others_as_they_were() -> None:
    before, after = build(CONFIG, seed=1), build(replace(CONFIG, output_tokens=Fixed(7)), seed=1)
    assert (before.arrival_ns == after.arrival_ns).all()
    assert (before.prompt_tokens == after.prompt_tokens).all()


def test_outputs_are_cut_to_the_total() -> None:
    workload = build(replace(CONFIG, max_total_tokens=120), seed=1)
    assert int((workload.prompt_tokens + workload.output_tokens).max()) <= 120
    assert int(workload.output_tokens.min()) >= 1


def test_shared_prefixes_name_one_of_the_groups() -> None:
    workload = build(replace(CONFIG, shared_prefix=SharedPrefix(3, 64)), seed=1)
    assert {spec.hash_ids for spec in workload.requests()} == {(0,), (1,), (2,)}
    assert workload.hash_block_tokens == 64


def test_a_closed_loop_carries_its_users_and_priorities_are_drawn() -> None:
    workload = build(replace(CONFIG, arrivals=ClosedLoop(4, 10), priorities=(0, 9)), seed=1)
    assert (workload.concurrency, workload.think_time_ns) == (4, 10)
    assert {spec.priority for spec in workload.requests()} == {0, 9}


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_requests", 0), ("num_samples", 0), ("max_total_tokens", 1), ("cancel_after_ns", -1)],
)
def test_impossible_settings_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(WorkloadError, match=field.removesuffix("_ns")):
        replace(CONFIG, **{field: value})
