"""How many blocks a sequence gets, when it is let in, and what is kept free."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.core.block_pool import FreeOrder
from sim.core.kv_cache import Admission, AllocStatus, CacheConfig
from sim.core.request import Request, Sequence
from tests.core.stepping import (
    admit,
    drain,
    make_core,
    make_manager,
    make_sequence,
    members,
    preempted,
    step,
    told,
)
from tests.strategies import examples

# Growing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_tokens", "num_blocks"), [(1, 1), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3), (40, 10)]
)
def test_a_sequence_gets_as_many_blocks_as_its_tokens_fill_or_begin(num_tokens: int, num_blocks: int) -> None:
    kv = make_manager()
    seq = make_sequence(0, num_tokens)
    assert admit(kv, seq) is AllocStatus.OK
    assert seq.table == list(range(1, num_blocks + 1))


def test_growing_takes_no_block_while_the_last_has_room_one_at_the_edge_and_several_at_once() -> None:
    kv = make_manager()
    seq = make_sequence(0, 3)
    admit(kv, seq)
    for num_tokens, num_held in ((1, 1), (1, 2), (3, 2), (9, 5)):
        assert kv.grow(seq, num_tokens) is AllocStatus.OK
        seq.num_computed += num_tokens
        assert len(seq.table) == num_held


@pytest.mark.parametrize(("lookahead", "num_held"), [(0, 1), (1, 2), (4, 2), (5, 3)])
def test_lookahead_slots_count(lookahead: int, num_held: int) -> None:
    kv = make_manager(lookahead=lookahead)
    seq = make_sequence(0, 4)
    admit(kv, seq)
    assert len(seq.table) == num_held


def test_lookahead_slots_do_not_reach_past_the_longestmake_sequence() -> None:
    kv = make_manager(20, lookahead=5)
    seq = make_sequence(0, 62)
    admit(kv, seq)
    assert len(seq.table) == 16


def test_a_refused_growth_touches_nothing() -> None:
    kv = make_manager(2)
    seq = make_sequence(0, 8, "a")
    admit(kv, seq)
    before = (seq.table[:], kv.free_head(9), kv.num_cached_blocks, kv.num_blocks_allocated)
    assert kv.grow(seq, 1) is AllocStatus.LATER
    assert (seq.table, kv.free_head(9), kv.num_cached_blocks, kv.num_blocks_allocated) == before


def test_a_sequence_wastes_less_than_one_block_at_every_step() -> None:
    core = make_core()
    core.submit(Request(0, 0, 5, 20))
    while core.has_unfinished:
        plan = step(core)
        for seq in core.running:
            computed = plan.rows[0].num_computed_tokens + plan.rows[0].num_tokens
            assert 0 <= len(seq.table) * 4 - computed < 4


def test_a_prompt_of_exactly_one_block_gets_its_second_at_the_first_decode() -> None:
    core = make_core()
    core.submit(Request(0, 0, 4, 5))
    assert len(step(core).rows[0].new_blocks) == 1
    assert len(step(core).rows[0].new_blocks) == 1


def test_a_sequence_holds_at_its_end_what_all_tokens_but_the_last_one_fill() -> None:
    for prompt, output, num_blocks in ((4, 4, 2), (4, 5, 2), (4, 6, 3), (7, 1, 2), (8, 1, 2)):
        core = make_core()
        core.submit(Request(0, 0, prompt, output))
        drain(core)
        assert core.num_blocks_allocated == num_blocks, (prompt, output)


# Admission ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gate", "admitted"), [(True, [0]), (False, [0, 1])])
def test_the_full_sequence_gate_looks_at_the_whole_prompt(gate: bool, admitted: list[int]) -> None:
    core = make_core(num_blocks=6, max_num_batched_tokens=12, full_sequence_gate=gate)
    core.submit(Request(0, 0, 8, 2))
    core.submit(Request(1, 0, 20, 2))
    assert members(step(core)) == admitted


def test_the_full_sequence_gate_counts_settled_output_of_a_resumedmake_sequence() -> None:
    """Request 1 was preempted with 9 tokens known; only two blocks are free until request 0 ends."""
    core = make_core(num_blocks=6, max_num_batched_tokens=20)
    core.submit(Request(0, 0, 12, 6))
    core.submit(Request(1, 0, 8, 6))
    step(core)
    assert preempted(step(core)) == [1]
    assert core.num_free_blocks == 2
    while members(plan := step(core)) == [0]:
        pass
    assert told(plan) == [(1, 9, 0)]


def test_the_gate_is_a_check_and_reserves_nothing() -> None:
    core = make_core(num_blocks=6, max_num_batched_tokens=8)
    core.submit(Request(0, 0, 20, 2))
    step(core)
    assert core.num_used_blocks == 2


def test_the_gate_keeps_the_watermark_free_too() -> None:
    """20 blocks with the null block: 4 must stay free. 5 of 19 are held, the newcomer wants 10 or 11."""
    for prompt, admitted in ((40, [0, 1]), (41, [0])):
        core = make_core(num_blocks=19, max_num_batched_tokens=28, watermark_fraction=0.2)
        core.submit(Request(0, 0, 20, 2))
        core.submit(Request(1, 0, prompt, 2))
        assert members(step(core)) == admitted, prompt


def test_the_watermark_holds_back_newcomers_but_not_the_first() -> None:
    core = make_core(num_blocks=9, watermark_fraction=0.5)
    core.submit(Request(0, 0, 28, 2))
    core.submit(Request(1, 0, 4, 2))
    assert members(step(core)) == [0]


def test_the_watermark_does_not_hold_back_what_runs() -> None:
    core = make_core(num_blocks=3, watermark_fraction=0.9)
    core.submit(Request(0, 0, 8, 4))
    core.submit(Request(1, 0, 1, 1))
    assert [members(step(core)) for _ in range(5)] == [[0], [0], [0], [0], [1]]


def test_the_watermark_is_rounded_down_and_counts_the_null_block() -> None:
    config = CacheConfig(num_blocks=19)
    assert [config.fraction_of_blocks(fraction) for fraction in (0.0, 0.05, 0.09, 0.1)] == [0, 1, 1, 2]
    assert CacheConfig(num_blocks=19, has_null_block=False).fraction_of_blocks(0.1) == 1


@given(
    num_blocks=st.integers(2, 16),
    block_size=st.sampled_from([1, 2, 4]),
    lookahead=st.integers(0, 3),
    caching=st.booleans(),
    free_order=st.sampled_from(FreeOrder),
    data=st.data(),
)
@examples(150)
def test_admission_takes_exactly_what_it_needs_or_nothing(
    num_blocks: int,
    block_size: int,
    lookahead: int,
    caching: bool,
    free_order: FreeOrder,
    data: st.DataObject,
) -> None:
    kv = make_manager(
        num_blocks, block_size, lookahead=lookahead, enable_prefix_caching=caching, free_order=free_order
    )
    held: list[Sequence] = []
    for number in range(15):
        is_freeing: bool = data.draw(st.booleans())
        if held and is_freeing:
            kv.free(held.pop(data.draw(st.integers(0, len(held) - 1))))
        seq = make_sequence(number, data.draw(st.integers(1, 12)), data.draw(st.sampled_from("aab")))
        hit = kv.find_hit(seq)
        assert len(hit) * block_size < seq.num_known
        num_tokens = data.draw(st.integers(1, seq.num_known - len(hit) * block_size))
        watermark = data.draw(st.integers(0, 2))
        whole = data.draw(st.booleans())
        held_hits = sum(block not in kv.free_head(num_blocks) for block in hit)
        num_wanted = -(-(len(hit) * block_size + num_tokens + lookahead) // block_size)
        num_most = max(num_wanted, -(-seq.num_known // block_size)) if whole else num_wanted
        before = (kv.free_head(num_blocks), kv.num_cached_blocks, kv.pool.num_extra_holders)
        fits = num_most - held_hits + watermark <= kv.pool.num_free
        status = kv.admit(seq, hit, Admission(num_tokens, watermark, whole))
        assert (status is AllocStatus.OK) == fits
        if fits:
            held.append(seq)
            assert len(before[0]) - kv.pool.num_free == num_wanted - held_hits
            assert (seq.table[: len(hit)], len(seq.table)) == (hit, num_wanted)
        else:
            assert (kv.free_head(num_blocks), kv.num_cached_blocks, kv.pool.num_extra_holders) == before
        kv.check_invariants(held)


def test_giving_back_what_is_not_held_is_misuse() -> None:
    kv = make_manager()
    seq = make_sequence(0, 5)
    with pytest.raises(ValueError, match="holds no block to free"):
        kv.free(seq)
    admit(kv, seq)
    kv.free(seq)
    with pytest.raises(ValueError, match="holds no block to free"):
        kv.free(seq)
    with pytest.raises(ValueError, match="must be at least 1"):
        CacheConfig(num_blocks=0)
