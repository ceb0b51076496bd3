"""Which block holds which content, who hits it, what is evicted, and what is counted."""

from __future__ import annotations

import pytest

from sim.core.block_pool import FreeOrder
from sim.core.kv_cache import AllocStatus
from sim.core.prefix_cache import PrefixCache
from sim.core.request import Request
from tests.core.stepping import (
    Text,
    admit,
    drain,
    make_core,
    make_manager,
    make_sequence,
    members,
    step,
    step_until_preemption,
    told,
)


def test_a_lookup_stops_at_the_first_miss() -> None:
    cache = PrefixCache()
    cache.register([7, 8, 9], ["a", "b", "d"])
    assert cache.find(["a", "b", "c", "d"]) == [7, 8]
    assert cache.find(["x", "a"]) == []


def test_of_several_blocks_with_one_content_the_oldest_is_found() -> None:
    cache = PrefixCache()
    for block in (5, 3, 4):
        cache.register([block], ["a"])
    assert cache.find(["a"]) == [5]
    cache.forget([5])
    assert cache.find(["a"]) == [3]
    cache.forget([4])
    cache.check_invariants()
    cache.forget([3])
    assert cache.find(["a"]) == []
    assert len(cache) == 0
    cache.check_invariants()


def test_a_block_cannot_be_given_a_second_content() -> None:
    cache = PrefixCache()
    cache.register([5], ["a"])
    with pytest.raises(ValueError, match="block 5 is registered already"):
        cache.register([5], ["b"])


def test_forgetting_a_block_without_content_does_nothing() -> None:
    cache = PrefixCache()
    cache.forget([1])
    assert 1 not in cache


# Prefix hits ----------------------------------------------------------------------------------------------


def test_the_first_misses_and_the_second_hits_only_the_full_blocks_in_common() -> None:
    kv = make_manager()
    first, second = make_sequence(0, 11, "a"), make_sequence(1, 15, "a")
    assert kv.find_hit(first) == []
    admit(kv, first)
    assert kv.find_hit(second) == [1, 2]
    assert kv.find_hit(make_sequence(2, 15, "b")) == []


def test_the_last_token_is_always_computed_even_at_the_cost_of_a_block() -> None:
    kv = make_manager()
    admit(kv, make_sequence(0, 12, "a"))
    assert [len(kv.find_hit(make_sequence(1, known, "a"))) for known in (12, 13, 8, 5, 4)] == [2, 3, 1, 1, 0]


def test_a_hit_block_that_is_held_is_shared_and_one_that_is_free_leaves_the_queue() -> None:
    kv = make_manager()
    first, second, third = (make_sequence(number, 9, "a") for number in range(3))
    admit(kv, first)
    admit(kv, second)
    assert [kv.pool.num_holders(block) for block in second.table] == [2, 2, 1]
    kv.free(first)
    assert [kv.pool.num_holders(block) for block in second.table] == [1, 1, 1]
    kv.free(second)
    assert set(second.table) <= set(kv.free_head(10))
    admit(kv, third)
    assert third.table[:2] == [1, 2]
    assert not {1, 2} & set(kv.free_head(10))


def test_free_blocks_that_are_hit_use_up_room_once() -> None:
    """Four blocks, two of them free and findable: with its hit the newcomer needs all four, not six."""
    for num_known, status in ((16, AllocStatus.OK), (17, AllocStatus.LATER)):
        kv = make_manager(4)
        gone = make_sequence(0, 8, "a")
        admit(kv, gone)
        kv.free(gone)
        assert admit(kv, make_sequence(1, num_known, "a")) is status


def test_freed_blocks_are_reused_in_order_unregistered_then_unused_then_the_deepest_of_a_prefix() -> None:
    kv = make_manager(8)
    first, second = make_sequence(0, 10, "a"), make_sequence(1, 6, "b")
    admit(kv, first)
    admit(kv, second)
    kv.free(first)
    assert kv.free_head(9) == [3, 6, 7, 8, 2, 1]
    kv.free(second)
    assert kv.free_head(9) == [5, 3, 6, 7, 8, 2, 1, 4]


