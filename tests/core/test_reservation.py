"""Contiguous reservation: how much each rule keeps, and what becomes of every slot."""

from __future__ import annotations

import pytest

from sim.core.engine import EngineConfig, EngineCore, SubmitStatus
from sim.core.kv_cache import Admission, AllocStatus
from sim.core.request import Request, Sequence
from sim.core.reservation import ContiguousConfig, ContiguousKVManager, Reservation
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import StepResult

MAX_MODEL_LEN = 64


def sequence(prompt: int, output: int) -> Sequence:
    return Sequence(0, Request(0, 0, prompt, output), 0, MAX_MODEL_LEN)


@pytest.mark.parametrize(
    ("reservation", "num_slots"),
    [(Reservation.MAX, 64), (Reservation.POW2, 10 + 32), (Reservation.ORACLE, 10 + 25)],
)
def test_each_rule_reserves_what_the_paper_says(reservation: Reservation, num_slots: int) -> None:
    kv = ContiguousKVManager(ContiguousConfig(256, reservation), max_model_len=MAX_MODEL_LEN)
    seq = sequence(10, 25)
    assert kv.num_slots_for(seq) == num_slots
    assert kv.admit(seq, [], Admission(10)) is AllocStatus.OK
    assert kv.pool.num_used == num_slots
    assert kv.num_promised_slots == 35
    kv.check_invariants([seq])
    kv.free(seq)
    assert (kv.pool.num_used, kv.num_promised_slots) == (0, 0)


def test_an_output_that_is_a_power_of_two_is_not_rounded() -> None:
    kv = ContiguousKVManager(ContiguousConfig(256, Reservation.POW2), max_model_len=MAX_MODEL_LEN)
    assert [kv.num_slots_for(sequence(4, output)) for output in (1, 2, 3, 16, 17)] == [5, 6, 8, 20, 36]
    assert kv.num_slots_for(sequence(40, 20)) == MAX_MODEL_LEN, "no more than the longest sequence"


def test_freeing_twice_is_misuse() -> None:
    kv = ContiguousKVManager(ContiguousConfig(256), max_model_len=MAX_MODEL_LEN)
    seq = sequence(10, 25)
    kv.admit(seq, [], Admission(10))
    kv.free(seq)
    with pytest.raises(ValueError, match="holds no slots"):
        kv.free(seq)


def test_what_does_not_fit_waits_and_nothing_is_touched() -> None:
    kv = ContiguousKVManager(ContiguousConfig(100), max_model_len=MAX_MODEL_LEN)
    first, second = sequence(10, 25), sequence(1, 1)
    assert kv.admit(first, [], Admission(10)) is AllocStatus.OK
    assert kv.admit(second, [], Admission(1)) is AllocStatus.LATER
    assert not second.table
    kv.check_invariants([first])


def core_with(reservation: Reservation, num_slots: int, max_horizon: int = 2**31) -> EngineCore:
    scheduler = SchedulerConfig(MAX_MODEL_LEN, max_num_batched_tokens=256)
    return EngineCore(EngineConfig(ContiguousConfig(num_slots, reservation), scheduler, max_horizon))


def test_a_steady_batch_runs_to_the_next_end_in_one_plan() -> None:
    core = core_with(Reservation.ORACLE, 256)
    core.submit(Request(0, 0, 10, 25))
    core.submit(Request(1, 0, 5, 40))
    prompts = core.begin_step(0)
    assert prompts is not None
    core.finish_step(prompts, StepResult([1]))
    decodes = core.begin_step(1)
    assert decodes is not None
    assert decodes.horizon == 24
    outcome = core.finish_step(decodes, StepResult(list(range(1, 25))), 24)
    assert [seq.num_output_tokens for seq in outcome.finished] == [25]
    assert (outcome.used_blocks[0], outcome.promised_slots, outcome.filled_slots) == (80, 80, 17)
    assert core.num_used_blocks == 45
    core.check_invariants()


def test_a_reservation_larger_than_any_chunk_is_refused_at_once() -> None:
    core = core_with(Reservation.MAX, 60)
    assert core.submit(Request(0, 0, 10, 25)) is SubmitStatus.REJECTED


def test_ending_a_request_anywhere_leaves_nothing_behind() -> None:
    for num_steps in (0, 1, 2):
        core = core_with(Reservation.POW2, 64)
        core.submit(Request(0, 0, 10, 5))
        core.submit(Request(1, 0, 30, 30))
        for _ in range(num_steps):
            plan = core.begin_step(0)
            assert plan is not None
            core.finish_step(plan, StepResult([1] * plan.horizon), 1)
        core.abort(1)
        core.abort(0)
        core.check_invariants()
        assert core.num_used_blocks == 0
        assert core.num_free_blocks == 64
