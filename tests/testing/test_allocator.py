"""Our allocator before the machine: it holds its claims, and every planted fault is found."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Sequence
from typing import Any

import pytest

from sim.testing import (
    LATER,
    AllocatorMachine,
    AllocStatus,
    BlockCopy,
    ClaimBrokenError,
    Grant,
    PagedAllocator,
)
from tests.testing import fault_table
from tests.testing.faults import FAULTS, Fault
from tests.testing.finding import MACHINES, Finding, find, notes_of_failure, search
from tests.testing.naive_allocator import NaiveMachine

NUM_EXAMPLES = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 250


@pytest.mark.parametrize("name", MACHINES)
def test_our_allocator_holds_its_claims(name: str) -> None:
    assert search(MACHINES[name], NUM_EXAMPLES) is None


@pytest.mark.plain
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_planted_fault_is_found(fault: Fault) -> None:
    assert find(fault) is not None


def test_there_are_at_least_25_different_faults() -> None:
    assert len({fault.what for fault in FAULTS}) == len(FAULTS) >= 25


@pytest.fixture(scope="module")
def pasted() -> dict[str, Any]:
    """What the page's blocks of Python leave behind when they are pasted, one after the other."""
    names: dict[str, Any] = {"__name__": "test_naive"}
    for block in re.findall(r"^```python\n(.*?)^```", _page(), re.MULTILINE | re.DOTALL):
        exec(block, names)
    return names


def test_the_story_on_the_page_breaks_the_allocator_on_the_page(pasted: dict[str, Any]) -> None:
    told = _story(_page())
    steps = [line for line in told.splitlines() if line.startswith("state")]
    with pytest.raises(ClaimBrokenError) as broken:
        exec("\n".join(steps), pasted)
    assert told.splitlines()[0] == f"ClaimBrokenError: {broken.value}"
    assert broken.value.claim == "no_two_sequences_write_one_slot"
    assert "\n".join(broken.value.__notes__) in told


def test_the_calls_on_the_page_give_the_tables_on_the_page(pasted: dict[str, Any]) -> None:
    calls = re.findall(r"^    (allocator.*?)(?:  # (.*))?$", _story(_page()), re.MULTILINE)
    names = {"make_allocator": pasted["NaiveMachine"]().make_allocator}
    for call, table in calls:
        exec(call, names)
        if table:
            seq_id = int(re.findall(r"\d+", call)[0])
            assert str(names["allocator"].table(seq_id)) == table
    assert len(calls) >= 3


def test_a_failure_tells_its_steps_and_nothing_between_them() -> None:
    """Checks that Hypothesis knows of would be told after each step."""
    steps = [line for line in notes_of_failure(NaiveMachine).splitlines() if line.startswith("state")]
    known = {"begin", "admit", "append", "fork", "end", "preempt", "resume", "teardown"}
    assert {line.partition(".")[2].partition("(")[0] for line in steps[1:]} <= known
    assert len(steps) <= 7


def test_an_exception_of_the_allocator_is_told_with_its_calls_too() -> None:
    class Raises(PagedAllocator):
        def fork(self, parent_id: int, child_id: int) -> None:
            raise KeyError(parent_id)

    class Machine(AllocatorMachine):
        def make_allocator(self, num_blocks: int, block_size: int, num_host_blocks: int) -> Raises:
            return Raises(num_blocks, block_size, num_host_blocks)

    machine = Machine()
    machine.begin(num_blocks=4, block_size=2, num_host_blocks=0)
    machine.admit(text="aaaa", num_shared=1, num_own=0)
    with pytest.raises(KeyError) as raised:
        machine.fork(pick=0)
    assert raised.value.__notes__[0].splitlines()[-2:] == [
        "    allocator.admit(1, ['a'])  # [0]",
        "    allocator.fork(1, 2)",
    ]


# Lookahead ----------------------------------------------------------------------------------------------


