"""Decoding sequences that move forward without being touched, held against counting token by token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sim.core.kv_cache import KVCacheManager
from sim.core.request import Sequence
from sim.core.steady_batch import SteadyBatch
from tests.core.stepping import make_manager, make_sequence
from tests.strategies import examples

FOREVER = 2**31


def _joined(
    steady: SteadyBatch, kv: KVCacheManager, order: int, num_prompt: int, output: int, *, step: int = 1
) -> Sequence:
    """A sequence that got its first token in the step before `step` and decodes from then on."""
    seq = make_sequence(order, num_prompt)
    seq.order = order
    seq.max_known = num_prompt + output
    kv.grow(seq, num_prompt)
    seq.num_computed, seq.num_known = num_prompt, num_prompt + 1
    steady.join(seq, step)
    return seq


def _advance(kv: KVCacheManager, steady: SteadyBatch, first_step: int, num_steps: int) -> list[int]:
    """One plan for `num_steps` steps: the blocks of its first are taken when it is made."""
    steady.grow(first_step)
    used_blocks = [kv.pool.num_used]
    steady.repeat(first_step + 1, num_steps - 1, used_blocks)
    steady.advance(num_steps)
    return used_blocks


def _compute_singly(kv: KVCacheManager, seq: Sequence) -> None:
    kv.grow(seq, 1)
    seq.num_computed += 1
    seq.num_known += 1


def test_a_member_takes_a_block_in_the_steps_in_which_its_tokens_outgrow_its_table() -> None:
    kv = make_manager(20)
    steady = SteadyBatch(kv)
    seq = _joined(steady, kv, 0, 6, 20)
    held = []
    for step in range(1, 9):
        _advance(kv, steady, step, 1)
        steady.check_invariants(step + 1)
        held.append(len(seq.table))
    # Before step 1 six tokens are stored; steps 3 and 7 compute the ninth and the thirteenth.
    assert held == [2, 2, 3, 3, 3, 3, 4, 4]


def test_several_steps_at_once_hand_out_the_same_blocks_as_one_by_one() -> None:
    tables = []
    for plans in ([1] * 10, [10], [3, 1, 6]):
        kv = make_manager(30)
        steady = SteadyBatch(kv)
        seqs = [_joined(steady, kv, order, prompt, 20) for order, prompt in enumerate((5, 8, 6, 8))]
        step = 1
        used: list[int] = []
        for num_steps in plans:
            used += _advance(kv, steady, step, num_steps)
            step += num_steps
        steady.check_invariants(step)
        tables.append(([seq.table for seq in seqs], used, steady.sum_known))
    assert tables[0] == tables[1] == tables[2]


def test_blocks_are_handed_out_in_running_order_whatever_the_order_of_joining() -> None:
    kv = make_manager(20)
    steady = SteadyBatch(kv)
    seqs = {order: _joined(steady, kv, order, 4, 20) for order in (2, 0, 3, 1)}
    assert list(steady.takers(1)) == [seqs[order] for order in range(4)]
    steady.grow(1)
    assert [seqs[order].table[-1] for order in range(4)] == [5, 6, 7, 8]


def test_a_member_that_leaves_has_its_counts_and_the_steps_of_its_tokens() -> None:
    kv = make_manager(20)
    steady = SteadyBatch(kv)
    seq, other = (_joined(steady, kv, order, 6, 20) for order in range(2))
    _advance(kv, steady, 1, 5)
    steady.leave(seq, 6)
    assert (seq.num_computed, seq.num_known, seq.runs) == (11, 12, [(0, 6, 1)])
    assert (steady.num_seqs, steady.sum_known) == (1, 12)
    steady.check_invariants(6)
    assert other.in_steady_batch


def test_a_member_that_comes_back_without_a_pause_goes_on_with_the_same_run() -> None:
    kv = make_manager(20)
    steady = SteadyBatch(kv)
    seq = _joined(steady, kv, 0, 6, 20)
    _advance(kv, steady, 1, 5)
    steady.leave(seq, 6)
    _compute_singly(kv, seq)
    steady.join(seq, 7)
    _advance(kv, steady, 7, 4)
    steady.leave(seq, 11)
    assert seq.runs == [(0, 11, 1)]


def test_those_that_end_leave_in_running_order_and_nobody_else_does() -> None:
    kv = make_manager(30)
    steady = SteadyBatch(kv)
    late, second, first = (
        _joined(steady, kv, order, 5, output) for order, output in ((1, 9), (2, 4), (0, 4))
    )
    assert steady.horizon(1, FOREVER) == 3
    _advance(kv, steady, 1, 3)
    assert steady.pop_finished(2) == []
    assert steady.pop_finished(3) == [first, second]
    assert [seq.num_known for seq in (first, second)] == [9, 9]
    assert steady.num_seqs == 1
    assert late.in_steady_batch


def test_who_left_and_came_back_to_end_at_another_time_ends_only_then() -> None:
    kv = make_manager(30)
    steady = SteadyBatch(kv)
    seq = _joined(steady, kv, 0, 5, 4)
    other = _joined(steady, kv, 1, 5, 9)
    steady.leave(seq, 1)
    _compute_singly(kv, seq)  # in step 2, after a step in which it got nothing
    steady.join(seq, 3)
    assert steady.horizon(3, FOREVER) == 2
    assert steady.pop_finished(3) == []
    assert steady.pop_finished(4) == [seq]
    assert other.in_steady_batch


@given(
    members=st.lists(st.tuples(st.integers(1, 12), st.integers(2, 15)), min_size=1, max_size=6),
    num_spare=st.integers(0, 12),
    block_size=st.sampled_from([1, 2, 3, 4, 8]),
    limit=st.sampled_from([1, 3, FOREVER]),
)
@examples(150)
def test_the_horizon_ends_where_a_member_ends_or_a_block_is_missing(
    members: list[tuple[int, int]], num_spare: int, block_size: int, limit: int
) -> None:
    held = sum(-(-prompt // block_size) for prompt, _ in members)
    kv = make_manager(held + len(members) + num_spare, block_size)
    steady = SteadyBatch(kv)
    seqs = [_joined(steady, kv, order, *member) for order, member in enumerate(members)]
    steady.grow(1)
    horizon = steady.horizon(1, limit)
    # Token by token: how many steps from step 1 on, whose blocks are held, can be taken alike?
    free, counted = kv.pool.num_free, 1
    while counted < limit and all(seq.max_known > seq.num_known + counted for seq in seqs):
        free -= sum((seq.num_computed + counted) % block_size == 0 for seq in seqs)
        if free < 0:
            break
        counted += 1
    assert horizon == counted
    used_blocks = [kv.pool.num_used]
    steady.repeat(2, horizon - 1, used_blocks)
    steady.advance(horizon)
    steady.check_invariants(1 + horizon)
    assert used_blocks == sorted(used_blocks)
    assert len(used_blocks) == horizon
