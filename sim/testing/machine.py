"""`AllocatorMachine`: a Hypothesis state machine that uses an allocator as an engine would, to break it.

    class MyMachine(AllocatorMachine):
        def make_allocator(self, num_blocks, block_size, num_host_blocks):
            return MyAllocator(num_blocks, block_size, num_host_blocks)

    TestMyAllocator = MyMachine.TestCase

Its rules are the public operations; its invariants are claims, each named as what it says. Pools are tiny
(4 to 16 blocks of 1 to 4 slots), so that a failure shrinks to a story. The strongest claim is the read-back:
in a fake memory every slot holds a history, and after any mix of operations each sequence reads its own.

A broken claim raises `ClaimBrokenError`, which names it. An exception of the allocator is a failure too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sim.core.allocator import Grant, KVAllocator
from sim.core.kv_cache import AllocStatus
from sim.testing.memory import FakeMemory

TEXTS = ("aaaaaaaaaaaaaaaaaaaa", "aaaabbbbccccddddeeee", "xyxyxyxyxyxyxyxyxyxy")
"""Prompts begin like one of these, so that prefixes are shared."""
PICK = st.integers(0, 2**16)


class ClaimBrokenError(AssertionError):
    """An allocator broke a claim."""

    def __init__(self, claim: str, message: str) -> None:
        super().__init__(f"{claim}: {message}")
        self.claim = claim


def holds(claim: str, truth: bool, message: str) -> None:
    """Raise `ClaimBrokenError` unless the claim holds."""
    if not truth:
        raise ClaimBrokenError(claim, message)


def claim(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """Make a check an invariant, asked once there is an allocator."""

    def checked(self: AllocatorMachine) -> None:
        self._is_in_operation = False
        if self.allocator is None:
            return
        try:
            check(self)
        except BaseException:
            self._has_failed = True
            raise

    checked.__name__ = check.__name__
    checked.__doc__ = check.__doc__
    decorated: Callable[[Any], None] = invariant()(checked)
    return decorated


class AllocatorMachine(RuleBasedStateMachine):
    """Operations of an engine on one allocator; override `make_allocator`."""

    num_operations_of_last_run: ClassVar[int] = 0
    """Operations of the run that was carried out last: after a failure, the smallest one found."""

    def make_allocator(self, num_blocks: int, block_size: int, num_host_blocks: int) -> KVAllocator:
        """The allocator to be tested, with pools of these sizes."""
        raise NotImplementedError("override make_allocator")

    def __init__(self) -> None:
        super().__init__()
        self.allocator: KVAllocator | None = None
        self.memory = FakeMemory(0, 0, 1)
        self.histories: dict[int, list[Hashable]] = {}
        """Of sequences on the device."""
        self.swapped: dict[int, list[Hashable]] = {}
        self.waiting: list[list[Hashable]] = []
        """Histories of sequences that were preempted, to be computed again."""
        self.family: dict[int, int] = {}
        """Sequences that may share blocks by forks have one number."""
        self.num_operations = 0
        self._next_id = 0
        self._next_token = 0
        self._has_failed = False
        self._is_in_operation = False
        """From the start of an operation until the first check after it."""

    @initialize(
        num_blocks=st.integers(4, 16),
        block_size=st.integers(1, 4),
        num_host_blocks=st.sampled_from([0, 4, 16]),
    )
    def begin(self, num_blocks: int, block_size: int, num_host_blocks: int) -> None:
        """Make the allocator and a memory to match."""
        self.allocator = self.make_allocator(num_blocks, block_size, num_host_blocks)
        num_host = max(self.allocator.num_host_blocks, getattr(self.allocator, "num_offload_blocks", 0))
        self.memory = FakeMemory(num_blocks, num_host, block_size)

    # Operations -----------------------------------------------------------------------------------

    @rule(text=st.sampled_from(TEXTS), num_shared=st.integers(0, 12), num_own=st.integers(0, 6))
    def admit(self, text: str, num_shared: int, num_own: int) -> None:
        """A newcomer, whose prompt begins like others."""
        own = [self._token() for _ in range(num_own)]
        self._admit([*text[:num_shared], *own] or [self._token()])

    @precondition(lambda self: self.histories)
    @rule(pick=PICK, count=st.integers(1, 5))
    def append(self, pick: int, count: int) -> None:
        """A sequence decodes some tokens."""
        seq_id = self._pick(self.histories, pick)
        for _ in range(count):
            if not self._append(seq_id, self._token()):
                return

    @precondition(lambda self: self.histories)
    @rule(pick=PICK)
    def fork(self, pick: int) -> None:
        """Another sequence goes on from where one is."""
        parent, child = self._pick(self.histories, pick), self._new_id()
        num_free = self._allocator.num_free
        self._count()
        self._allocator.fork(parent, child)
        holds("a_fork_takes_no_block", self._allocator.num_free == num_free, f"{num_free} were free before")
        self.histories[child] = self.histories[parent][:]
        self.family[child] = self.family[parent]

    @precondition(lambda self: self.histories)
    @rule(pick=PICK)
    def end(self, pick: int) -> None:
        """A sequence ends, or is aborted."""
        seq_id = self._pick(self.histories, pick)
        self._free(seq_id)
        del self.histories[seq_id]

    @precondition(lambda self: self.histories)
    @rule(pick=PICK)
    def preempt(self, pick: int) -> None:
        """A sequence loses its blocks; all of it will be computed again."""
        seq_id = self._pick(self.histories, pick)
        self._free(seq_id)
        self.waiting.append(self.histories.pop(seq_id))

    @precondition(lambda self: self.waiting)
    @rule()
    def resume(self) -> None:
        """A preempted sequence comes back."""
        if self._admit(self.waiting[-1]):
            self.waiting.pop()

    @precondition(lambda self: self.histories and self._has_host)
    @rule(pick=PICK)
    def swap_out(self, pick: int) -> None:
        """All sequences that share blocks with one go to the host."""
        group = self._group(self._pick(self.histories, pick), self.histories)
        num_distinct = self._num_distinct(group)
        grant = self._ask(lambda: self._allocator.swap_out(group))
        if grant.status is AllocStatus.OK:
            self._has_moved(group, len(grant.to_host), num_distinct)
            self.swapped.update({seq_id: self.histories.pop(seq_id) for seq_id in group})

    @precondition(lambda self: self.swapped)
    @rule(pick=PICK)
    def swap_in(self, pick: int) -> None:
        """They come back."""
        group = self._group(self._pick(self.swapped, pick), self.swapped)
        num_distinct = self._num_distinct(group)
        grant = self._ask(lambda: self._allocator.swap_in(group))
        if grant.status is AllocStatus.OK:
            self._has_moved(group, len(grant.from_host), num_distinct)
            self.histories.update({seq_id: self.swapped.pop(seq_id) for seq_id in group})

    @precondition(lambda self: self.swapped)
    @rule(pick=PICK)
    def end_swapped(self, pick: int) -> None:
        """A sequence ends while it is swapped."""
        seq_id = self._pick(self.swapped, pick)
        self._free(seq_id)
        del self.swapped[seq_id]

    # Claims ---------------------------------------------------------------------------------------

    @claim
    def every_block_is_free_or_referenced(self) -> None:
        """No block is lost, and none is both."""
        num_held = self._num_distinct(list(self.histories))
        num_free, num_blocks = self._allocator.num_free, self._allocator.num_blocks
        holds(
            "every_block_is_free_or_referenced",
            num_held + num_free == num_blocks,
            f"{num_held} held and {num_free} free of {num_blocks}",
        )

    @claim
    def reference_counts_equal_table_entries(self) -> None:
        """A block has as many references as tables it is in."""
        entries = Counter(block for seq_id in self.histories for block in self._allocator.table(seq_id))
        for block, count in entries.items():
            found = self._allocator.num_references(block)
            holds(
                "reference_counts_equal_table_entries",
                found == count,
                f"block {block} is in {count} tables and has {found} references",
            )

    @claim
    def waste_is_below_one_block_per_sequence(self) -> None:
        """A table is just as long as its tokens need."""
        size = self._allocator.block_size
        for seq_id, history in {**self.histories, **self.swapped}.items():
            num_held, num_needed = len(self._allocator.table(seq_id)), -(-len(history) // size)
            holds(
                "waste_is_below_one_block_per_sequence",
                num_held == num_needed,
                f"sequence {seq_id} holds {num_held} blocks for {len(history)} tokens",
            )

    @claim
    def each_sequence_reads_back_its_own_history(self) -> None:
        """After whatever was done, every token is where the table says."""
        for seq_id, history in self.histories.items():
            place = self.memory.first_mismatch(self._allocator.table(seq_id), history)
            holds(
                "each_sequence_reads_back_its_own_history",
                place is None,
                f"token {place} of sequence {seq_id} is not in the slot that its table names",
            )

    @claim
    def host_pool_adds_up(self) -> None:
        """Host blocks are free, or hold swapped sequences."""
        num_held = self._num_distinct(list(self.swapped))
        num_free, num_blocks = self._allocator.num_free_host, self._allocator.num_host_blocks
        holds(
            "host_pool_adds_up",
            num_held + num_free == num_blocks,
            f"{num_held} held and {num_free} free of {num_blocks}",
        )

    def teardown(self) -> None:
        """Nothing is held after all have ended."""
        allocator = self.allocator
        type(self).num_operations_of_last_run = self.num_operations
        if allocator is None or self._has_failed or self._is_in_operation:
            return
        for seq_id in (*self.histories, *self.swapped):
            allocator.free(seq_id)
        holds(
            "nothing_is_held_after_all_have_ended",
            (allocator.num_free, allocator.num_free_host)
            == (allocator.num_blocks, allocator.num_host_blocks),
            f"{allocator.num_free} of {allocator.num_blocks} blocks are free",
        )

    # Inside ---------------------------------------------------------------------------------------

    @property
    def _allocator(self) -> KVAllocator:
        assert self.allocator is not None, "it is made first"
        return self.allocator

    @property
    def _has_host(self) -> bool:
        return self.allocator is not None and self.allocator.num_host_blocks > 0

    def _count(self) -> None:
        self.num_operations += 1
        self._is_in_operation = True

    def _ask(self, operation: Callable[[], Grant]) -> Grant:
        """Carry an operation out, with its copies; refused, it must not have touched anything."""
        self._count()
        allocator = self._allocator
        before = (allocator.num_free, allocator.num_free_host)
        grant = operation()
        if grant.status is not AllocStatus.OK:
            after = (allocator.num_free, allocator.num_free_host)
            holds("a_refusal_touches_nothing", before == after, f"free before {before}, after {after}")
        for moves in (grant.to_host, grant.from_host, grant.copies):
            targets = [move.dst for move in moves]
            holds(
                "a_block_is_copied_to_once",
                len(set(targets)) == len(targets),
                f"copies of one step go to {targets}, and may be made in any order",
            )
        self.memory.carry_out(grant)
        return grant

    def _admit(self, history: list[Hashable]) -> bool:
        seq_id = self._new_id()
        grant = self._ask(lambda: self._allocator.admit(seq_id, history))
        if grant.status is not AllocStatus.OK:
            return False
        holds(
            "the_last_token_is_always_computed",
            grant.num_cached_tokens < len(history),
            f"{grant.num_cached_tokens} of {len(history)} tokens were found",
        )
        self.histories[seq_id] = list(history)
        self.family[seq_id] = seq_id
        self._write(seq_id, grant.num_cached_tokens)
        return True

    def _append(self, seq_id: int, token: Hashable) -> bool:
        grant = self._ask(lambda: self._allocator.append(seq_id, token))
        if grant.status is not AllocStatus.OK:
            return False
        history = self.histories[seq_id]
        history.append(token)
        self._write(seq_id, len(history) - 1)
        return True

    def _write(self, seq_id: int, start: int) -> None:
        """Store a sequence's tokens from `start` on; nobody else may hold a block that is written."""
        table, history = self._allocator.table(seq_id), self.histories[seq_id]
        size = self._allocator.block_size
        holds(
            "waste_is_below_one_block_per_sequence",
            len(table) * size >= len(history),
            f"sequence {seq_id} has {len(history)} tokens and {len(table)} blocks",
        )
        for block in table[start // size :]:
            num_holders = sum(list(self._allocator.table(other)).count(block) for other in self.histories)
            holds(
                "no_two_sequences_write_one_slot",
                num_holders == 1,
                f"sequence {seq_id} writes into block {block}, which {num_holders} hold",
            )
        self.memory.write(table, history, start)

    def _free(self, seq_id: int) -> None:
        self._count()
        self._allocator.free(seq_id)

    def _has_moved(self, group: list[int], num_moves: int, num_distinct: int) -> None:
        now = self._num_distinct(group)
        holds("swap_keeps_sharing", now == num_distinct, f"{num_distinct} distinct blocks became {now}")
        holds("swap_moves_each_block_once", num_moves == num_distinct, f"{num_moves} moves of {num_distinct}")

    def _num_distinct(self, group: list[int]) -> int:
        return len({block for seq_id in group for block in self._allocator.table(seq_id)})

    def _group(self, seq_id: int, among: dict[int, list[Hashable]]) -> list[int]:
        return [other for other in among if self.family[other] == self.family[seq_id]]

    @staticmethod
    def _pick(among: dict[int, list[Hashable]], pick: int) -> int:
        return list(among)[pick % len(among)]

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _token(self) -> int:
        """A token that no one else has."""
        self._next_token += 1
        return self._next_token