def test_blocks_without_content_are_reused_from_the_end_of_their_table() -> None:
    kv = make_manager(6)
    seq = make_sequence(0, 12)
    admit(kv, seq)
    kv.free(seq)
    assert kv.free_head(6) == [3, 2, 1, 4, 5, 6]


@pytest.mark.parametrize(
    ("order", "caching", "expected"),
    [
        (FreeOrder.UNHASHED_FIRST, True, [3, 4, 5, 6, 2, 1]),
        (FreeOrder.TAIL, True, [4, 5, 6, 3, 2, 1]),
        (FreeOrder.UNHASHED_FIRST, False, [3, 2, 1, 4, 5, 6]),
        (FreeOrder.TAIL, False, [4, 5, 6, 3, 2, 1]),
    ],
)
def test_freed_blocks_go_where_the_release_puts_them(
    order: FreeOrder, caching: bool, expected: list[int]
) -> None:
    core = make_core(num_blocks=6, caching=caching, free_order=order)
    core.submit(Request(0, 0, 10, 1, content=Text("a")))
    step(core)
    assert core.free_head(9) == expected


def test_eviction_takes_the_least_recently_freed_and_not_what_was_just_hit() -> None:
    kv = make_manager(4)
    for number, text in enumerate("abc"):
        gone = make_sequence(number, 4, text)
        admit(kv, gone)
        kv.free(gone)
    assert kv.free_head(4) == [4, 1, 2, 3]
    again = make_sequence(3, 5, "a")
    admit(kv, again)  # hits block 1, computes into block 4
    kv.free(again)
    assert kv.free_head(4) == [4, 2, 3, 1]
    admit(kv, make_sequence(4, 8, None))  # takes blocks 4 and 2: the content of "b" is gone
    assert [len(kv.find_hit(make_sequence(5, 5, text))) for text in "abc"] == [1, 0, 1]


def test_a_reused_block_loses_its_content() -> None:
    core = make_core(num_blocks=3, caching=True)
    core.submit(Request(0, 0, 9, 1, content=Text("a")))
    step(core)
    assert core.num_cached_blocks == 2
    core.submit(Request(1, 0, 12, 1))
    step(core)
    assert core.num_cached_blocks == 0


def test_equal_blocks_are_all_kept_and_the_oldest_is_found() -> None:
    """Both compute the last block of an equal prompt; the first one's stays the one that is found."""
    kv = make_manager()
    first, second = make_sequence(0, 8, "a"), make_sequence(1, 8, "a")
    admit(kv, first)
    admit(kv, second)
    assert (first.table, second.table, kv.num_cached_blocks) == ([1, 2], [1, 3], 3)
    assert kv.find_hit(make_sequence(2, 9, "a")) == [1, 2]
    kv.free(first)
    kv.free(second)
    for taken, found in ((7, [1, 2]), (1, [1, 3]), (1, [1])):
        taker = make_sequence(9, taken * 4)
        assert admit(kv, taker) is AllocStatus.OK
        assert kv.find_hit(make_sequence(2, 9, "a")) == found


def test_an_equal_prompt_is_shared_within_the_step_but_for_its_last_token() -> None:
    core = make_core(caching=True)
    for number in range(2):
        core.submit(Request(number, 0, 8, 3, content=Text("same")))
    plan = step(core)
    assert told(plan) == [(0, 8, 0), (1, 4, 4)]
    assert plan.rows[0].new_blocks[0] == plan.rows[1].new_blocks[0]
    assert core.prefix_stats.queries == 16
    assert core.prefix_stats.hits == 4
    drain(core)


@pytest.mark.parametrize(("caching", "others"), [(True, 3), (False, 99)])
def test_samples_share_full_blocks_by_content_alone(caching: bool, others: int) -> None:
    core = make_core(20, 32, caching=caching, max_model_len=200, max_num_batched_tokens=500)
    core.submit(Request(0, 0, 99, 5, num_samples=4, content=Text("prompt")))
    assert [row.num_tokens for row in step(core).rows] == [99, others, others, others]
    assert core.num_used_blocks == (7 if caching else 16)


