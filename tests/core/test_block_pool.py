"""The free order and the reference counts of one memory tier."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.core.block_pool import BlockPool, NoFreeBlocksError, check_pool


def test_blocks_are_handed_out_in_order_of_their_ids_at_first() -> None:
    pool = BlockPool(5)
    assert pool.free_blocks() == [1, 2, 3, 4, 5]
    assert pool.take(2) == ([1, 2], [])
    assert pool.head(2) == [3, 4]
    assert (pool.num_free, pool.num_used) == (3, 2)


def test_blocks_given_to_the_front_are_taken_last_given_first() -> None:
    pool = BlockPool(5)
    pool.take(4)
    pool.give_front([1, 2])
    assert pool.free_blocks() == [2, 1, 5]


def test_blocks_given_to_the_back_are_taken_after_all_others_and_count_as_evicted() -> None:
    pool = BlockPool(3)
    pool.take(2)
    pool.give_back(2)
    pool.give_back(1)
    assert pool.free_blocks() == [3, 2, 1]
    assert pool.take(2) == ([3, 2], [2])


def test_a_free_block_with_content_can_be_taken_out_of_the_middle() -> None:
    pool = BlockPool(3)
    pool.take(3)
    for block in (1, 2, 3):
        pool.give_back(block)
    pool.share(2)
    assert pool.free_blocks() == [1, 3]
    assert pool.num_holders(2) == 1


def test_a_shared_block_is_free_only_when_its_last_holder_drops_it() -> None:
    pool = BlockPool(2)
    pool.take(1)
    pool.share(1)
    pool.share(1)
    assert (pool.num_holders(1), pool.num_extra_holders) == (3, 2)
    assert [pool.drop(1), pool.drop(1), pool.drop(1)] == [False, False, True]
    assert pool.num_extra_holders == 0


def test_taking_more_than_is_free_is_misuse() -> None:
    pool = BlockPool(2)
    with pytest.raises(NoFreeBlocksError, match="3 blocks wanted, 2 free of 2"):
        pool.take(3)
    with pytest.raises(ValueError, match="at least one block"):
        BlockPool(0)


def _give(pool: BlockPool, table: list[int], *, to_front: bool) -> None:
    if to_front:
        pool.give_front(table)
        return
    for block in table:
        pool.give_back(block)


@given(st.integers(1, 30), st.data())
def test_draining_and_refilling_loses_nothing(num_blocks: int, data: st.DataObject) -> None:
    pool = BlockPool(num_blocks)
    tables: list[list[int]] = []
    for _ in range(20):
        count = data.draw(st.integers(0, num_blocks))
        if count <= pool.num_free:
            tables.append(pool.take(count)[0])
        elif tables:
            table = tables.pop(data.draw(st.integers(0, len(tables) - 1)))
            _give(pool, table, to_front=data.draw(st.booleans()))
        check_pool(pool, tables)


def test_one_block_for_each_table_in_order_even_where_content_is_lost() -> None:
    pool = BlockPool(3)
    pool.take(3)
    pool.give_front([1])
    pool.give_back(3)
    pool.give_back(2)
    tables: list[list[int]] = [[9], [], []]
    assert pool.take_one_each(tables, 3) == [3, 2]
    assert tables == [[9, 1], [3], [2]]
