"""Whole simulations of random experiments: what must hold for every one of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.core.engine import EngineCore
from sim.core.kv_cache import KVCacheManager
from sim.core.request import Sequence
from sim.core.reservation import ContiguousConfig
from sim.core.step import StepOutcome, StepPlan, StepResult
from sim.record.run_record import RunRecord
from sim.simulation import run
from tests.strategies import MAX_MODEL_LEN, Case, cases, examples
from tests.v1 import v1_scheduler

Tables = dict[tuple[int, int], list[tuple[int, ...]]]


def simulate(case: Case) -> RunRecord:
    return run(case.workload, case.engine, case.cost, case.cluster)


@contextmanager
def tables_noted() -> Iterator[Tables]:
    """Collects the block ids of every table that is given back, by request and sample."""
    tables: Tables = defaultdict(list)
    free = KVCacheManager.free

    def noting_free(self: KVCacheManager, seq: Sequence) -> None:
        tables[seq.request.request_id, seq.sample].append(tuple(seq.table))
        free(self, seq)

    with patch.object(KVCacheManager, "free", noting_free):
        yield tables


def assert_equal_records(one: RunRecord, other: RunRecord) -> None:
    """Equal to the last bit, but for how the work was cut into plans and how long that took."""
    for table in ("requests", "steps"):
        columns, others = getattr(one, table), getattr(other, table)
        for name in columns:
            np.testing.assert_array_equal(columns[name], others[name], err_msg=f"{table}.{name}")
    for name in ("token_offsets", "token_times", "stream_request"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    counters = [{**record.counters, "num_plans": 0} for record in (one, other)]
    assert counters[0] == counters[1]


@pytest.mark.plain
@examples(400)
@given(case=cases())
def test_a_full_horizon_gives_the_plans_the_block_ids_and_the_token_times_of_single_steps(case: Case) -> None:
    with tables_noted() as tables_of_horizons:
        horizons = simulate(case)
    with tables_noted() as tables_of_steps:
        steps = simulate(case.with_max_horizon(1))
    assert steps.counters["num_plans"] == steps.counters["num_steps"]
    assert_equal_records(horizons, steps)
    assert tables_of_horizons == tables_of_steps


@examples(100)
@given(case=cases(), max_horizon=st.integers(2, 6))
def test_any_limit_of_the_horizon_gives_the_same_run(case: Case, max_horizon: int) -> None:
    assert_equal_records(simulate(case), simulate(case.with_max_horizon(max_horizon)))


@examples(100)
@given(case=cases())
def test_the_same_experiment_gives_the_same_bytes(case: Case) -> None:
    one, other = simulate(case), simulate(case)
    assert_equal_records(one, other)
    assert one.counters == other.counters


@contextmanager
def recounted_after_each_step() -> Iterator[None]:
    """After every step: free and held blocks are all blocks, queues and tables agree."""
    finish_step = EngineCore.finish_step

    def checking(self: EngineCore, plan: StepPlan, result: StepResult, num_steps: int = 1) -> StepOutcome:
        outcome = finish_step(self, plan, result, num_steps)
        self.check_invariants()
        num_lost = self.num_blocks - self.num_free_blocks - self.num_used_blocks
        rounds_up = isinstance(self.config.cache, ContiguousConfig)
        assert num_lost >= 0 if rounds_up else num_lost == 0
        return outcome

    with patch.object(EngineCore, "finish_step", checking):
        yield


@examples(150)
@given(case=cases(), single_steps=st.booleans())
def test_no_block_is_lost_at_any_step(case: Case, single_steps: bool) -> None:
    with recounted_after_each_step():
        record = simulate(case.with_max_horizon(1) if single_steps else case)
    assert (record.steps["used_blocks"] <= record.num_blocks).all()
    assert (
        record.steps["filled_slots"] <= record.steps["used_blocks"].astype(np.int64) * record.block_size
    ).all()


@examples(150)
@given(case=cases())
def test_every_request_ends_once_with_the_tokens_it_asked_for(case: Case) -> None:
    record, workload = simulate(case), case.workload
    requests, reasons = record.requests, record.requests["finish_reason"]
    np.testing.assert_array_equal(requests["request_id"], np.arange(len(workload)))
    tokens_of_sample = np.diff(record.token_offsets)
    num_streams = np.bincount(record.stream_request, minlength=len(workload))
    assert (num_streams == workload.num_samples).all()
    room = MAX_MODEL_LEN - workload.prompt_tokens
    wanted = np.minimum(workload.output_tokens, room)[record.stream_request]
    reason = reasons[record.stream_request]
    completed = np.isin(reason, ["length", "length_capped"])
    np.testing.assert_array_equal(tokens_of_sample[completed], wanted[completed])
    assert (tokens_of_sample[reason == "rejected"] == 0).all()
    assert (tokens_of_sample <= np.maximum(wanted, 0)).all()
    if workload.cancel_after_ns is None:
        assert not (reasons == "abort").any()


@examples(150)
@given(case=cases())
def test_nothing_happens_before_its_time(case: Case) -> None:
    record, workload = simulate(case), case.workload
    requests = record.requests
    arrival = requests["arrival"]
    first, last = requests["first_token"], requests["last_token"]
    never_ran = np.isnat(requests["first_scheduled"])
    assert ((requests["first_scheduled"] >= arrival) | never_ran).all()
    assert ((first > requests["first_scheduled"]) | np.isnat(first)).all()
    assert (requests["finished"] >= arrival).all()
    assert ((requests["finished"] >= last) | np.isnat(last)).all()
    arrival_of_stream = arrival.astype(np.int64)[record.stream_request]
    for stream, arrival_ns in enumerate(arrival_of_stream.tolist()):
        times = record.token_times[record.token_offsets[stream] : record.token_offsets[stream + 1]]
        assert (np.diff(np.concatenate([[arrival_ns], times])) > 0).all()
    finished = requests["finished"].astype(np.int64)
    for index, turn in workload.waits_for.items():
        due_ns = max(finished[after] for after in turn.after) + turn.delay_ns
        assert arrival[index].astype(np.int64) == due_ns
    if workload.concurrency is None:
        waits = np.isin(np.arange(len(workload)), list(workload.waits_for))
        np.testing.assert_array_equal(arrival.astype(np.int64)[~waits], workload.arrival_ns[~waits])


@examples(100)
@given(case=cases())
def test_a_closed_loop_never_holds_more_requests_than_it_has_users(case: Case) -> None:
    record, users = simulate(case), case.workload.concurrency
    if users is None:
        return
    arrivals = record.requests["arrival"].astype(np.int64)
    ends = record.requests["finished"].astype(np.int64)
    for now in arrivals.tolist():
        assert ((arrivals <= now) & (ends > now)).sum() <= users


@examples(100)
@given(case=cases())
def test_steps_of_one_replica_follow_each_other(case: Case) -> None:
    record = simulate(case)
    steps = record.steps
    for replica in range(record.num_replicas):
        mine = steps["replica"] == replica
        start, end = steps["start"][mine], steps["end"][mine]
        assert (end[:-1] <= start[1:]).all()
        np.testing.assert_array_equal(steps["step"][mine], np.arange(mine.sum()))
        assert (steps["num_running"][mine] <= v1_scheduler(case.engine).max_num_seqs).all()
        assert (steps["num_waiting"][mine] >= 0).all()
