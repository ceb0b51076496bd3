"""Which block holds which content."""

from __future__ import annotations

import pytest

from sim.core.prefix_cache import PrefixCache


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
