"""The buddy allocator, against a map of slots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.core.buddy import BuddyPool
from tests.strategies import examples


def test_a_pool_of_any_size_begins_as_powers_of_two() -> None:
    pool = BuddyPool(13)
    assert [pool.take_stretch(size) for size in (8, 4, 1)] == [0, 8, 12]
    assert pool.take_stretch(1) is None
    assert pool.num_free == 0


def test_what_is_asked_for_is_rounded_up_to_a_power_of_two() -> None:
    pool = BuddyPool(8)
    assert pool.take_stretch(3) == 0
    assert (pool.num_used, pool.num_free) == (3, 4)
    assert pool.stretches() == [(0, 3, 4)]


def test_the_paper_s_pool_holds_seven_of_the_longest() -> None:
    pool = BuddyPool(15_728)
    starts = [pool.take_stretch(2048) for _ in range(8)]
    assert starts[7] is None
    assert None not in starts[:7]


def test_free_halves_are_joined_again() -> None:
    pool = BuddyPool(8)
    starts = [pool.take_stretch(2) for _ in range(4)]
    for start in starts:
        assert start is not None
        pool.give_stretch(start)
    assert pool.take_stretch(8) == 0


def test_a_stretch_is_given_back_once() -> None:
    pool = BuddyPool(8)
    start = pool.take_stretch(2)
    assert start is not None
    pool.give_stretch(start)
    with pytest.raises(KeyError):
        pool.give_stretch(start)


def test_free_memory_can_be_too_scattered() -> None:
    pool = BuddyPool(4)
    starts = [pool.take_stretch(1) for _ in range(4)]
    for start in starts[::2]:
        assert start is not None
        pool.give_stretch(start)
    assert pool.num_free == 2
    assert pool.take_stretch(2) is None, "external fragmentation"


@examples(300)
@given(st.integers(1, 70), st.lists(st.integers(-8, 20), max_size=40))
def test_no_slot_is_ever_held_twice_or_lost(num_slots: int, moves: list[int]) -> None:
    """Positive: take so many; otherwise give back the stretch at that place of the list of those held."""
    pool = BuddyPool(num_slots)
    held: dict[int, int] = {}
    for move in moves:
        if move > 0:
            could = pool.can_ever_take(move)
            start = pool.take_stretch(move)
            assert start is None or could
            if start is not None:
                held[start] = move
        elif held:
            start = list(held)[-move % len(held)]
            del held[start]
            pool.give_stretch(start)
        slots = [slot for start, size in held.items() for slot in range(start, start + size)]
        assert len(set(slots)) == len(slots), "a slot is held twice"
        assert all(0 <= slot < num_slots for slot in slots)
        assert pool.num_used == len(slots)
        pool.check_invariants()
    for start in held:
        pool.give_stretch(start)
    assert pool.num_free == num_slots
    largest = 1 << (num_slots.bit_length() - 1)
    assert pool.take_stretch(largest) is not None, "what was split is whole again"
