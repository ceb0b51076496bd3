"""From what is computed to tensors: which tokens, where their keys and values go, whose logits are wanted.

    span        position                      slot
    start 6     6 7 8                         table[6 // 4] * 4 + 6 % 4, ...       block_size 4
    tokens 3    └ drafts are the last ones

Owns the order of rows in a batch: those with a single token first (they are handled as decodes), else as
given. Refuses to know where token ids come from, and who decided. Invariant: nothing here touches the
device but the transfer at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gpu_backend.memory.block_tables import BlockTables
from gpu_backend.model.llama import PagedBatch
from sim.core.request import Sequence as EngineSequence
from sim.core.step import ScheduledSequence, StepPlan

TokensOf = Callable[[ScheduledSequence], Sequence[int]]
"""The `num_tokens` token ids that a row computes, from its first uncomputed one; drafts last."""


class Span(NamedTuple):
    """What is computed of one sequence."""

    seq: EngineSequence
    start: int
    """Position of the first token: so many are stored before it."""
    tokens: Sequence[int]
    num_logits: int
    """Of how many of its last tokens logits are wanted."""


@dataclass(frozen=True, slots=True)
class SpanBatch:
    """Spans as tensors."""

    order: list[int]
    """Which span each row of the batch is."""
    logits_starts: NDArray[np.int64]  # [num_spans + 1]
    """Where each row's logits begin."""
    tensors: PagedBatch


@dataclass(frozen=True, slots=True)
class StepBatch:
    """A step's tensors, and whom they belong to."""

    rows: tuple[ScheduledSequence, ...]
    """In the order of the batch."""
    logits_starts: NDArray[np.int64]  # [num_rows + 1]
    """Where each row's logits begin: one for its last known token, one for each draft; chunks have none."""
    tensors: PagedBatch


def build_batch(
    plan: StepPlan, tokens_of: TokensOf, tables: BlockTables, block_size: int, device: torch.device
) -> StepBatch:
    """Lay out the rows of a plan, which must come from an engine with `PlanDetail.SEQUENCES`."""
    assert not plan.num_steady_seqs, "the plan has sequences without a row: plan with PlanDetail.SEQUENCES"
    spans = []
    for row in plan.rows:
        tokens = tokens_of(row)
        assert len(tokens) == row.num_tokens, "a row was given another number of tokens than it computes"
        num_logits = 1 + row.num_draft_tokens if row.yields_token else 0
        spans.append(Span(row.seq, row.num_computed_tokens, tokens, num_logits))
    batch = lay_out(spans, tables, block_size, device)
    return StepBatch(tuple(plan.rows[place] for place in batch.order), batch.logits_starts, batch.tensors)


def lay_out(spans: Sequence[Span], tables: BlockTables, block_size: int, device: torch.device) -> SpanBatch:
    """Lay out spans. A token beyond its sequence's last block is stored nowhere, and not attended to."""
    order = sorted(range(len(spans)), key=lambda place: len(spans[place].tokens) != 1)
    rows = [spans[place] for place in order]
    counts = _array([len(span.tokens) for span in rows])  # [num_spans]
    begins = _array([span.start for span in rows])  # [num_spans]
    rooms = _array([len(span.seq.table) * block_size for span in rows])  # [num_spans]
    starts = _starts(counts)  # [num_spans + 1]
    of_row = np.repeat(np.arange(len(rows)), counts)  # [num_tokens]
    positions = begins[of_row] + np.arange(starts[-1]) - starts[of_row]  # [num_tokens]
    block_tables = tables.of([span.seq for span in rows])  # [num_spans, max_blocks]
    num_logits = _array([span.num_logits for span in rows])
    tensors = PagedBatch(
        token_ids=_to(device, _array([token for span in rows for token in span.tokens])),
        positions=_to(device, positions),
        slot_mapping=_to(device, _slots(positions, of_row, rooms, block_tables, block_size)),
        block_tables=_to(device, block_tables),
        query_starts=_to(device, starts.astype(np.int32)),
        context_lens=_to(device, np.minimum(begins + counts, rooms).astype(np.int32)),
        logits_rows=_to(device, _last_of_each(starts[1:], num_logits)),
        num_decode_seqs=int((counts == 1).sum()),
    )
    return SpanBatch(order, _starts(num_logits), tensors)


def _slots(
    positions: NDArray[np.int64],  # [num_tokens]
    of_row: NDArray[np.int64],  # [num_tokens]
    rooms: NDArray[np.int64],  # [num_spans]
    block_tables: NDArray[np.int32],  # [num_spans, max_blocks]
    block_size: int,
) -> NDArray[np.int64]:
    """Where each token is stored, -1 beyond the last block.  # [num_tokens]."""
    has_slot = positions < rooms[of_row]
    places = np.where(has_slot, positions // block_size, 0)
    slots = block_tables[of_row, places].astype(np.int64) * block_size + positions % block_size
    return np.where(has_slot, slots, -1)


def _last_of_each(ends: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The last `counts[i]` places before `ends[i]`, all in a row.  # [sum of counts]."""
    starts = _starts(counts)
    of_row = np.repeat(np.arange(len(counts)), counts)
    return ends[of_row] - counts[of_row] + np.arange(starts[-1]) - starts[of_row]


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(counts)))


def _array(values: list[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def _to(device: torch.device, values: NDArray[np.int64] | NDArray[np.int32]) -> torch.Tensor:
    return torch.from_numpy(values).to(device)
