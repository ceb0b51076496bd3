"""In which order sequences wait, and when a batch may take newcomers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.core.policy import Batching, Continuous, Dynamic, PolicyKind, Static, make_waiting_queue
from sim.core.request import Request, Sequence
from tests.core.stepping import (
    drain,
    in_queue,
    make_core,
    members,
    preempted,
    step,
    step_until_preemption,
)


def _waiting(number: int, arrival_ns: int = 0, priority: int = 0) -> Sequence:
    return Sequence(number, Request(number, arrival_ns, 1, 1, priority=priority), 0, 64)


# Queues ---------------------------------------------------------------------------------------------------


def test_first_come_first_served_puts_preempted_ones_in_front() -> None:
    queue = make_waiting_queue(PolicyKind.FCFS)
    for number in range(3):
        queue.push(_waiting(number))
    queue.push_preempted(_waiting(9))
    queue.push_preempted(_waiting(8))
    assert in_queue(queue) == [8, 9, 0, 1, 2]
    assert queue.head() is queue.pop_head()
    assert len(queue) == 4


def test_a_preempted_sequence_waits_where_its_priority_says() -> None:
    queue = make_waiting_queue(PolicyKind.PRIORITY)
    for number, arrival, priority in ((0, 5, 1), (1, 3, 1), (2, 9, 0), (3, 0, 2)):
        queue.push(_waiting(number, arrival, priority))
    queue.push_preempted(_waiting(4, 4, 1))
    assert in_queue(queue) == [2, 1, 4, 0, 3]


@pytest.mark.parametrize("kind", PolicyKind)
def test_one_can_be_taken_out_of_the_middle(kind: PolicyKind) -> None:
    queue = make_waiting_queue(kind)
    seqs = [_waiting(number, number) for number in range(5)]
    for seq in seqs:
        queue.push(seq)
    queue.remove(seqs[2])
    assert in_queue(queue) == [0, 1, 3, 4]
    assert queue.pop_head() is seqs[0]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=20), st.data())
def test_by_priority_everyone_leaves_in_order_of_number_arrival_and_id(
    keys: list[tuple[int, int]], data: st.DataObject
) -> None:
    queue = make_waiting_queue(PolicyKind.PRIORITY)
    seqs = [_waiting(number, arrival, priority) for number, (priority, arrival) in enumerate(keys)]
    for seq in seqs:
        queue.push(seq)
    gone: list[Sequence] = data.draw(st.lists(st.sampled_from(seqs), unique=True)) if seqs else []
    for seq in gone:
        queue.remove(seq)
    left = [seq for seq in seqs if seq not in gone]
    expected = sorted(left, key=lambda seq: (seq.request.priority, seq.request.arrival_ns, seq.seq_id))
    assert list(queue) == expected
    assert [queue.pop_head() for _ in range(len(queue))] == expected


def _samples(request: Request, first_id: int) -> list[Sequence]:
    return [Sequence(first_id + sample, request, sample, 64) for sample in range(request.num_samples)]


def test_samples_of_one_request_wait_in_the_order_of_their_numbers_as_text() -> None:
    queue = make_waiting_queue(PolicyKind.PRIORITY)
    for seq in (*_samples(Request(0, 0, 1, 1, num_samples=12), 0), *_samples(Request(1, 0, 1, 1), 12)):
        queue.push(seq)
    assert [seq.seq_id for seq in queue] == [0, 10, 11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12]


def test_among_samples_of_one_request_the_first_to_run_is_preempted_first() -> None:
    core = make_core(num_blocks=6, policy=PolicyKind.PRIORITY)
    core.submit(Request(0, 0, 4, 9, num_samples=3))
    core.submit(Request(1, 0, 4, 9, priority=-1))
    plan = step_until_preemption(core)
    assert [(seq.request.request_id, seq.sample) for seq in plan.preempted] == [(0, 0)]
    assert [(row.seq.request.request_id, row.seq.sample) for row in plan.rows] == [(1, 0), (0, 1), (0, 2)]


def test_one_that_was_taken_out_can_wait_again_and_long_forgotten_ones_cost_nothing() -> None:
    queue = make_waiting_queue(PolicyKind.PRIORITY)
    urgent, seqs = _waiting(999, 0, -1), [_waiting(number) for number in range(500)]
    queue.push(urgent)
    for seq in seqs:
        queue.push(seq)
        queue.remove(seq)
    queue.push(seqs[3])
    assert in_queue(queue) == [999, 3]
    assert len(queue) == 2


# Batching -------------------------------------------------------------------------------------------------


def _who_is_in_each_step(batching: Batching) -> list[list[int]]:
    core = make_core(batching=batching)
    for number, length in enumerate((1, 4, 2, 2)):
        core.submit(Request(number, 0, 4, length))
    steps = []
    while core.has_unfinished:
        steps.append(members(step(core, now_ns=50)))
    return steps


def test_only_continuous_batching_fills_a_seat_as_soon_as_it_is_left() -> None:
    assert _who_is_in_each_step(Continuous()) == [[0, 1, 2, 3], [1, 2, 3], [1], [1]]
    assert _who_is_in_each_step(Static(2)) == [[0, 1], [1], [1], [1], [2, 3], [2, 3]]
    assert _who_is_in_each_step(Dynamic(2, 100)) == _who_is_in_each_step(Static(2))


def test_a_static_batch_takes_nobody_in_until_its_last_member_ends() -> None:
    core = make_core(batching=Static(2))
    for number, length in enumerate((2, 5, 2)):
        core.submit(Request(number, 0, 4, length))
    assert [members(step(core)) for _ in range(6)] == [[0, 1], [0, 1], [1], [1], [1], [2]]


def test_a_static_batch_starts_at_once_with_whoever_waits_and_latecomers_stay_out() -> None:
    core = make_core(batching=Static(3))
    core.submit(Request(0, 0, 4, 3))
    assert members(step(core)) == [0]
    core.submit(Request(1, 0, 4, 3))
    assert [members(step(core)) for _ in range(3)] == [[0], [0], [1]]


def test_a_member_that_does_not_fit_at_first_or_is_preempted_joins_its_batch_later() -> None:
    core = make_core(num_blocks=6, batching=Static(3))
    core.submit(Request(0, 0, 12, 6))
    core.submit(Request(1, 0, 8, 6))
    core.submit(Request(2, 0, 8, 2))
    core.submit(Request(3, 0, 1, 1))
    steps = []
    while core.has_unfinished:
        plan = step(core)
        steps.append((members(plan), preempted(plan)))
    assert steps[:2] == [([0, 1], []), ([0], [1])]
    last_of_batch = max(number for number, (who, _) in enumerate(steps) if {0, 1, 2} & {*who})
    assert all(3 not in who for who, _ in steps[: last_of_batch + 1])


def test_a_dynamic_batch_waits_until_it_is_full_or_its_oldest_has_waited_enough() -> None:
    core = make_core(batching=Dynamic(2, max_wait_ns=100))
    core.submit(Request(0, 50, 4, 2))
    assert core.begin_step(149) is None
    assert core.next_wake_ns == 150
    core.submit(Request(1, 60, 4, 2))
    assert members(step(core, now_ns=61)) == [0, 1]
    drain(core)
    core.submit(Request(2, 200, 4, 2))
    assert members(step(core, now_ns=300)) == [2]


def test_a_member_of_a_dynamic_batch_that_has_begun_does_not_wait_for_company_again() -> None:
    core = make_core(num_blocks=6, batching=Dynamic(2, max_wait_ns=100))
    core.submit(Request(0, 0, 16, 2))
    core.submit(Request(1, 0, 16, 2))
    assert [members(step(core, now_ns=1)) for _ in range(3)] == [[0], [0], [1]]


def test_somebody_more_urgent_opens_a_new_batch_where_nothing_runs() -> None:
    core = make_core(num_blocks=6, batching=Static(2), policy=PolicyKind.PRIORITY)
    core.submit(Request(0, 0, 16, 2, priority=1))
    core.submit(Request(1, 0, 16, 2, priority=1))
    step(core)
    core.submit(Request(2, 0, 4, 2, priority=0))
    assert [members(step(core)) for _ in range(2)] == [[0], [2, 1]]


def test_a_dynamic_batch_is_due_by_its_oldest_not_by_its_most_urgent() -> None:
    core = make_core(batching=Dynamic(3, max_wait_ns=100), policy=PolicyKind.PRIORITY)
    core.submit(Request(0, 10, 4, 2, priority=5))
    core.submit(Request(1, 90, 4, 2, priority=0))
    assert core.next_wake_ns == 110
    assert core.begin_step(109) is None
    assert members(step(core, now_ns=110)) == [1, 0]


def test_nothing_needs_to_be_woken_while_it_runs_or_if_it_does_not_wait_for_company() -> None:
    core = make_core(batching=Dynamic(1, max_wait_ns=100))
    assert core.next_wake_ns is None
    core.submit(Request(0, 0, 4, 9))
    step(core)
    core.submit(Request(1, 0, 4, 9))
    assert core.next_wake_ns is None
    for batching in (Continuous(), Static(2)):
        other = make_core(batching=batching)
        other.submit(Request(0, 0, 4, 9))
        assert other.next_wake_ns is None


def test_sizes_and_waits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="max_batch_size must be at least 1, not 0"):
        Static(0)
    for batching in ((0, 5), (2, -1)):
        with pytest.raises(ValueError, match=r"max_batch_size \(.*\) must be at least 1 and max_wait"):
            Dynamic(*batching)
