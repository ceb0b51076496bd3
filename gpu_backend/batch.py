"""From a plan to tensors: which tokens, where their keys and values go, whose logits are wanted.

    row                 position                      slot
    num_computed 6      6 7 8                         table[6 // 4] * 4 + 6 % 4, ...       block_size 4
    num_tokens 3        └ drafts are the last ones

Owns the order of rows in a batch: those with a single token first (they are handled as decodes), else as
scheduled. Refuses to know where token ids come from: whoever holds the texts gives them row by row. Plans
must come from an engine with `PlanDetail.SEQUENCES`, so that everyone has a row. Invariant: nothing here
touches the device but the transfer at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gpu_backend.llama import PagedBatch
from sim.core.step import ScheduledSequence, StepPlan

TokensOf = Callable[[ScheduledSequence], Sequence[int]]
"""The `num_tokens` token ids that a row computes, from its first uncomputed one; drafts last."""


@dataclass(frozen=True, slots=True)
class StepBatch:
    """A step's tensors, and whom they belong to."""

    rows: tuple[ScheduledSequence, ...]
    """In the order of the batch."""
    logits_starts: NDArray[np.int64]  # [num_rows + 1]
    """Where each row's logits begin: one for its last known token, one for each draft; chunks have none."""
    tensors: PagedBatch


def build_batch(plan: StepPlan, tokens_of: TokensOf, block_size: int, device: torch.device) -> StepBatch:
    """Lay out the rows of a plan."""
    assert not plan.num_steady_seqs, "the plan has sequences without a row: plan with PlanDetail.SEQUENCES"
    rows = tuple(sorted(plan.rows, key=lambda row: row.num_tokens != 1))
    counts = _array([row.num_tokens for row in rows])  # [num_rows]
    computed = _array([row.num_computed_tokens for row in rows])  # [num_rows]
    starts = _starts(counts)  # [num_rows + 1]
    of_row = np.repeat(np.arange(len(rows)), counts)  # [num_tokens]
    positions = computed[of_row] + np.arange(starts[-1]) - starts[of_row]  # [num_tokens]
    tables = block_table_matrix([row.seq.table for row in rows])  # [num_rows, max_blocks]
    slots = tables[of_row, positions // block_size].astype(np.int64) * block_size + positions % block_size
    num_logits = _array([1 + row.num_draft_tokens if row.yields_token else 0 for row in rows])
    tensors = PagedBatch(
        token_ids=_to(device, _array([token for row in rows for token in tokens_of(row)])),
        positions=_to(device, positions),
        slot_mapping=_to(device, slots),
        block_tables=_to(device, tables),
        query_starts=_to(device, starts.astype(np.int32)),
        context_lens=_to(device, (computed + counts).astype(np.int32)),
        logits_rows=_to(device, _last_of_each(starts[1:], num_logits)),
        num_decode_seqs=int((counts == 1).sum()),
    )
    assert len(tensors.token_ids) == starts[-1], "a row was given another number of tokens than it computes"
    return StepBatch(rows, _starts(num_logits), tensors)


def block_table_matrix(tables: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    """Block ids, one row per sequence, zeros past its end.  # [num_seqs, max_blocks] int32."""
    matrix = np.zeros((len(tables), max(map(len, tables), default=0)), dtype=np.int32)
    for row, table in zip(matrix, tables, strict=True):
        row[: len(table)] = table
    return matrix


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
