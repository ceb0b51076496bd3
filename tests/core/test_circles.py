"""Steps that repeat themselves for ever are noticed, and nothing else is taken for that."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sim.core.circles import CircleWatch
from sim.core.engine import EngineCore
from sim.core.policy import PolicyKind
from sim.core.request import Request
from tests.core.stepping import drain, make_core, step
from tests.strategies import examples


@given(before=st.integers(0, 40), length=st.integers(1, 40))
def test_a_circle_is_found_within_a_few_rounds_and_never_before_a_state_came_back(
    before: int, length: int
) -> None:
    watch = CircleWatch()
    for look in range(4 * (before + length) + 1):
        watch.look(look if look < before else before + (look - before) % length)
        if watch.is_circling:
            break
    assert watch.is_circling
    assert look >= before + length


def _caught() -> EngineCore:
    """Three samples and room for one: they are equals, so the first to run goes before it is done."""
    core = make_core(
        num_blocks=3,
        block_size=2,
        max_model_len=6,
        long_prefill_token_threshold=2,
        policy=PolicyKind.PRIORITY,
        full_sequence_gate=False,
    )
    core.submit(Request(0, 0, 2, 4, num_samples=3))
    for _ in range(40):
        if core.is_circling:
            return core
        step(core)
    raise AssertionError("it was not noticed")


def test_samples_that_preempt_each_other_for_ever_are_noticed() -> None:
    core = _caught()
    tokens = sorted(seq.num_known for seq in (*core.running, *core.waiting))
    for _ in range(100):
        step(core)
    assert sorted(seq.num_known for seq in (*core.running, *core.waiting)) == tokens
    assert core.is_circling


def test_who_leaves_or_comes_may_open_the_circle() -> None:
    core = _caught()
    core.abort(0, 1)
    assert not core.is_circling
    core.abort(0, 2)
    assert len(drain(core)) == 1
    core = _caught()
    core.submit(Request(1, 0, 1, 1, priority=-1))
    assert not core.is_circling


@given(
    asked=st.lists(st.tuples(st.integers(1, 14), st.integers(1, 10)), min_size=1, max_size=6),
    num_blocks=st.integers(6, 12),
    threshold=st.integers(0, 3),
    caching=st.booleans(),
    policy=st.sampled_from(PolicyKind),
)
@examples(100)
def test_requests_that_can_all_be_told_apart_never_go_in_circles(
    asked: list[tuple[int, int]], num_blocks: int, threshold: int, caching: bool, policy: PolicyKind
) -> None:
    core = make_core(
        num_blocks=num_blocks,
        caching=caching,
        max_model_len=24,
        long_prefill_token_threshold=threshold,
        policy=policy,
        full_sequence_gate=False,
    )
    for number, (prompt, output) in enumerate(asked):
        core.submit(Request(number, number, prompt, output, priority=number % 2))
    while core.has_unfinished:
        step(core)
        assert not core.is_circling
