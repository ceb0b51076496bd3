"""What every slot of a replica's KV memory holds at one instant, paged or contiguously reserved.

    a core at an instant  ->  the tables of whoever runs  ->  one state for each slot

The states are those of `waste.py`, with one difference: slots that a buddy allocator rounded away are told
apart from free ones. Used to teach and to draw, never by a simulation;
`sim.simulation.core_at` gives the core.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from sim.core.buddy import BuddyPool, largest_chunk
from sim.core.engine import EngineConfig, EngineCore
from sim.core.group import GroupSchedulerConfig
from sim.core.kv_cache import CacheConfig
from sim.core.own_memory import OwnMemoryConfig
from sim.core.request import Sequence
from sim.core.reservation import ContiguousConfig, Reservation
from sim.core.scheduler_config import SchedulerConfig
from sim.metrics.waste import SlotShares


class SlotState(IntEnum):
    """What one slot is used for."""

    FREE = 0
    TOKEN = 1
    RESERVED = 2
    INTERNAL = 3
    ROUNDING = 4


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """One replica's memory at one instant."""

    states: NDArray[np.uint8]  # [num_slots]
    num_running: int
    num_waiting: int

    @property
    def shares(self) -> SlotShares:
        """The four states as parts of all slots; rounding and free memory are both external."""
        counts = np.bincount(self.states, minlength=len(SlotState)) / len(self.states)
        return SlotShares(
            tokens=float(counts[SlotState.TOKEN]),
            reserved=float(counts[SlotState.RESERVED]),
            internal=float(counts[SlotState.INTERNAL]),
            external=float(counts[SlotState.FREE] + counts[SlotState.ROUNDING]),
        )


def memory_map(core: EngineCore) -> MemoryMap:
    """What each slot holds; to be asked of a core whose plans are for single steps."""
    states = np.zeros(core.num_blocks * core.config.cache.block_size, dtype=np.uint8)
    cache, running = core.config.cache, list(core.running)
    match cache:
        case CacheConfig():
            for seq in running:
                _paint_blocks(states, seq, cache.block_size, 1 if cache.has_null_block else 0)
        case OwnMemoryConfig():
            for seq in running:
                _paint_blocks(states, seq, cache.block_size, 0)
        case ContiguousConfig():
            pool = core.pool
            assert isinstance(pool, BuddyPool), "stretches come from a buddy allocator"
            of = {seq.table[0]: seq for seq in running}
            for start, asked, size in pool.stretches():
                _paint_stretch(states[start : start + size], of[start], asked)
    return MemoryMap(states, len(running), core.num_waiting)


def _paint_blocks(states: NDArray[np.uint8], seq: Sequence, size: int, first_id: int) -> None:
    for place, block in enumerate(seq.table):
        start = (block - first_id) * size
        num_filled = min(max(seq.num_computed - place * size, 0), size)
        states[start : start + num_filled] = SlotState.TOKEN
        rest = states[start + num_filled : start + size]
        rest[rest != SlotState.TOKEN] = SlotState.INTERNAL  # another holder may have got further


def _paint_stretch(states: NDArray[np.uint8], seq: Sequence, asked: int) -> None:
    states[:] = SlotState.ROUNDING
    states[:asked] = SlotState.INTERNAL
    states[: seq.max_known] = SlotState.RESERVED
    states[: seq.num_computed] = SlotState.TOKEN


def contiguous(engine: EngineConfig, reservation: Reservation) -> EngineConfig:
    """The same memory and limits, reserved in stretches.

    Raises:
        ValueError: The longest sequence does not fit the largest chunk.
    """
    old, limits = engine.scheduler, engine.cache
    memory = ContiguousConfig(limits.num_blocks * limits.block_size, reservation)
    largest = largest_chunk(memory.num_slots)
    if old.max_model_len > largest:
        raise ValueError(
            f"a reservation of {old.max_model_len:,} slots does not fit the largest chunk, {largest:,} of "
            f"{memory.num_slots:,}: max_model_len must be at most {largest}"
        )
    if isinstance(old, GroupSchedulerConfig):
        old = SchedulerConfig(old.max_model_len, old.max_num_seqs, old.max_num_batched_tokens)
    return replace(engine, cache=memory, scheduler=old)


def paged(engine: EngineConfig, block_size: int = 16) -> EngineConfig:
    """The same memory and limits, in blocks."""
    memory = engine.cache
    match memory:
        case CacheConfig():
            return engine
        case OwnMemoryConfig():
            cache = CacheConfig(memory.num_blocks, memory.block_size, enable_prefix_caching=False)
        case ContiguousConfig():
            num_blocks = max(memory.num_slots // block_size, 1)
            cache = CacheConfig(num_blocks, block_size, enable_prefix_caching=False)
    return replace(engine, cache=cache)
