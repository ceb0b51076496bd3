"""Plans become tensors: every token its position and slot, every wanted logit its row."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

import torch
from hypothesis import given
from hypothesis import strategies as st

from gpu_backend.batch import StepBatch, build_batch
from gpu_backend.memory.block_tables import BlockTables
from sim.core.request import Request, Sequence
from sim.core.step import ScheduledSequence, ScheduleKind, StepPlan

BLOCK_SIZE = 4
CPU = torch.device("cpu")


def _row(
    seq_id: int, table: list[int], *, computed: int, tokens: int, drafts: int = 0, yields: bool = True
) -> ScheduledSequence:
    seq = Sequence(seq_id, Request(seq_id, 0, computed + tokens, 9), 0, 1000)
    seq.table.extend(table)
    return ScheduledSequence(seq, tokens, computed, [], drafts, ScheduleKind.RUNNING, yields)


def _batch(*rows: ScheduledSequence) -> StepBatch:
    plan = StepPlan(0, 1, 0, 0, (), (), len(rows), rows, 0)
    return build_batch(plan, _tokens_of, _tables(plan), BLOCK_SIZE, CPU)


def _tables(plan: StepPlan) -> BlockTables:
    tables = BlockTables(2, 1)
    tables.update(plan)
    return tables


def _tokens_of(row: ScheduledSequence) -> list[int]:
    """Tokens that say whose they are and where they stand."""
    return [100 * row.seq.seq_id + row.num_computed_tokens + place for place in range(row.num_tokens)]


def test_decodes_stand_before_chunks_and_drafts_to_verify() -> None:
    batch = _batch(
        _row(1, [7, 2], computed=0, tokens=5, yields=False),
        _row(2, [5, 9], computed=6, tokens=1),
        _row(3, [3], computed=1, tokens=3, drafts=2),
        _row(4, [8], computed=0, tokens=1),
    )
    assert [row.seq.seq_id for row in batch.rows] == [2, 4, 1, 3]
    tensors = batch.tensors
    assert tensors.num_decode_seqs == 2
    assert tensors.token_ids.tolist() == [206, 400, 100, 101, 102, 103, 104, 301, 302, 303]
    assert tensors.positions.tolist() == [6, 0, 0, 1, 2, 3, 4, 1, 2, 3]
    assert tensors.slot_mapping.tolist() == [38, 32, 28, 29, 30, 31, 8, 13, 14, 15]
    assert tensors.query_starts.tolist() == [0, 1, 2, 7, 10]
    assert tensors.context_lens.tolist() == [7, 1, 5, 4]
    assert [table[:2] for table in tensors.block_tables.tolist()] == [[5, 9], [8, 0], [7, 2], [3, 0]]
    assert tensors.logits_rows.tolist() == [0, 1, 7, 8, 9]
    assert batch.logits_starts.tolist() == [0, 1, 2, 2, 5]


def test_the_tensors_have_the_types_that_ops_read() -> None:
    tensors = _batch(_row(1, [1], computed=0, tokens=2)).tensors
    assert tensors.block_tables.dtype == tensors.query_starts.dtype == torch.int32
    assert tensors.context_lens.dtype == torch.int32
    assert tensors.token_ids.dtype == tensors.positions.dtype == tensors.slot_mapping.dtype == torch.int64


def test_an_empty_plan_is_an_empty_batch() -> None:
    batch = _batch()
    assert len(batch.tensors.token_ids) == len(batch.tensors.logits_rows) == 0
    assert batch.tensors.query_starts.tolist() == [0]


def test_plans_whose_sequences_have_no_rows_are_refused() -> None:
    plan = StepPlan(0, 1, 2, 9, (), (), 2, (), num_steady_seqs=2)
    with pytest.raises(AssertionError, match=r"PlanDetail\.SEQUENCES"):
        build_batch(plan, _tokens_of, BlockTables(1, 1), BLOCK_SIZE, CPU)


def test_rows_given_other_numbers_of_tokens_are_refused() -> None:
    plan = StepPlan(0, 1, 0, 0, (), (), 1, (_row(1, [1], computed=0, tokens=2),), 0)
    with pytest.raises(AssertionError, match="another number of tokens"):
        build_batch(plan, lambda _: [1], _tables(plan), BLOCK_SIZE, CPU)


@given(
    shares=st.lists(
        st.tuples(st.integers(0, 9), st.integers(1, 6), st.integers(0, 5), st.booleans()), max_size=6
    )
)
def test_each_token_lies_in_its_own_slot_of_its_own_table(
    shares: list[tuple[int, int, int, bool]],
) -> None:
    rows = [
        _row(
            seq_id,
            [10 * seq_id + block for block in range(4)],
            computed=computed,
            tokens=tokens,
            drafts=min(drafts, tokens - 1),
            yields=yields,
        )
        for seq_id, (computed, tokens, drafts, yields) in enumerate(shares)
    ]
    batch = _batch(*rows)
    place = 0
    for row, begin, end in zip(batch.rows, batch.logits_starts[:-1], batch.logits_starts[1:], strict=True):
        last = place + row.num_tokens
        for token in range(row.num_computed_tokens, row.num_computed_tokens + row.num_tokens):
            block = row.seq.table[token // BLOCK_SIZE]
            assert batch.tensors.slot_mapping[place] == block * BLOCK_SIZE + token % BLOCK_SIZE
            assert batch.tensors.token_ids[place] == 100 * row.seq.seq_id + token
            place += 1
        wanted = 1 + row.num_draft_tokens if row.yields_token else 0
        assert batch.tensors.logits_rows[begin:end].tolist() == list(range(last - wanted, last))
