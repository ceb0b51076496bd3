"""What the slots of KV memory were used for: four states that together are the whole pool, at any time.

    tokens     hold the keys and values of a token; shared ones count once
    reserved   kept for tokens that a running sequence will come to (contiguous reservation only)
    internal   held by a sequence, and no token will come: the end of a last block, or of a reservation
    external   held by nobody: free, or lost to the rounding of a buddy allocator

The states and their names are those of the PagedAttention paper's Fig. 2. Refuses to know how memory is
managed: a record's columns say enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.record.run_record import RunRecord


@dataclass(frozen=True, slots=True)
class SlotShares:
    """Parts of all slots, weighted by time; they sum to 1."""

    tokens: float
    reserved: float
    internal: float
    external: float


def slot_shares(record: RunRecord, *, start_ns: int = 0, end_ns: int | None = None) -> SlotShares | None:
    """The shares over all steps of all replicas, or over the parts of them within a window.

    Time in which a replica runs no step is left out. None if no step falls into the window.

    Raises:
        ValueError: The states of some step do not sum to the pool.
    """
    steps = record.steps
    start, end = steps["start"].astype(np.int64), steps["end"].astype(np.int64)
    if end_ns is not None:
        end = np.minimum(end, end_ns)
    lasted_ns = np.maximum(end - np.maximum(start, start_ns), 0).astype(np.float64)
    if not lasted_ns.any():
        return None
    held = steps["used_blocks"].astype(np.int64) * record.block_size
    tokens, reserved = steps["filled_slots"], steps["reserved_slots"]
    num_slots = record.num_blocks * record.block_size
    states = (tokens, reserved, held - tokens - reserved, num_slots - held)  # each [num_steps]
    if any(bool((state < 0).any()) for state in states):
        raise ValueError("a state of memory holds less than nothing: slots are counted twice")
    whole = lasted_ns.sum() * num_slots
    return SlotShares(*(float((state * lasted_ns).sum() / whole) for state in states))
