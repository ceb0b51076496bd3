"""In which order sequences wait, whom a shortage hits, and when a batch may take newcomers.

`WaitingQueue` has two kinds, as in vLLM: first come first served, and by priority (lower number, then
arrival, first). `BatchingPolicy` is the seam for the three ways of batching every lecture compares:

    static       a batch is what waits when the last one has ended, up to a size; nobody joins it
    dynamic      the same, but it starts only when it is full or its oldest member has waited long enough
    continuous   sequences join and leave at every step

Refuses to know blocks and budgets.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from sim.core.request import Sequence


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


class FcfsQueue(deque[Sequence]):
    """First come first served; preempted sequences go to the front."""

    push = deque.append
    push_preempted = deque.appendleft
    pop_head = deque.popleft

    def head(self) -> Sequence:
        """The longest waiting."""
        return self[0]


class PriorityQueue:
    """Lowest priority number first, then earliest arrival; a preempted sequence goes where its key says."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Sequence]] = []

    def push(self, seq: Sequence) -> None:
        """Add by key."""
        heapq.heappush(self._heap, (*priority_key(seq), seq))

    push_preempted = push

    def head(self) -> Sequence:
        """The most urgent."""
        return self._heap[0][-1]

    def pop_head(self) -> Sequence:
        """Take the most urgent out."""
        return heapq.heappop(self._heap)[-1]

    def remove(self, seq: Sequence) -> None:
        """Take one out of the middle."""
        self._heap.remove((*priority_key(seq), seq))
        heapq.heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Sequence]:
        return (entry[-1] for entry in sorted(self._heap))


def priority_key(seq: Sequence) -> tuple[int, int, int]:
    """Urgency: smaller goes first and is preempted last. Sequence ids make it unique."""
    return seq.request.priority, seq.request.arrival_ns, seq.seq_id


def make_waiting_queue(kind: PolicyKind) -> WaitingQueue:
    """An empty queue of that kind."""
    match kind:
        case PolicyKind.FCFS:
            return FcfsQueue()
        case PolicyKind.PRIORITY:
            return PriorityQueue()


@dataclass(frozen=True, slots=True)
class Continuous:
    """Iteration-level batching: newcomers join at any step that has room."""


@dataclass(frozen=True, slots=True)
class Static:
    """A batch of what waits, at most `max_batch_size`, fixed until its last member ends."""

    max_batch_size: int

    def __post_init__(self) -> None:
        if self.max_batch_size < 1:
            raise ValueError(f"max_batch_size must be at least 1, not {self.max_batch_size}")


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


class BatchGate:
    """Says how many waiting sequences may join now; fixed batches fill over as many steps as they need."""

    __slots__ = ("_batching", "_num_places")

    def __init__(self, batching: Batching) -> None:
        self._batching = batching
        self._num_places = 0

    @property
    def is_continuous(self) -> bool:
        """Whether newcomers may join a running batch."""
        return isinstance(self._batching, Continuous)

    @property
    def is_filling(self) -> bool:
        """Whether a fixed batch still has members that wait for their first step."""
        return self._num_places > 0

    def num_places(self, waiting: WaitingQueue, num_running: int, now_ns: int) -> int:
        """How many may be let in at this step; opens a fixed batch when the last one has ended."""
        batching = self._batching
        if isinstance(batching, Continuous):
            return len(waiting)
        if num_running == 0:
            is_due = isinstance(batching, Static) or self._is_due(batching, waiting, now_ns)
            self._num_places = min(len(waiting), batching.max_batch_size) if is_due else 0
        return self._num_places

    def note_admissions(self, num_admitted: int) -> None:
        """Count members in; a step that lets nobody in closes the batch."""
        self._num_places = max(self._num_places - num_admitted, 0) if num_admitted else 0

    def wake_ns(self, waiting: WaitingQueue) -> int | None:
        """When waiting alone will open a batch."""
        if isinstance(self._batching, Dynamic) and len(waiting):
            return _oldest_arrival_ns(waiting) + self._batching.max_wait_ns
        return None

    @staticmethod
    def _is_due(batching: Dynamic, waiting: WaitingQueue, now_ns: int) -> bool:
        if len(waiting) >= batching.max_batch_size:
            return True
        return len(waiting) > 0 and now_ns >= _oldest_arrival_ns(waiting) + batching.max_wait_ns


def _oldest_arrival_ns(waiting: WaitingQueue) -> int:
    return min(seq.request.arrival_ns for seq in waiting)
