"""KV memory behind an allocator of one's own: a `KVAllocator` does what V1's scheduler asks of its memory.

    scheduler                         allocator
    admit(seq, n tokens)        ->    admit(seq_id, n tokens)
    grow(seq, n tokens more)    ->    append(seq_id, token), as often as slots are lacking
    free(seq)                   ->    free(seq_id)

The scheduler's rules come first and are those of paged memory: the whole sequence or only this step's part,
the watermark, lookahead slots; they count full blocks. The allocator is asked for what passes them, and may
refuse it still, say because its free memory lies in pieces. Slots of rejected drafts stay with their
sequence, as paged blocks do. Nothing is found by content: no two tokens are alike, not even of one sequence
computed twice.

An answer that is none, or a refusal that waiting cannot mend, is an `AllocatorError` that says so; all other
manners of an allocator are for `sim.testing` to try. Refuses to know queues, budgets and time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

from sim.core.allocator import Grant, KVAllocator
from sim.core.compiling import mypyc_attr
from sim.core.kv_cache import NO_MOVES, Admission, AllocStatus, Moves, PrefixCacheStats
from sim.core.request import Sequence
from sim.core.step import BlockCopy, StepPlan


@mypyc_attr(native_class=False)
class AllocatorError(RuntimeError):
    """An allocator of one's own did what none may do."""


@mypyc_attr(native_class=False)
@dataclass(frozen=True, slots=True)
class OwnMemoryConfig:
    """Size of one replica's KV memory, and who gives it out.

    Attributes:
        make: Makes an allocator; from `num_blocks`, `block_size`, `num_host_blocks`.
        name: Of the allocator, for messages.
    """

    num_blocks: int
    block_size: int
    make: Callable[..., KVAllocator] = field(repr=False)
    name: str

    @property
    def enable_prefix_caching(self) -> bool:
        """Whether equal prefixes are shared: never."""
        return False

    def fraction_of_blocks(self, fraction: float) -> int:
        """`fraction` of the whole pool in blocks, rounded down; vLLM's null block counts, and is not here."""
        return int(fraction * (self.num_blocks + 1))

    def allocator(self) -> KVAllocator:
        """A new one.

        Raises:
            AllocatorError: It is not of these sizes, or not empty.
        """
        made = self.make(num_blocks=self.num_blocks, block_size=self.block_size, num_host_blocks=0)
        for name, wanted in (
            ("num_blocks", self.num_blocks),
            ("block_size", self.block_size),
            ("num_free", self.num_blocks),
        ):
            found = getattr(made, name, None)
            if found != wanted:
                raise AllocatorError(
                    f"{self.name} has {name} {found} when it is new, and should have {wanted}"
                )
        return made


@mypyc_attr(allow_interpreted_subclasses=True)
class AllocatedPool:
    """What there is to see of an allocator's device memory."""

    __slots__ = ("_allocator", "num_blocks", "num_extra_holders")

    def __init__(self, allocator: KVAllocator) -> None:
        self._allocator = allocator
        self.num_blocks = allocator.num_blocks
        self.num_extra_holders = 0
        """None: nothing is alike, so nothing is shared."""

    @property
    def num_free(self) -> int:
        """Blocks that can be handed out."""
        return self._allocator.num_free

    @property
    def num_used(self) -> int:
        """All others."""
        return self.num_blocks - self._allocator.num_free

    def is_free(self, block: int) -> bool:
        """Never asked for: nothing here is found by content."""
        return False


