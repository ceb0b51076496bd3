"""In which order sequences wait, whom a shortage hits, and when a batch may take newcomers.

`WaitingQueue` has two kinds, as in vLLM: first come first served, and by priority (lower number, then
arrival, first). `BatchGate` is the seam for the three ways of batching every lecture compares:

    static       a batch is what waits when the last one has ended, up to a size; nobody joins it
    dynamic      the same, but it starts only when it is full or its oldest member has waited long enough
    continuous   sequences join and leave at every step

Refuses to know blocks and budgets.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Any, Protocol

from sim.core.compiling import mypyc_attr
from sim.core.request import Sequence

_Entry = tuple[int, int, int, str, int, Sequence]
"""Key of a sequence that waits, the number of its pushing, and the sequence."""
_MOST_STALE = 64
"""Marked entries that a heap may hold besides as many as wait."""


class PolicyKind(Enum):
    """Order of the waiting queue, and with it the choice of preemption victims."""

    FCFS = "fcfs"
    PRIORITY = "priority"


class WaitingQueue(Protocol):
    """Sequences that wait, in the order in which they will be let in."""

    def push(self, seq: Sequence) -> None:
        """Add a newcomer."""
        ...

    def push_preempted(self, seq: Sequence) -> None:
        """Add a preempted sequence."""
        ...

    def head(self) -> Sequence:
        """The next one; there must be one."""
        ...

    def pop_head(self) -> Sequence:
        """Take the next one out."""
        ...

    def remove(self, seq: Sequence) -> None:
        """Take one out, wherever it stands."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sequence]: ...


class WaitingOrder(Protocol):
    """An order of one's own for sequences that wait."""

    def key(self, seq: Sequence) -> Any:
        """What is compared, smallest first; asked once, when a sequence begins to wait."""
        ...


class VictimChoice(Protocol):
    """A choice of one's own: whom a shortage of blocks costs its place."""

    def choose(self, running: AbstractSequence[Sequence], needy: Sequence) -> Sequence:
        """One of `running`, which are in order of admission; perhaps `needy` itself, which lacks a block."""
        ...


@mypyc_attr(allow_interpreted_subclasses=True)
class FcfsQueue:
    """First come first served; preempted sequences go to the front."""

    __slots__ = ("_seqs",)

    def __init__(self) -> None:
        self._seqs: deque[Sequence] = deque()

    def push(self, seq: Sequence) -> None:
        """Add behind all others."""
        self._seqs.append(seq)

    def push_preempted(self, seq: Sequence) -> None:
        """Add before all others."""
        self._seqs.appendleft(seq)

    def head(self) -> Sequence:
        """The longest waiting."""
        return self._seqs[0]

    def pop_head(self) -> Sequence:
        """Take the longest waiting out."""
        return self._seqs.popleft()

    def remove(self, seq: Sequence) -> None:
        """Take one out of the middle."""
        self._seqs.remove(seq)

    def __len__(self) -> int:
        return len(self._seqs)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._seqs)


@mypyc_attr(allow_interpreted_subclasses=True)
class PriorityQueue:
    """Lowest priority number first, then earliest arrival; a preempted sequence goes where its key says.

    Taking one out of the middle only marks its entry, and looking at the first few sorts no more than these:
    a long queue costs its logarithm.
    """

    __slots__ = ("_heap", "_num_pushed", "_push_of")

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._num_pushed = 0
        self._push_of: dict[Sequence, int] = {}
        """When each was pushed that waits; an entry of the heap with another number is of one taken out."""

    def push(self, seq: Sequence) -> None:
        """Add by key."""
        self._num_pushed += 1
        self._push_of[seq] = self._num_pushed
        heapq.heappush(self._heap, (*_waiting_key(seq), self._num_pushed, seq))

    def push_preempted(self, seq: Sequence) -> None:
        """Add by key, like any other."""
        self.push(seq)

    def head(self) -> Sequence:
        """The most urgent."""
        return self._heap[0][-1]

    def pop_head(self) -> Sequence:
        """Take the most urgent out."""
        seq = heapq.heappop(self._heap)[-1]
        del self._push_of[seq]
        self._drop_stale_heads()
        return seq

    def remove(self, seq: Sequence) -> None:
        """Take one out of the middle."""
        del self._push_of[seq]
        if len(self._heap) > 2 * len(self._push_of) + _MOST_STALE:
            self._heap = sorted(entry for entry in self._heap if self._waits(entry))
        else:
            self._drop_stale_heads()

    def __len__(self) -> int:
        return len(self._push_of)

    def __iter__(self) -> Iterator[Sequence]:
        """In order: from the top of the heap down, those next in turn kept in a heap of their own."""
        heap = self._heap
        next_in_turn = [(heap[0], 0)] if heap else []
        while next_in_turn:
            entry, place = heapq.heappop(next_in_turn)
            if self._waits(entry):
                yield entry[-1]
            for below in range(2 * place + 1, min(2 * place + 3, len(heap))):
                heapq.heappush(next_in_turn, (heap[below], below))

    def _waits(self, entry: _Entry) -> bool:
        return self._push_of.get(entry[-1]) == entry[-2]

    def _drop_stale_heads(self) -> None:
        while self._heap and not self._waits(self._heap[0]):
            heapq.heappop(self._heap)


