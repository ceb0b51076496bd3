"""`StepScheduler`: what the engine asks of a scheduler; `Scheduler` (V1) and `GroupScheduler` (V0) answer it.

    can_ever_fit -> enqueue ->  schedule -> [ an executor ] -> settle  ->  schedule ...      remove

A scheduler owns its queues and, through the KV cache manager, what its sequences hold. Ids and time come
from outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from sim.core.request import Request, Sequence
from sim.core.step import DraftRun, StepOutcome, StepPlan, StepResult


class StepScheduler(Protocol):
    """Queues of one replica, and the rules that fill a step from them and settle it."""

    @property
    def running(self) -> Iterable[Sequence]:
        """Running sequences in order of admission."""
        ...

    @property
    def waiting(self) -> Iterable[Sequence]:
        """All others that are here, preempted and swapped ones included, in the order of their turn."""
        ...

    @property
    def num_running(self) -> int:
        """How many run."""
        ...

    @property
    def num_waiting(self) -> int:
        """How many wait."""
        ...

    @property
    def num_recomputed_tokens(self) -> int:
        """Token states thrown away by preemptions and computed again, so far."""
        ...

    @property
    def num_used_host_blocks(self) -> int:
        """Blocks of the host pool that hold swapped sequences."""
        ...

    @property
    def num_swap_fallbacks(self) -> int:
        """Victims recomputed though they should have been swapped, the host pool being full, so far."""
        ...

    @property
    def draft_runs(self) -> Mapping[DraftRun, int]:
        """How often drafts were verified with this outcome, so far."""
        ...

    @property
    def is_circling(self) -> bool:
        """Whether steps repeat themselves for ever, without a token, until somebody comes or goes."""
        ...

    def can_ever_fit(self, seqs: list[Sequence]) -> bool:
        """Whether a newcomer with these sequences could be served if it were alone."""
        ...

    def enqueue(self, request: Request, seqs: list[Sequence]) -> bool:
        """Add a newcomer with all its sequences; True if it may join the very next step."""
        ...

    def wake_ns(self) -> int | None:
        """When, though nothing can run now, time alone will allow a step."""
        ...

    def schedule(self, step: int, now_ns: int) -> StepPlan | None:
        """Fill one step; None if there is nothing to compute."""
        ...

    def settle(self, plan: StepPlan, result: StepResult, num_steps: int) -> StepOutcome:
        """Commit what the first `num_steps` steps of a plan gave; frees what ended."""
        ...

    def remove(self, seq: Sequence, step: int) -> None:
        """Take a live sequence out before `step`, wherever it stands, with all it holds."""
        ...

    def check_invariants(self, step: int) -> None:
        """Recount queues and pools; AssertionError says what does not add up."""
        ...