def test_the_next_turn_of_a_conversation_hits_the_output_of_the_last() -> None:
    core = make_core(caching=True)
    core.submit(Request(0, 0, 6, 8, content=Text("chat")))
    drain(core)  # 13 tokens are stored: three full blocks
    core.submit(Request(1, 0, 20, 2, content=Text("chat")))
    assert told(step(core)) == [(1, 8, 12)]


def test_a_generated_block_is_registered_in_the_step_that_computes_its_last_token() -> None:
    core = make_core(caching=True)
    core.submit(Request(0, 0, 6, 8, content=Text("a")))
    assert [(step(core), core.num_cached_blocks)[1] for _ in range(7)] == [1, 1, 2, 2, 2, 2, 3]


def test_a_resumed_sequence_hits_blocks_of_its_own_output() -> None:
    core = make_core(num_blocks=7, caching=True)
    core.submit(Request(0, 0, 5, 12, content=Text("a")))
    core.submit(Request(1, 0, 5, 16, content=Text("b")))
    step_until_preemption(core)
    (victim,) = core.waiting
    assert victim.num_known > 12
    while 1 not in members(plan := step(core)):
        pass
    (hit,) = [computed for number, _, computed in told(plan) if number == 1]
    assert hit > 4
    assert core.prefix_stats.preempted_hits == hit
    assert core.num_recomputed_tokens == victim.num_lost_tokens - hit


# Counting -------------------------------------------------------------------------------------------------


def test_a_lookup_is_counted_once_for_each_admission_and_not_for_each_try() -> None:
    core = make_core(caching=True, max_num_seqs=1)
    core.submit(Request(0, 0, 8, 4, content=Text("a")))
    core.submit(Request(1, 0, 9, 4, content=Text("a")))
    drain(core)
    assert (core.prefix_stats.queries, core.prefix_stats.hits) == (17, 8)
    small = make_core(num_blocks=4, caching=True)
    small.submit(Request(0, 0, 9, 4, content=Text("a")))
    small.submit(Request(1, 0, 9, 4, content=Text("b")))
    for _ in range(3):
        assert members(step(small)) == [0]
    assert small.prefix_stats.queries == 9


def test_lookups_of_preempted_sequences_are_counted_apart() -> None:
    core = make_core(num_blocks=6, caching=True)
    core.submit(Request(0, 0, 12, 8, content=Text("a")))
    core.submit(Request(1, 0, 8, 8, content=Text("b")))
    step_until_preemption(core)
    drain(core)
    stats = core.prefix_stats
    assert (stats.queries, stats.hits) == (20, 0)
    assert stats.preempted_queries == 9
    assert stats.preempted_hits in (4, 8)


def test_no_caching_and_no_content_mean_no_hits_and_no_counts() -> None:
    for caching, content in ((False, Text("a")), (True, None)):
        core = make_core(caching=caching)
        for number in range(2):
            core.submit(Request(number, 0, 8, 3, content=content))
        assert told(step(core)) == [(0, 8, 0), (1, 8, 0)]
        drain(core)
        assert (core.prefix_stats.queries, core.prefix_stats.hits, core.num_cached_blocks) == (0, 0, 0)


def test_a_refusal_touches_nothing_not_even_the_blocks_it_would_hit() -> None:
    core = make_core(num_blocks=6, caching=True)
    core.submit(Request(0, 0, 9, 1, content=Text("a")))
    step(core)
    core.submit(Request(1, 0, 13, 8, content=Text("b")))
    step(core)
    core.submit(Request(2, 0, 13, 8, content=Text("a")))
    before = (core.free_head(9), core.num_cached_blocks, core.prefix_stats.queries)
    assert members(step(core)) == [1]
    assert (core.free_head(9), core.num_cached_blocks, core.prefix_stats.queries) == before
