"""`AllocatorMachine`: a Hypothesis state machine that uses an allocator as an engine would, to break it.

    class MyMachine(AllocatorMachine):
        def make_allocator(self, num_blocks, block_size, num_host_blocks):
            return MyAllocator(num_blocks, block_size, num_host_blocks)

    TestMyAllocator = MyMachine.TestCase

Its operations are those of the interface; after each, claims are checked, each named as what it says. Pools
are tiny (4 to 16 blocks of 1 to 4 slots), so that a failure shrinks to a story. The strongest claim is the
read-back: in a fake memory every slot holds a history, and after any mix of operations each sequence reads
its own.

A broken claim raises `ClaimBrokenError`, which names it. An exception of the allocator is a failure too. Both
carry the calls that the allocator had, as one would write them (`diary.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from sim.core.allocator import Grant, KVAllocator
from sim.core.kv_cache import AllocStatus
from sim.testing.claims import answer, claim, claims_of, holds, operation
from sim.testing.diary import Diary
from sim.testing.memory import FakeMemory

TEXTS = ("aaaaaaaaaaaaaaaaaaaa", "aaaabbbbccccddddeeee", "xyxyxyxyxyxyxyxyxyxy")
"""Prompts begin like one of these, so that prefixes are shared."""
PICK = st.integers(0, 2**16)


class AllocatorMachine(RuleBasedStateMachine):
    """Operations of an engine on one allocator; override `make_allocator`."""

    max_blocks_ahead: ClassVar[int | None] = 0
    """Blocks that a sequence may hold beyond what its tokens need: lookahead. None: any number, no claim."""
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
        self.diary = Diary()
        self._next_id = 0
        self._next_token = 0

    @operation(
        initialize,
        num_blocks=st.integers(4, 16),
        block_size=st.integers(1, 4),
        num_host_blocks=st.sampled_from([0, 4, 16]),
    )
    def begin(self, num_blocks: int, block_size: int, num_host_blocks: int) -> None:
        """Make the allocator and a memory to match."""
        sizes = {"num_blocks": num_blocks, "block_size": block_size, "num_host_blocks": num_host_blocks}
        self.diary.begin(sizes)
        self.allocator = self.make_allocator(**sizes)
        num_host = max(self.allocator.num_host_blocks, getattr(self.allocator, "num_offload_blocks", 0))
        self.memory = FakeMemory(num_blocks, num_host, block_size)

    # Operations -----------------------------------------------------------------------------------

    @operation(rule, text=st.sampled_from(TEXTS), num_shared=st.integers(0, 12), num_own=st.integers(0, 6))
    def admit(self, text: str, num_shared: int, num_own: int) -> None:
        """A newcomer, whose prompt begins like others."""
        own = [self._token() for _ in range(num_own)]
        self._admit([*text[:num_shared], *own] or [self._token()])

    @operation(
        rule, when=lambda self: self.histories, pick=PICK, count=st.integers(1, 5), insists=st.booleans()
    )
    def append(self, pick: int, count: int, *, insists: bool = False) -> None:
        """A sequence decodes some tokens; if it insists, a refusal costs the newest its place."""
        seq_id = self._pick(self.histories, pick)
        for _ in range(count):
            token = self._token()
            while not self._append(seq_id, token):
                victim = list(self.histories)[-1]
                if not insists:
                    return
                self._preempt(victim)
                if victim == seq_id:
                    return

    @operation(rule, when=lambda self: self.histories, pick=PICK)
    def fork(self, pick: int) -> None:
        """Another sequence goes on from where one is."""
        parent, child = self._pick(self.histories, pick), self._new_id()
        num_free = self._allocator.num_free
        self._count("fork", parent, child)
        self._allocator.fork(parent, child)
        holds("a_fork_takes_no_block", self._allocator.num_free == num_free, f"{num_free} were free before")
        self.histories[child] = self.histories[parent][:]
        self.family[child] = self.family[parent]

    @operation(rule, when=lambda self: self.histories, pick=PICK)
    def end(self, pick: int) -> None:
        """A sequence ends, or is aborted."""
        seq_id = self._pick(self.histories, pick)
        self._free(seq_id)
        del self.histories[seq_id]

    @operation(rule, when=lambda self: self.histories, pick=PICK)
    def preempt(self, pick: int) -> None:
        """A sequence loses its blocks; all of it will be computed again."""
        self._preempt(self._pick(self.histories, pick))

    @operation(rule, when=lambda self: self.waiting)
    def resume(self) -> None:
        """A preempted sequence comes back."""
        if self._admit(self.waiting[-1]):
            self.waiting.pop()

    @precondition(lambda self: self._has_host)
    @operation(rule, when=lambda self: self.histories, pick=PICK)
    def swap_out(self, pick: int) -> None:
        """All sequences that share blocks with one go to the host."""
        group = self._group(self._pick(self.histories, pick), self.histories)
        num_distinct, num_filled = self._num_distinct(group), self._num_filled(group, self.histories)
        grant = self._ask("swap_out", group)
        if grant.status is AllocStatus.OK:
            self._has_moved(group, len(grant.to_host), num_distinct, num_filled)
            self.swapped.update({seq_id: self.histories.pop(seq_id) for seq_id in group})

    @precondition(lambda self: self._has_host)
    @operation(rule, when=lambda self: self.swapped, pick=PICK)
    def swap_in(self, pick: int) -> None:
        """They come back."""
        group = self._group(self._pick(self.swapped, pick), self.swapped)
        num_distinct, num_filled = self._num_distinct(group), self._num_filled(group, self.swapped)
        grant = self._ask("swap_in", group)
        if grant.status is AllocStatus.OK:
            self._has_moved(group, len(grant.from_host), num_distinct, num_filled)
            self.histories.update({seq_id: self.swapped.pop(seq_id) for seq_id in group})

    @precondition(lambda self: self._has_host)
    @operation(rule, when=lambda self: self.swapped, pick=PICK)
    def end_swapped(self, pick: int) -> None:
        """A sequence ends while it is swapped."""
        seq_id = self._pick(self.swapped, pick)
        self._free(seq_id)
        del self.swapped[seq_id]

    # Claims ---------------------------------------------------------------------------------------

    def check_claims(self) -> None:
        """Look at every claim; after each operation."""
        __tracebackhide__ = True
        for name in claims_of(type(self)):
            getattr(self, name)()

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
        """A table is just as long as its tokens need, or by `max_blocks_ahead` longer."""
        for seq_id, history in {**self.histories, **self.swapped}.items():
            num_held, num_needed = len(self._allocator.table(seq_id)), self._num_needed(len(history))
            most = None if self.max_blocks_ahead is None else num_needed + self.max_blocks_ahead
            ahead = f" (max_blocks_ahead is {self.max_blocks_ahead})" if self.max_blocks_ahead else ""
            holds(
                "waste_is_below_one_block_per_sequence",
                num_needed <= num_held and (most is None or num_held <= most),
                f"sequence {seq_id} holds {num_held} blocks for {len(history)} tokens{ahead}",
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
        type(self).num_operations_of_last_run = self.num_operations
        if self.allocator is None or self.diary.is_over:
            return
        try:
            self._end_all(self.allocator)
        except BaseException as error:
            self.diary.end(error)
            raise

    def _end_all(self, allocator: KVAllocator) -> None:
        for seq_id in (*self.histories, *self.swapped):
            self.diary.note("free", seq_id)
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

    def _count(self, name: str, *arguments: object) -> None:
        self.num_operations += 1
        self.diary.note(name, *arguments)

    def _ask(self, name: str, *arguments: object) -> Grant:
        """Carry an operation out that may be refused, with its copies."""
        newcomer = arguments[0] if name == "admit" else None
        before = self.read_back(newcomer)
        self._count(name, *(list(each) if isinstance(each, list) else each for each in arguments))
        grant: Grant = getattr(self._allocator, name)(*arguments)
        if grant.status is not AllocStatus.OK:
            self.diary.note_answer(grant.status.name)
            self._has_changed_nothing(before, self.read_back(newcomer), grant)
            return grant
        for moves in (grant.to_host, grant.from_host, grant.copies):
            targets = [move.dst for move in moves]
            holds(
                "a_block_is_copied_to_once",
                len(set(targets)) == len(targets),
                f"copies of one step go to {targets}, and may be made in any order",
            )
        self.memory.carry_out(grant)
        return grant

    def read_back(self, newcomer: object = None) -> dict[str, object]:
        """All that an allocator says of itself, by name; of a newcomer too, who should have no table yet.

        Extend it where an allocator says more.
        """
        allocator = self._allocator
        said: dict[str, object] = {
            "num_free": allocator.num_free,
            "num_free_host": allocator.num_free_host,
        }
        known = [*self.histories, *self.swapped]
        for seq_id in known if newcomer is None else [*known, newcomer]:
            table = answer(allocator.table, seq_id)
            said[f"table({seq_id})"] = table if isinstance(table, str) else list(table)  # type: ignore[call-overload]
        for block in range(allocator.num_blocks):
            said[f"num_references({block})"] = answer(allocator.num_references, block)
        return said

    def _has_changed_nothing(self, before: dict[str, object], after: dict[str, object], grant: Grant) -> None:
        changed = [
            f"{name} was {before[name]} and is {after[name]}"
            for name in before
            if before[name] != after[name]
        ]
        holds("a_refused_operation_changes_nothing", not changed, "; ".join(changed))
        holds(
            "a_refused_operation_changes_nothing",
            not (grant.num_cached_tokens or grant.to_host or grant.from_host or grant.copies),
            f"it asks for copies or names what was found: {grant}",
        )

    def _admit(self, history: list[Hashable]) -> bool:
        seq_id = self._new_id()
        grant = self._ask("admit", seq_id, list(history))
        if grant.status is not AllocStatus.OK:
            self._next_id -= 1  # it will be asked for again, as an engine does
            return False
        self._note_table(seq_id)
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
        grant = self._ask("append", seq_id, token)
        if grant.status is not AllocStatus.OK:
            return False
        self._note_table(seq_id)
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
        for block in table[start // size : self._num_needed(len(history))]:
            num_holders = sum(list(self._allocator.table(other)).count(block) for other in self.histories)
            holds(
                "no_two_sequences_write_one_slot",
                num_holders == 1,
                f"sequence {seq_id} writes into block {block}, which {num_holders} hold",
            )
        self.memory.write(table, history, start)

    def _free(self, seq_id: int) -> None:
        self._count("free", seq_id)
        self._allocator.free(seq_id)

    def _preempt(self, seq_id: int) -> None:
        self._free(seq_id)
        self.waiting.append(self.histories.pop(seq_id))

    def _has_moved(self, group: list[int], num_moves: int, num_distinct: int, num_filled: int) -> None:
        now = self._num_distinct(group)
        holds("swap_keeps_sharing", now == num_distinct, f"{num_distinct} distinct blocks became {now}")
        holds(
            "swap_moves_each_block_once",
            num_filled <= num_moves <= num_distinct,
            f"{num_moves} moves of {num_distinct}",
        )

    def _note_table(self, seq_id: int) -> None:
        self.diary.note_answer(list(self._allocator.table(seq_id)))

    def _num_needed(self, num_tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-num_tokens // self._allocator.block_size)

    def _num_filled(self, group: list[int], histories: dict[int, list[Hashable]]) -> int:
        """Blocks that hold a token of any of these sequences; others are ahead of them."""
        return len(
            {
                block
                for seq_id in group
                for block in self._allocator.table(seq_id)[: self._num_needed(len(histories[seq_id]))]
            }
        )

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
