"""Contiguous KV memory: each sequence gets, before it begins, one stretch of slots as long as it may become.

What engines did before paging, and the baselines of the PagedAttention paper (section 6.1, Orca):

    max      the longest sequence the model allows          the engine does not know how long it will get
    pow2     prompt + output rounded up to a power of two   it guesses within a factor of two
    oracle   prompt + output as it will be                  it knows the future

Stretches come from a buddy allocator, which cuts memory into powers of two. Every slot is at any time one of

    |< tokens stored >|< reserved >|<   internal    >|<          external           >|
    | of a sequence   | for tokens | no token will   | rounded up by the allocator,  |
    |                 | to come    | ever come here  | or free                       |

With the longest sequence as its `block_size`, a reservation is one block that never runs out; so the
scheduler, the steady batch and the horizon need not know that memory is not paged. Nothing is shared and
nobody is ever preempted. Refuses to know queues, budgets and time.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from enum import Enum

from sim.core.buddy import BuddyPool
from sim.core.compiling import mypyc_attr
from sim.core.kv_cache import NO_MOVES, Admission, AllocStatus, Moves, PrefixCacheStats
from sim.core.request import Sequence


class Reservation(Enum):
    """How much a sequence gets before it begins."""

    MAX = "max"
    POW2 = "pow2"
    ORACLE = "oracle"


@mypyc_attr(native_class=False)
@dataclass(frozen=True, slots=True)
class ContiguousConfig:
    """Size and rule of one replica's contiguous KV memory.

    Attributes:
        num_slots: Slots there are; one holds one token's keys and values.
    """

    num_slots: int
    reservation: Reservation = Reservation.MAX

    def __post_init__(self) -> None:
        if self.num_slots < 1:
            raise ValueError(f"num_slots must be at least 1, not {self.num_slots}")

    @property
    def num_blocks(self) -> int:
        """Units that are counted: slots."""
        return self.num_slots

    @property
    def block_size(self) -> int:
        """Slots of a unit."""
        return 1

    @property
    def enable_prefix_caching(self) -> bool:
        """Whether equal prefixes are shared: never."""
        return False

    def fraction_of_blocks(self, fraction: float) -> int:
        """`fraction` of all slots, rounded down."""
        return int(fraction * self.num_slots)


@mypyc_attr(allow_interpreted_subclasses=True)
class ContiguousKVManager:
    """Contiguous KV memory of one replica; does for the V1 scheduler what `KVCacheManager` does."""

    __slots__ = (
        "_max_model_len",
        "_promised",
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

    def __init__(self, config: ContiguousConfig, *, max_model_len: int) -> None:
        self.config = config
        self.pool = BuddyPool(config.num_slots)
        self.block_size = max_model_len
        self.stats = PrefixCacheStats()
        self.num_blocks_allocated = 0
        """Slots reserved so far, each time counted."""
        self.num_cached_blocks = 0
        self.caches_prefixes = self.offloads = False
        self.num_promised_slots = 0
        """Slots, of those reserved, that will hold a token in the end."""
        self._max_model_len = max_model_len
        self._promised: dict[int, int] = {}
        """By first slot."""

    def num_slots_for(self, seq: Sequence) -> int:
        """Slots that are reserved for a sequence."""
        match self.config.reservation:
            case Reservation.MAX:
                return self._max_model_len
            case Reservation.POW2:
                output = 1 << (seq.max_known - seq.num_prompt_tokens - 1).bit_length()
                return min(seq.num_prompt_tokens + output, self._max_model_len)
            case Reservation.ORACLE:
                return seq.max_known

    def can_ever_hold(self, seqs: list[Sequence], num_more_tokens: int) -> bool:
        """Whether each of these sequences could be held if it were alone."""
        return all(self.pool.can_ever_take(self.num_slots_for(seq)) for seq in seqs)

    def find_hit(self, seq: Sequence) -> list[int]:
        """Nothing: nothing is shared."""
        return []

    def find_host_hit(self, seq: Sequence, num_hit_blocks: int) -> tuple[Hashable, ...]:
        """Nothing: nothing is shared."""
        return ()

    def take_moves(self) -> Moves:
        """Nothing is ever moved."""
        return NO_MOVES

    @property
    def num_free_unmoved(self) -> int:
        """Free slots."""
        return self.pool.num_free

    def admit(self, seq: Sequence, hit: list[int], admission: Admission) -> AllocStatus:
        """Reserve a waiting sequence's stretch; nothing is touched when the answer is LATER."""
        num_slots = self.num_slots_for(seq)
        if num_slots + admission.watermark_blocks > self.pool.num_free:
            return AllocStatus.LATER
        start = self.pool.take_stretch(num_slots)
        if start is None:
            return AllocStatus.LATER
        seq.table = [start]
        self._promised[start] = seq.max_known
        self.num_promised_slots += seq.max_known
        self.num_blocks_allocated += num_slots
        return AllocStatus.OK

    def grow(self, seq: Sequence, num_tokens: int) -> AllocStatus:
        """A running sequence has all it will ever need."""
        return AllocStatus.OK

    def take_one_each(self, tables: Iterable[list[int]], count: int) -> None:
        """Nobody ever needs another stretch."""
        assert not count, "a reservation ran out"

    def register_computed(self, seq: Sequence, num_tokens: int) -> None:
        """Nothing is findable."""

    def free(self, seq: Sequence) -> None:
        """Take a sequence's stretch back.

        Raises:
            ValueError: It holds none: freed twice, or never admitted.
        """
        if not seq.table:
            raise ValueError(f"{seq!r} holds no slots to free")
        (start,) = seq.table
        self.pool.give_stretch(start)
        self.num_promised_slots -= self._promised.pop(start)
        seq.table = []

    def free_head(self, count: int) -> list[int]:
        """No order of single slots is promised."""
        return []

    def state(self, holders: Iterable[Sequence]) -> Hashable:
        """Nothing that a decision to preempt could hang on: nobody ever is."""
        return None

    def check_invariants(self, holders: Iterable[Sequence]) -> None:
        """Recount everything from the tables of `holders`, which must be all live sequences."""
        starts = {}
        for seq in holders:
            assert len(seq.table) == 1, f"{seq!r} should hold one stretch: {seq.table}"
            assert self.pool.size_of(seq.table[0]) == self.num_slots_for(seq), f"{seq!r} holds another size"
            starts[seq.table[0]] = seq.max_known
        assert starts == self._promised, "stretches are held by nobody, or by two"
        assert sum(starts.values()) == self.num_promised_slots, "promised slots miscounted"
        self.pool.check_invariants()