class LooksAhead(PagedAllocator):
    """Holds a slot more than there are tokens, so that the next step's block is there already."""

    def admit(self, seq_id: int, tokens: Sequence[Hashable]) -> Grant:
        grant = super().admit(seq_id, [*tokens, "ahead"])
        if grant.status is AllocStatus.OK:
            self._seqs[seq_id].num_known -= 1
            self._contents[seq_id].tokens.pop()
        return grant

    def append(self, seq_id: int, token: Hashable) -> Grant:
        seq = self._seqs[seq_id]
        num_known = seq.num_known
        is_shared = self._kv.pool.num_holders(seq.table[num_known // self.block_size]) > 1
        needs_more = num_known + 2 > len(seq.table) * self.block_size
        if is_shared + needs_more > self._kv.pool.num_free:
            return LATER
        copies = [self._own(seq.table, num_known // self.block_size)] if is_shared else []
        if needs_more:
            seq.table += self._kv.pool.take(1)[0]
        seq.num_known += 1
        self._contents[seq_id].tokens.append(token)
        return Grant(AllocStatus.OK, copies=tuple(copies))

    def _own(self, table: list[int], place: int) -> BlockCopy:
        shared = table[place]
        self._kv.pool.drop(shared)
        table[place] = self._kv.pool.take(1)[0][0]
        return BlockCopy(shared, table[place])


class Strict(AllocatorMachine):
    def make_allocator(self, num_blocks: int, block_size: int, num_host_blocks: int) -> LooksAhead:
        return LooksAhead(num_blocks, block_size, num_host_blocks)


class OneAhead(Strict):
    max_blocks_ahead = 1


class AnyAhead(Strict):
    max_blocks_ahead = None


def test_lookahead_breaks_the_claim_of_waste_unless_the_machine_allows_it() -> None:
    found = search(Strict, 250)
    assert found is not None
    assert found.claim == "waste_is_below_one_block_per_sequence"
    assert search(OneAhead, 250) is None
    assert search(AnyAhead, 250) is None


def test_lookahead_that_was_allowed_is_still_held_to_its_number() -> None:
    class TwoMore(LooksAhead):
        def admit(self, seq_id: int, tokens: Sequence[Hashable]) -> Grant:
            if self.num_free < 2 + -(-(len(tokens) + 1) // self.block_size):
                return LATER
            grant = super().admit(seq_id, tokens)
            self._seqs[seq_id].table += self._kv.pool.take(2)[0]
            return grant

    class Machine(OneAhead):
        def make_allocator(self, num_blocks: int, block_size: int, num_host_blocks: int) -> LooksAhead:
            return TwoMore(num_blocks, block_size, num_host_blocks)

    found = search(Machine, 250)
    assert found is not None
    assert found.claim == "waste_is_below_one_block_per_sequence"


# Refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refusal", "finds"),
    [
        (Grant(AllocStatus.LATER, copies=(BlockCopy(0, 1),)), True),
        (Grant(AllocStatus.LATER, num_cached_tokens=1), True),
        (LATER, False),
    ],
)
def test_a_refusal_asks_for_nothing(refusal: Grant, *, finds: bool) -> None:
    class Refuses(PagedAllocator):
        def append(self, seq_id: int, token: Hashable) -> Grant:
            return refusal

    class Machine(AllocatorMachine):
        def make_allocator(self, num_blocks: int, block_size: int, num_host_blocks: int) -> Refuses:
            return Refuses(num_blocks, block_size, num_host_blocks)

    found = search(Machine, 100)
    assert (found is not None) == finds
    assert found is None or found.claim == "a_refused_operation_changes_nothing"


def test_a_newcomer_that_is_refused_is_asked_for_again_under_its_number() -> None:
    class Once(PagedAllocator):
        def admit(self, seq_id: int, tokens: Sequence[Hashable]) -> Grant:
            assert seq_id not in self.__dict__.setdefault("asked", set()), "asked before"
            self.__dict__["asked"].add(seq_id)
            return super().admit(seq_id, tokens)

    class Machine(AllocatorMachine):
        def make_allocator(self, num_blocks: int, block_size: int, num_host_blocks: int) -> Once:
            return Once(num_blocks, block_size, num_host_blocks)

    found = search(Machine, 250)
    assert found is not None
    assert found.claim == "(AssertionError)"


def test_the_page_is_made_of_the_faults_and_the_code_that_are_there() -> None:
    page = fault_table.PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*?) \| (?:swap|prefix cache) \| (.*?) \| (\d*) \|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == [fault.what for fault in FAULTS]
    findings = [Finding(claim.replace(" ", "_"), int(count)) for _, claim, count in rows]
    assert fault_table.page(list(findings), _story(page)) == page


def _story(page: str) -> str:
    (story,) = re.findall(r"^```text\n(.*?)\n```", page, re.MULTILINE | re.DOTALL)
    return str(story)


def _page() -> str:
    return fault_table.PAGE.read_text(encoding="utf-8")
