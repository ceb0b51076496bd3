"""`Queues`: who waits, who runs and who of these decodes steadily; what planning and settling share.

    waiting   ->   running  =  singles + the steady batch

The running list is in order of admission; the singles are those of it that are looked at one by one.
Refuses to know budgets and rules: who moves when is decided in `scheduler.py`, who ends in `settling.py`.
"""

from __future__ import annotations

from sim.core.compiling import mypyc_attr
from sim.core.kv_memory import KVMemory
from sim.core.policy import WaitingQueue
from sim.core.request import Sequence, SequenceStatus
from sim.core.steady_batch import SteadyBatch


@mypyc_attr(allow_interpreted_subclasses=True)
class Queues:
    """The sequences of one replica, each in the place where it is."""

    __slots__ = ("_kv", "running", "singles", "steady", "waiting")

    def __init__(self, waiting: WaitingQueue, kv: KVMemory) -> None:
        self.waiting = waiting
        self.running: dict[Sequence, None] = {}
        """In order of admission."""
        self.singles: dict[Sequence, None] = {}
        """Running sequences outside the steady batch, in order of admission."""
        self.steady = SteadyBatch(kv)
        self._kv = kv

    @property
    def num_single_tokens(self) -> int:
        """Token states of the running sequences outside the steady batch."""
        return sum([seq.num_computed for seq in self.singles]) if self.singles else 0

    def remove(self, seq: Sequence, step: int) -> None:
        """Take a sequence out of whatever queue it is in before `step`, with all it holds."""
        if seq.status is SequenceStatus.RUNNING:
            self.leave_running(seq, step)
        else:
            self.waiting.remove(seq)
        if seq.table:
            self._kv.free(seq)

    def leave_running(self, seq: Sequence, step: int) -> None:
        """Take a sequence off the running list before `step`; its blocks it keeps."""
        if seq.in_steady_batch:
            self.steady.leave(seq, step)
        else:
            del self.singles[seq]
        del self.running[seq]

    def settle_into_steady(self, seq: Sequence, step: int) -> None:
        """Let a running sequence that got a token in `step` decode steadily from then on."""
        del self.singles[seq]
        self.steady.join(seq, step + 1)

    def dissolve_steady(self, step: int) -> None:
        """From `step` on all who run are looked at singly."""
        for seq in self.running:
            if seq.in_steady_batch:
                self.steady.leave(seq, step)
        self.singles.clear()
        self.singles.update(self.running)

    def pop_finished(self, step: int) -> list[Sequence]:
        """Steady sequences that end at the end of `step`; they leave the running list, blocks in hand."""
        finished = self.steady.pop_finished(step)
        for seq in finished:
            del self.running[seq]
        return finished

    def check_invariants(self, step: int) -> None:
        """The running list, the steady batch and the singles must agree."""
        self.steady.check_invariants(step)
        singles = [seq for seq in self.running if not seq.in_steady_batch]
        assert singles == list(self.singles), "singles out of step with the running list"
        assert len(self.running) == len(singles) + self.steady.num_seqs, "a steady sequence is not running"
        orders = [seq.order for seq in self.running]
        assert orders == sorted(orders), "the running list is out of order"
