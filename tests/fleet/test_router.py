"""Which replica gets a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.fleet.router import Router, RouterKind, make_router
from workloads.spec import RequestSpec


def router(kind: RouterKind, max_affinity_excess: int = 2) -> Router:
    return make_router(kind, max_affinity_excess=max_affinity_excess)


def spec(hash_ids: tuple[int, ...] = (), session: str | None = None) -> RequestSpec:
    return RequestSpec(0, 0, 100, 10, hash_ids=hash_ids, hash_block_tokens=16, session=session)


def test_round_robin_takes_each_in_turn_however_busy() -> None:
    chooser = router(RouterKind.ROUND_ROBIN)
    assert [chooser.choose(spec(), [9, 0, 0]) for _ in range(5)] == [0, 1, 2, 0, 1]


def test_least_outstanding_takes_the_idlest_and_of_equals_the_first() -> None:
    chooser = router(RouterKind.LEAST_OUTSTANDING)
    assert chooser.choose(spec(), [3, 1, 2]) == 1
    assert chooser.choose(spec(), [2, 1, 1]) == 1
    assert chooser.choose(spec(), [0, 0, 0]) == 0


def test_prefix_affine_prefers_the_longest_known_prefix() -> None:
    chooser = router(RouterKind.PREFIX_AFFINE)
    assert chooser.choose(spec((1, 2, 3)), [1, 0, 0]) == 1
    assert chooser.choose(spec((1, 8, 9)), [0, 3, 1]) == 0, "known, but replica 1 is too busy"
    assert chooser.choose(spec((1, 2, 4)), [0, 1, 0]) == 1, "two ids of it are at replica 1, one at replica 0"
    assert chooser.choose(spec((5,)), [1, 1, 0]) == 2, "nothing is known of it"


def test_prefix_affine_falls_back_to_the_session_and_then_to_the_idlest() -> None:
    chooser = router(RouterKind.PREFIX_AFFINE)
    assert chooser.choose(spec(session="a"), [1, 0]) == 1
    assert chooser.choose(spec(session="a"), [0, 1]) == 1
    assert chooser.choose(spec(session="b"), [0, 1]) == 0
    assert chooser.choose(spec((7,), session="a"), [0, 2]) == 1


@given(
    excess=st.integers(0, 3),
    outstanding=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    earlier=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([None, "a", "b"])), max_size=6),
)
def test_prefix_affine_never_takes_one_that_is_much_busier_than_the_idlest(
    excess: int, outstanding: list[int], earlier: list[tuple[int, str | None]]
) -> None:
    chooser = router(RouterKind.PREFIX_AFFINE, excess)
    for hash_id, session in earlier:
        chosen = chooser.choose(spec((hash_id,), session), outstanding)
        assert outstanding[chosen] <= min(outstanding) + excess


@pytest.mark.parametrize("kind", RouterKind)
def test_one_replica_gets_everything(kind: RouterKind) -> None:
    chooser = router(kind)
    assert {chooser.choose(spec((1,), "a"), [busy]) for busy in range(5)} == {0}