@mypyc_attr(allow_interpreted_subclasses=True)
class OrderedQueue:
    """By an order of one's own; of equals, whoever began to wait first."""

    __slots__ = ("_entries", "_num_pushed", "_order")

    def __init__(self, order: WaitingOrder) -> None:
        self._order = order
        self._entries: list[tuple[Any, int, Sequence]] = []
        self._num_pushed = 0

    def push(self, seq: Sequence) -> None:
        """Add where the order says."""
        self._num_pushed += 1
        insort(self._entries, (self._order.key(seq), self._num_pushed, seq), key=_entry_key)

    def push_preempted(self, seq: Sequence) -> None:
        """Likewise."""
        self.push(seq)

    def head(self) -> Sequence:
        """The first in order."""
        return self._entries[0][-1]

    def pop_head(self) -> Sequence:
        """Take the first out."""
        return self._entries.pop(0)[-1]

    def remove(self, seq: Sequence) -> None:
        """Take one out of the middle."""
        del self._entries[next(place for place, entry in enumerate(self._entries) if entry[-1] is seq)]

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Sequence]:
        return (entry[-1] for entry in self._entries)


def _entry_key(entry: tuple[Any, int, Sequence]) -> tuple[Any, int]:
    return entry[:2]


def urgency(seq: Sequence) -> tuple[int, int, int]:
    """Smaller goes first and is preempted last; samples of one request are equals, for they came together.

    Requests that arrive at one instant are told apart by who was submitted first.
    """
    request = seq.request
    return request.priority, request.arrival_ns, seq.seq_id - seq.sample


def _waiting_key(seq: Sequence) -> tuple[int, int, int, str]:
    """Among equals the waiting order is that of vLLM's ids `0_ID`, `1_ID`, ... as text: 10 before 1."""
    return *urgency(seq), f"{seq.sample}_"


def make_waiting_queue(kind: PolicyKind, order: WaitingOrder | None = None) -> WaitingQueue:
    """An empty queue of that kind, or in an order of one's own."""
    if order is not None:
        return OrderedQueue(order)
    match kind:
        case PolicyKind.FCFS:
            return FcfsQueue()
        case PolicyKind.PRIORITY:
            return PriorityQueue()


@mypyc_attr(native_class=False)
@dataclass(frozen=True, slots=True)
class Continuous:
    """Iteration-level batching: newcomers join at any step that has room."""


@mypyc_attr(native_class=False)
@dataclass(frozen=True, slots=True)
class Static:
    """A batch of what waits, at most `max_batch_size`, fixed until its last member ends."""

    max_batch_size: int

    def __post_init__(self) -> None:
        if self.max_batch_size < 1:
            raise ValueError(f"max_batch_size must be at least 1, not {self.max_batch_size}")


@mypyc_attr(native_class=False)
@dataclass(frozen=True, slots=True)
class Dynamic:
    """As `Static`, but a batch starts when it is full or its oldest member has waited `max_wait_ns`."""

    max_batch_size: int
    max_wait_ns: int

    def __post_init__(self) -> None:
        if self.max_batch_size < 1 or self.max_wait_ns < 0:
            raise ValueError(
                f"max_batch_size ({self.max_batch_size}) must be at least 1 and max_wait "
                f"({self.max_wait_ns} ns) not negative"
            )


Batching = Continuous | Static | Dynamic


@mypyc_attr(allow_interpreted_subclasses=True)
class BatchGate:
    """Says who may join now.

    The members of a fixed batch are named when it opens; one that does not fit at first, or is preempted,
    joins when there is room.
    """

    __slots__ = ("_batching", "_members", "is_continuous")

    def __init__(self, batching: Batching) -> None:
        self._batching = batching
        self._members: set[Sequence] = set()
        self.is_continuous = isinstance(batching, Continuous)
        """Whether newcomers may join a running batch."""

    def open(self, waiting: WaitingQueue, now_ns: int) -> None:
        """Nothing runs: name the members of the next batch, if this one has ended and the next is due."""
        batching = self._batching
        if isinstance(batching, Continuous):
            return
        if len(waiting) and waiting.head() in self._members:
            return
        if isinstance(batching, Static) or _is_due(batching, waiting, now_ns):
            self._members = set(islice(waiting, batching.max_batch_size))

    def may_join(self, seq: Sequence) -> bool:
        """Whether a sequence that waits is welcome now."""
        return self.is_continuous or seq in self._members

    def wake_ns(self, waiting: WaitingQueue) -> int | None:
        """When waiting alone will open a batch."""
        if isinstance(self._batching, Dynamic) and len(waiting):
            return _oldest_arrival_ns(waiting) + self._batching.max_wait_ns
        return None


def _is_due(batching: Dynamic, waiting: WaitingQueue, now_ns: int) -> bool:
    if len(waiting) >= batching.max_batch_size:
        return True
    return len(waiting) > 0 and now_ns >= _oldest_arrival_ns(waiting) + batching.max_wait_ns


def _oldest_arrival_ns(waiting: WaitingQueue) -> int:
    return min(seq.request.arrival_ns for seq in waiting)
