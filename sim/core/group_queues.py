"""`GroupQueues`: which groups wait, run and are swapped out; what planning and settling of a step share.

Refuses to know limits and rules: who moves when is decided in `group_scheduler.py`, who ends in
`group_settling.py`.
"""

from __future__ import annotations

from collections import deque

from sim.core.compiling import mypyc_attr
from sim.core.group import Group
from sim.core.kv_cache import KVCacheManager
from sim.core.request import Sequence
from sim.core.swap import SwapSpace


@mypyc_attr(allow_interpreted_subclasses=True)
class GroupQueues:
    """The groups of one replica, each in the place where it is."""

    __slots__ = ("_group_of", "_kv", "_swap", "hopeless", "running", "swapped", "waiting")

    def __init__(self, kv: KVCacheManager, swap: SwapSpace | None) -> None:
        self.waiting: deque[Group] = deque()
        self.running: list[Group] = []
        self.swapped: list[Group] = []
        self.hopeless: list[Sequence] = []
        """Sequences that can never fit: their prompt, or their group though it has the pool to itself."""
        self._group_of: dict[Sequence, Group] = {}
        self._kv = kv
        self._swap = swap

    def enqueue(self, group: Group) -> None:
        """Add a newcomer with all its sequences, those yet to be forked included."""
        self._group_of.update(dict.fromkeys((*group.seqs, *group.unborn), group))
        self.waiting.append(group)

    def pop_hopeless(self) -> list[Sequence]:
        """Sequences that can never go on, found while the step was planned."""
        hopeless, self.hopeless = self.hopeless, []
        return hopeless

    def remove(self, seq: Sequence) -> None:
        """Take a live sequence out, wherever it stands, with all it holds."""
        group = self._group_of.pop(seq)
        if seq in group.unborn:
            group.unborn.remove(seq)
        elif seq in group.seqs:
            group.seqs.remove(seq)
            if group in self.swapped:
                assert self._swap is not None, "swapped groups have a host pool"
                self._swap.free(seq)
            elif seq.table:
                self._kv.free(seq)
        if not group.seqs:
            for queue in (self.waiting, self.running, self.swapped):
                if group in queue:
                    queue.remove(group)

    def check_invariants(self) -> None:
        """Recount both pools from the tables of live sequences."""
        self._kv.check_invariants([seq for group in self.running for seq in group.seqs])
        for group in self.waiting:
            assert not any(seq.table for seq in group.seqs), "a waiting sequence holds blocks"
        if self._swap is not None:
            self._swap.check_invariants([seq for group in self.swapped for seq in group.seqs])
