"""What each slot holds: painted from tables, against the counts of the record and of the allocator."""

from __future__ import annotations

import numpy as np
import pytest

from sim.core.engine import EngineConfig
from sim.core.kv_cache import CacheConfig
from sim.core.reservation import Reservation
from sim.core.scheduler_config import SchedulerConfig
from sim.fleet.cluster import Physics
from sim.metrics.memory_map import MemoryMap, SlotState, contiguous, memory_map, paged
from sim.report.memory_picture import COLUMNS, cells
from sim.simulation import core_at, run
from tests.strategies import CoarseCost
from workloads.spec import Workload

PAGED = EngineConfig(
    CacheConfig(64, 4, enable_prefix_caching=False), SchedulerConfig(32, max_num_batched_tokens=256)
)
COST = CoarseCost(1, 10)
ASKED = Workload(
    name="test",
    arrival_ns=np.arange(12) * 40,
    prompt_tokens=np.array([5, 9, 3, 20, 11, 7, 1, 16, 5, 9, 3, 20]),
    output_tokens=np.array([9, 12, 20, 4, 8, 25, 30, 2, 9, 12, 20, 4]),
)


def _map_at(engine: EngineConfig, instant_ns: int) -> MemoryMap:
    return memory_map(core_at(ASKED, engine, Physics(COST), instant_ns))


@pytest.mark.parametrize("reservation", [None, *Reservation])
@pytest.mark.parametrize("instant_ns", [60, 200, 555, 900])
def test_the_map_agrees_with_the_record_of_the_same_run(
    reservation: Reservation | None, instant_ns: int
) -> None:
    engine = PAGED if reservation is None else contiguous(PAGED, reservation)
    found = _map_at(engine, instant_ns)
    record = run(ASKED, engine, COST)
    starts = record.steps["start"].astype(np.int64)
    step = int(np.searchsorted(starts, instant_ns)) - 1
    counts = np.bincount(found.states, minlength=5)
    assert counts[SlotState.TOKEN] == record.steps["filled_slots"][step]
    assert counts[SlotState.RESERVED] == record.steps["reserved_slots"][step]
    held = counts[SlotState.TOKEN] + counts[SlotState.RESERVED] + counts[SlotState.INTERNAL]
    assert held == record.steps["used_blocks"][step] * record.block_size
    assert found.num_running == record.steps["num_running"][step]
    shares = found.shares
    assert shares.tokens + shares.reserved + shares.internal + shares.external == pytest.approx(1)


def test_only_contiguous_memory_rounds_up() -> None:
    assert SlotState.ROUNDING not in _map_at(PAGED, 200).states
    assert SlotState.ROUNDING in _map_at(contiguous(PAGED, Reservation.ORACLE), 200).states


def test_a_longest_sequence_that_fits_no_chunk_is_refused() -> None:
    small = EngineConfig(CacheConfig(7, 4), SchedulerConfig(28, max_num_batched_tokens=256))
    with pytest.raises(ValueError, match="at most 16"):
        contiguous(small, Reservation.MAX)


def test_contiguous_memory_can_be_paged_again() -> None:
    again = paged(contiguous(PAGED, Reservation.MAX), 4)
    assert (again.cache.num_blocks, again.cache.block_size) == (64, 4)
    assert paged(PAGED) is PAGED


def test_a_cell_has_the_state_of_most_of_its_slots() -> None:
    states = np.array([1, 1, 0, 2, 2, 3, 4], dtype=np.uint8)
    field = cells(states, 3)
    assert field.shape == (1, COLUMNS)
    assert field[0, :4].tolist() == [1, 2, 4, 255]