@mypyc_attr(allow_interpreted_subclasses=True)
class OwnKVManager:
    """KV memory of one replica behind an allocator; does for the V1 scheduler what `KVCacheManager` does."""

    __slots__ = (
        "_allocator",
        "_copies",
        "_first",
        "_got_no_further",
        "_held",
        "_max_model_len",
        "_num_lookahead_slots",
        "_num_tokens",
        "block_size",
        "caches_prefixes",
        "config",
        "num_blocks_allocated",
        "num_cached_blocks",
        "num_promised_slots",
        "offloads",
        "pool",
        "stats",
    )

    def __init__(self, config: OwnMemoryConfig, *, max_model_len: int, num_lookahead_slots: int = 0) -> None:
        self.config = config
        self._allocator = config.allocator()
        self.pool = AllocatedPool(self._allocator)
        self.block_size = config.block_size
        self.stats = PrefixCacheStats()
        self.num_blocks_allocated = self.num_cached_blocks = self.num_promised_slots = 0
        self.caches_prefixes = self.offloads = False
        self._max_model_len = max_model_len
        self._num_lookahead_slots = num_lookahead_slots
        self._held: dict[Sequence, int] = {}
        """Slots that the allocator gave each sequence."""
        self._num_tokens = 0
        """Tokens named so far."""
        self._first: Sequence | None = None
        """Who was the last to get into empty memory."""
        self._got_no_further: tuple[Sequence, int] | None = None
        """Who stood there alone, and was refused so many slots."""
        self._copies: list[BlockCopy] = []
        """That the step being planned needs."""

    def can_ever_hold(self, seqs: list[Sequence], num_more_tokens: int) -> bool:
        """Whether each of these sequences, with so many more tokens, could be held if it were alone."""
        longest = max(seq.max_known for seq in seqs) - 1 + num_more_tokens
        return self._num_blocks(self._num_slots(longest)) <= self.pool.num_blocks

    def find_hit(self, seq: Sequence) -> list[int]:
        """Nothing: nothing is shared."""
        return []

    def find_host_hit(self, seq: Sequence, num_hit_blocks: int) -> tuple[Hashable, ...]:
        """Nothing: nothing is shared."""
        return ()

    def take_moves(self) -> Moves:
        """None: there is no host memory."""
        return NO_MOVES

    @property
    def num_free_unmoved(self) -> int:
        """Free blocks."""
        return self.pool.num_free

    def admit(self, seq: Sequence, hit: list[int], admission: Admission) -> AllocStatus:
        """Ask for a waiting sequence's slots of this step; nothing is touched when the answer is LATER."""
        num_slots = most = self._num_slots(admission.num_tokens)
        if admission.whole_sequence:
            most = max(num_slots, min(seq.num_known, self._max_model_len))
        if self._num_blocks(most) + admission.watermark_blocks > self.pool.num_free:
            return self._refused(seq, most)
        grant = self._allocator.admit(seq.seq_id, [self._token() for _ in range(num_slots)])
        if not self._is_granted(grant):
            return self._refused(seq, num_slots)
        if not self._held:
            self._first = seq
        self._held[seq] = num_slots
        self._read_table(seq)
        return AllocStatus.OK

    def grow(self, seq: Sequence, num_tokens: int) -> AllocStatus:
        """Ask for what `num_tokens` tokens more need.

        On LATER a sequence keeps the slots that it got before it was refused one; it is asked for again when
        another has been preempted, or freed.
        """
        wanted, held = self._num_slots(seq.num_computed + num_tokens), self._held[seq]
        if held >= wanted:
            return AllocStatus.OK
        num_lacking = self._num_blocks(wanted) - len(seq.table)
        if num_lacking > 0 and num_lacking > self.pool.num_free:
            return self._refused(seq, wanted)
        while held < wanted:
            grant = self._allocator.append(seq.seq_id, self._token())
            if not self._is_granted(grant):
                self._read_table(seq)
                return self._refused(seq, wanted)
            self._held[seq] = held = held + 1
            if grant.copies:
                seq.table = self._read_whole_table(seq)
        self._read_table(seq)
        return AllocStatus.OK

    def take_one_each(self, tables: Iterable[list[int]], count: int) -> None:
        """Nobody decodes unseen: each sequence grows by itself."""
        raise AssertionError("an allocator is asked for each sequence by itself")

    def register_computed(self, seq: Sequence, num_tokens: int) -> None:
        """Nothing is findable."""

    def free(self, seq: Sequence) -> None:
        """Give all of a sequence's blocks back.

        Raises:
            ValueError: It holds none: freed twice, or never admitted.
        """
        if self._held.pop(seq, None) is None:
            raise ValueError(f"{seq!r} holds no block to free")
        self._allocator.free(seq.seq_id)
        seq.table = []

    def free_head(self, count: int) -> list[int]:
        """No order of free blocks is promised."""
        return []

    def with_copies(self, plan: StepPlan) -> StepPlan:
        """A plan, with the copies that the allocator asked for while it was made."""
        copies, self._copies = tuple(self._copies), []
        return plan._replace(blocks_to_copy=copies) if copies else plan

    def state(self, holders: Iterable[Sequence]) -> Hashable:
        """How much is held and free: which ids the blocks have does not count, here as in paged memory."""
        return self.pool.num_free, tuple(len(seq.table) for seq in holders)

    def check_invariants(self, holders: Iterable[Sequence]) -> None:
        """Recount everything from the tables of `holders`, which must be all live sequences."""
        held = {}
        blocks: set[int] = set()
        for seq in holders:
            held[seq] = self._held[seq]
            assert seq.table == list(self._allocator.table(seq.seq_id)), f"{seq!r} has another table by now"
            assert blocks.isdisjoint(seq.table), f"a block of {seq!r} is another's too"
            blocks.update(seq.table)
        assert held == self._held, "blocks are held for a sequence that does not run"
        assert len(blocks) == self.pool.num_used, (
            f"{self.config.name} gave out {len(blocks)} blocks, and {self.pool.num_used} are not free"
        )

    # Inside ---------------------------------------------------------------------------------------

    def _num_slots(self, num_tokens: int) -> int:
        """Slots of so many tokens, with those ahead of them."""
        return min(num_tokens + self._num_lookahead_slots, self._max_model_len)

    def _num_blocks(self, num_slots: int) -> int:
        return -(-num_slots // self.block_size)

    def _token(self) -> int:
        """A token that is like no other."""
        self._num_tokens += 1
        return self._num_tokens

    def _is_granted(self, grant: Grant) -> bool:
        status = getattr(grant, "status", None)
        if status is AllocStatus.LATER:
            return False
        if status is not AllocStatus.OK:
            raise AllocatorError(f"{self.config.name} answers {grant!r}, which is no Grant")
        if grant.num_cached_tokens or grant.to_host or grant.from_host:
            raise AllocatorError(
                f"{self.config.name} found what was never stored, or uses a host that has no blocks: {grant}"
            )
        self._copies += grant.copies
        return True

    def _read_table(self, seq: Sequence) -> None:
        """Take over what has been added to a sequence's table; what is there moves by copies only."""
        table, num_before = self._allocator.table(seq.seq_id), len(seq.table)
        num_blocks = len(table)
        if num_blocks * self.block_size < self._held[seq]:
            raise AllocatorError(
                f"{self.config.name} gave sequence {seq.seq_id} {num_blocks} blocks of {self.block_size} for "
                f"{self._held[seq]} tokens"
            )
        if num_blocks > num_before:
            seq.table += table[num_before:]
            self.num_blocks_allocated += num_blocks - num_before

    def _read_whole_table(self, seq: Sequence) -> list[int]:
        """A sequence's table after some of it was copied elsewhere."""
        table = list(self._allocator.table(seq.seq_id))
        self.num_blocks_allocated += len(set(table).difference(seq.table))
        return table

    def _refused(self, seq: Sequence, num_slots: int) -> AllocStatus:
        """LATER, unless later will be no better.

        So it is for a newcomer in empty memory. A sequence that is alone and cannot grow may stand in a bad
        place: it is preempted, and begins anew where memory is empty. If it gets no further, it never will.
        """
        is_hopeless = not self._held
        if self._first is seq and self._held.keys() == {seq}:
            is_hopeless = self._got_no_further == (seq, num_slots)
            self._got_no_further = (seq, num_slots)
        if is_hopeless:
            raise AllocatorError(
                f"{self.config.name} refuses sequence {seq.seq_id} room for {num_slots} tokens, though no "
                f"other holds any: {self.pool.num_free} of {self.pool.num_blocks} blocks of "
                f"{self.block_size} are free"
            )
        return AllocStatus.LATER
