"""`BlockTables`: the block tables of all live sequences as rows of one matrix, kept up step by step.

    matrix   [num_rows, max_blocks] int32        row of a sequence: its blocks in order; past them, anything

A plan says what changed (new blocks, admissions), so a step writes only that; the tables of a batch are then
one gather, however long they are. Refuses to give blocks out (`sim/core`). Invariant: from `update` to
the end of the step, the leading `len(seq.table)` entries of each scheduled sequence's row are its table.
"""

from __future__ import annotations

from collections.abc import Sequence as AbstractSequence

import numpy as np
from numpy.typing import NDArray

from sim.core.request import Sequence, SequenceStatus
from sim.core.step import ScheduledSequence, ScheduleKind, StepPlan


class BlockTables:
    """Tables of one replica."""

    def __init__(self, num_rows: int, max_blocks: int) -> None:
        self._matrix = np.zeros((num_rows, max_blocks), dtype=np.int32)
        self._row_of: dict[Sequence, int] = {}
        self._free = list(range(num_rows))

    def update(self, plan: StepPlan) -> None:
        """Take over what a plan changed."""
        for row in plan.rows:
            number = self._row_of.get(row.seq)
            if number is None:
                number = self._row_of[row.seq] = self._free_row(plan)
                self._write(number, 0, row.seq.table)
            elif _may_differ_anywhere(row, plan):
                self._write(number, 0, row.seq.table)
            elif row.new_blocks:
                self._write(number, len(row.seq.table) - len(row.new_blocks), row.new_blocks)

    def of(self, seqs: AbstractSequence[Sequence]) -> NDArray[np.int32]:
        """The tables of some sequences.  # [num_seqs, longest table]."""
        longest = max((len(seq.table) for seq in seqs), default=0)
        return self._matrix[[self._row_of[seq] for seq in seqs], :longest]

    def _write(self, number: int, begin: int, blocks: list[int]) -> None:
        end = begin + len(blocks)
        if end > self._matrix.shape[1]:
            self._matrix = np.pad(self._matrix, ((0, 0), (0, end)))
        self._matrix[number, begin:end] = blocks

    def _free_row(self, plan: StepPlan) -> int:
        """A row nobody needs: those of sequences that do not run any more, then new ones."""
        if not self._free:
            scheduled = {row.seq for row in plan.rows}
            for seq in list(self._row_of):
                if seq.status is not SequenceStatus.RUNNING and seq not in scheduled:
                    self._free.append(self._row_of.pop(seq))
        if not self._free:
            self._free.extend(range(len(self._matrix), 2 * len(self._matrix)))
            self._matrix = np.pad(self._matrix, ((0, len(self._matrix)), (0, 0)))
        return self._free.pop()


def _may_differ_anywhere(row: ScheduledSequence, plan: StepPlan) -> bool:
    """Whether more than its end may have changed: by admission, copy-on-write, a beam's change of parents."""
    return row.kind is not ScheduleKind.RUNNING or bool(plan.blocks_to_copy) or row.seq.request.beam_width > 0
