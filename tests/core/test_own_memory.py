"""V1's scheduler on an allocator of one's own: the same as on paged memory where the allocator is as good."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from unittest.mock import patch

import pytest
from hypothesis import assume, given

from sim.core.engine import EngineConfig, EngineCore
from sim.core.kv_cache import CacheConfig
from sim.core.own_memory import AllocatorError, OwnMemoryConfig
from sim.core.request import Request
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import BlockCopy, StepOutcome, StepPlan, StepResult
from sim.fleet.driver import SimulationError
from sim.record.run_record import RunRecord
from sim.simulation import run
from sim.testing import AllocStatus, Grant, PagedAllocator
from tests.strategies import Case, cases, examples
from tests.test_simulation_properties import assert_equal_records


def own(memory: CacheConfig, make: type = PagedAllocator) -> OwnMemoryConfig:
    return OwnMemoryConfig(memory.num_blocks, memory.block_size, make, make.__name__)


def simulate(case: Case, cache: CacheConfig | OwnMemoryConfig) -> RunRecord:
    return run(case.workload, replace(case.engine, cache=cache), case.cost, case.cluster)


@contextmanager
def checked_at_every_step() -> Iterator[None]:
    finish_step = EngineCore.finish_step

    def checking(self: EngineCore, plan: StepPlan, result: StepResult, num_steps: int = 1) -> StepOutcome:
        outcome = finish_step(self, plan, result, num_steps)
        self.check_invariants()
        return outcome

    with patch.object(EngineCore, "finish_step", checking):
        yield


def served(case: Case, memory: CacheConfig | OwnMemoryConfig) -> RunRecord | None:
    """The record; None where equals by priority preempt each other for ever, as they would in vLLM."""
    try:
        return simulate(case, memory)
    except SimulationError as error:
        if "goes in circles" not in str(error):
            raise
        return None


@examples(300)
@given(case=cases())
def test_our_allocator_behind_the_interface_gives_the_run_of_paged_memory(case: Case) -> None:
    memory = case.engine.cache
    assume(isinstance(memory, CacheConfig))
    assert isinstance(memory, CacheConfig)
    plain = replace(memory, enable_prefix_caching=False, num_offload_blocks=0)
    paged = served(case, plain)
    if paged is None:
        assert served(case, own(plain)) is None
        return
    with checked_at_every_step():
        behind = simulate(case, own(plain))
    assert_equal_records(paged, behind)


class Movable(PagedAllocator):
    """Moves a sequence's last block each time it appends."""

    def append(self, seq_id: int, token: Hashable) -> Grant:
        grant = super().append(seq_id, token)
        if grant.status is not AllocStatus.OK or not self.num_free:
            return grant
        table = self._seqs[seq_id].table
        old = table[-1]
        table[-1] = self._kv.pool.take(1)[0][0]
        self._kv.pool.give_front([old])
        return grant._replace(copies=(*grant.copies, BlockCopy(old, table[-1])))


def core_on(make: type, num_blocks: int = 8) -> EngineCore:
    memory = OwnMemoryConfig(num_blocks, 4, make, make.__name__)
    return EngineCore(EngineConfig(memory, SchedulerConfig(30, max_num_batched_tokens=10)))


def step(core: EngineCore) -> StepPlan:
    plan = core.begin_step(0)
    assert plan is not None
    core.finish_step(plan, StepResult([1]))
    core.check_invariants()
    return plan


def test_a_plan_carries_the_copies_that_were_asked_for_while_it_was_made() -> None:
    core = core_on(Movable)
    core.submit(Request(0, 0, 6, 9))
    assert step(core).blocks_to_copy == ()
    tables = [next(iter(core.running)).table[:]]
    for _ in range(4):
        plan = step(core)
        (table,) = [seq.table[:] for seq in core.running]
        (copy,) = plan.blocks_to_copy
        assert copy.dst == table[-1] != copy.src
        tables.append(table)
    assert core.num_copied_blocks == 4
    num_new = [len({*after} - {*before}) for before, after in pairwise(tables)]
    assert core.num_blocks_allocated == len(tables[0]) + sum(num_new)


def test_a_prompt_in_parts_is_admitted_with_its_first_and_appends_the_rest() -> None:
    calls = []

    class Watched(PagedAllocator):
        def admit(self, seq_id: int, tokens: Sequence[Hashable]) -> Grant:
            calls.append(len(tokens))
            assert len(set(tokens)) == len(tokens)
            return super().admit(seq_id, tokens)

        def append(self, seq_id: int, token: Hashable) -> Grant:
            calls.append(1)
            return super().append(seq_id, token)

    core = core_on(Watched)
    core.submit(Request(0, 0, 25, 3))
    assert [step(core).num_tokens for _ in range(4)] == [10, 10, 5, 1]
    assert calls == [10] + [1] * 16
    assert [len(seq.table) for seq in core.running] == [7]


def test_a_request_longer_than_memory_is_rejected() -> None:
    core = core_on(PagedAllocator, num_blocks=5)
    assert core.submit(Request(0, 0, 20, 9)).value == "rejected"
    assert core.submit(Request(1, 0, 12, 9)).value == "next_step"


def test_an_allocator_of_another_size_or_not_empty_is_refused() -> None:
    class Half(PagedAllocator):
        def __init__(self, num_blocks: int, block_size: int) -> None:
            super().__init__(num_blocks, block_size // 2)

    with pytest.raises(AllocatorError, match="Half has block_size 2 when it is new, and should have 4"):
        OwnMemoryConfig(4, 4, _without_host(Half), "Half").allocator()


def _without_host(make: type) -> type:
    class Made(make):  # type: ignore[misc]
        def __init__(self, num_blocks: int, block_size: int, num_host_blocks: int) -> None:
            super().__init__(num_blocks, block_size)

    return Made
