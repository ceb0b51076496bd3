"""`EngineCore`: the one brain of both bodies. Read this first.

    submit(request)  ->  begin_step()  ->  [ an Executor carries the plan out ]  ->  finish_step()  ->
    begin_step() ...

`begin_step` lets the scheduler fill a step and the KV cache manager hand out its blocks; `finish_step`
commits the tokens, gives rejected drafts back and frees what ended. Time passes between the two,
elsewhere: the core reads no clock, draws no random number, opens no file, logs nothing. With
asynchronous scheduling a plan may be begun before the one before it is finished; plans are finished in
the order in which they were begun.

A request that can never fit is refused at once (`SubmitStatus.REJECTED`), since it would stand still for
ever.

Invariants: every submitted sequence is in exactly one of waiting, running, finished; with none
unfinished, no block is held.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from sim.core.kv_cache import CacheConfig, KVCacheManager, PrefixCacheStats
from sim.core.request import FinishReason, Request, Sequence, SequenceStatus
from sim.core.scheduler import Scheduler
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import ScheduledSequence, StepOutcome, StepPlan, StepResult


class PlanDetail(Enum):
    """How much a plan says of decoding sequences."""

    COUNTS = "counts"
    """How many there are and how long: enough to predict time, and fast."""
    SEQUENCES = "sequences"
    """A row for each, with its blocks: what a real engine needs."""


class SubmitStatus(Enum):
    """What became of a submission."""

    REJECTED = "rejected"
    """It can never fit."""
    QUEUED = "queued"
    """It waits, and cannot change the plan under way however often that is repeated."""
    NEXT_STEP = "next_step"
    """It may join the very next step: a plan under way must end with its current step."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """All settings of one replica's core.

    Attributes:
        max_horizon: Most steps one plan may stand for; 1 makes every step a plan of its own.
        detail: How much plans say.
    """

    cache: CacheConfig
    scheduler: SchedulerConfig
    max_horizon: int = 2**31
    detail: PlanDetail = PlanDetail.COUNTS

    def __post_init__(self) -> None:
        if self.max_horizon < 1:
            raise ValueError(f"max_horizon must be at least 1, not {self.max_horizon}")


class EngineCore:
    """Scheduler and KV memory of one replica, driven from outside."""

    __slots__ = ("_kv", "_live", "_next_seq_id", "_scheduler", "config", "num_preemptions", "step")

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.step = 0
        """Number of the next step."""
        self.num_preemptions = 0
        self._kv = KVCacheManager(
            config.cache,
            max_model_len=config.scheduler.max_model_len,
            num_lookahead_slots=config.scheduler.num_lookahead_slots,
        )
        self._scheduler = Scheduler(
            config.scheduler,
            self._kv,
            plans_sequences=config.detail is PlanDetail.SEQUENCES,
            max_horizon=config.max_horizon,
        )
        self._live: dict[int, list[Sequence]] = {}
        """Sequences of each request that has not ended."""
        self._next_seq_id = 0

    # What is going on -----------------------------------------------------------------------------

    @property
    def has_unfinished(self) -> bool:
        """Whether any submitted request has not ended."""
        return bool(self._live)

    @property
    def next_wake_ns(self) -> int | None:
        """When, though nothing can run now, time alone will start a batch."""
        return self._scheduler.wake_ns()

    @property
    def running(self) -> Iterable[Sequence]:
        """Running sequences in order of admission."""
        return self._scheduler.running

    @property
    def waiting(self) -> Iterable[Sequence]:
        """Waiting sequences in the order in which they will be let in."""
        return self._scheduler.waiting

    @property
    def num_running(self) -> int:
        """How many run."""
        return len(self._scheduler.running)

    @property
    def num_waiting(self) -> int:
        """How many wait, preempted ones included."""
        return len(self._scheduler.waiting)

    @property
    def num_blocks(self) -> int:
        """Blocks of the pool."""
        return self._kv.pool.num_blocks

    @property
    def num_free_blocks(self) -> int:
        """Blocks nobody holds."""
        return self._kv.pool.num_free

    @property
    def num_used_blocks(self) -> int:
        """Blocks somebody holds."""
        return self._kv.pool.num_used

    @property
    def num_cached_blocks(self) -> int:
        """Blocks whose content can be found."""
        return self._kv.num_cached_blocks

    @property
    def num_blocks_allocated(self) -> int:
        """Blocks handed out so far."""
        return self._kv.num_blocks_allocated

    @property
    def num_recomputed_tokens(self) -> int:
        """Tokens computed once more because of preemptions, so far."""
        return self._scheduler.num_recomputed_tokens

    @property
    def prefix_stats(self) -> PrefixCacheStats:
        """Prefix-cache queries and hits so far, in tokens."""
        return self._kv.stats

    def free_head(self, count: int) -> list[int]:
        """The blocks that will be handed out next, at most `count`."""
        return self._kv.free_head(count)

    def check_invariants(self) -> None:
        """Recount everything; to be called between steps. AssertionError says what does not add up."""
        self._scheduler.check_invariants(self.step)
        self._kv.check_invariants(self.running)
        live = {seq for seqs in self._live.values() for seq in seqs if not seq.is_finished}
        assert live == {*self.running, *self.waiting}, "a live sequence is in no queue, or a dead one is"

    # Requests come and go -------------------------------------------------------------------------

    def submit(self, request: Request) -> SubmitStatus:
        """Queue a request; its samples become sequences that are scheduled each by itself.

        Raises:
            ValueError: A live request has this id already.
        """
        if request.request_id in self._live:
            raise ValueError(f"request {request.request_id} is here already")
        max_model_len = self.config.scheduler.max_model_len
        seqs = []
        for sample in range(request.num_samples):
            seqs.append(Sequence(self._next_seq_id, request, sample, max_model_len))
            self._next_seq_id += 1
        self._live[request.request_id] = seqs
        if not self._can_ever_fit(seqs[0]):
            for seq in seqs:
                self._end(seq, FinishReason.REJECTED)
            return SubmitStatus.REJECTED
        status = SubmitStatus.QUEUED
        for seq in seqs:
            if self._scheduler.enqueue(seq):
                status = SubmitStatus.NEXT_STEP
        return status

    def abort(self, request_id: int) -> list[Sequence]:
        """End a request wherever it stands; to be called between steps. Returns the sequences it ended."""
        ended = [seq for seq in self._live.get(request_id, ()) if not seq.is_finished]
        for seq in ended:
            self._finish(seq, FinishReason.ABORT, self.step)
        return ended

    # One step -------------------------------------------------------------------------------------

    def begin_step(self, now_ns: int) -> StepPlan | None:
        """Plan the next step, or several equal ones; None if there is nothing to compute."""
        plan = self._scheduler.schedule(self.step, now_ns)
        if plan is not None:
            self.step += 1
            self.num_preemptions += len(plan.preempted)
        return plan

    def finish_step(self, plan: StepPlan, result: StepResult, num_steps: int = 1) -> StepOutcome:
        """Settle the first `num_steps` of a plan's steps: those that did happen.

        Raises:
            ValueError: More steps than the plan stands for.
        """
        if not 1 <= num_steps <= plan.horizon:
            raise ValueError(f"{num_steps} steps settled of a plan for {plan.horizon}")
        steady, pool = self._scheduler.steady, self._kv.pool
        filled_slots = steady.sum_known - pool.num_extra_holders * self._kv.block_size
        filled_slots += self._scheduler.num_single_tokens
        used_blocks = [pool.num_used]
        finished: list[Sequence] = []
        if plan.num_steady_seqs:
            if num_steps > 1:
                steady.repeat(plan.step + 1, num_steps - 1, used_blocks)
            steady.advance(num_steps)
            last_step = plan.step + num_steps - 1
            for seq in self._scheduler.pop_finished(last_step):
                self._close(seq, self._finish_reason(seq, result) or FinishReason.LENGTH, last_step)
                finished.append(seq)
        if num_steps > 1:
            self.step = plan.step + num_steps
        if plan.rows:
            finished += [row.seq for row in plan.rows if self._settle(row, plan, result)]
        return StepOutcome(finished, used_blocks, filled_slots, plan.num_steady_seqs)

    def _settle(self, row: ScheduledSequence, plan: StepPlan, result: StepResult) -> bool:
        """Commit what one sequence got; True if it ended."""
        seq = row.seq
        if seq.is_finished or not row.yields_token:
            return False
        num_accepted = result.num_accepted.get(seq.seq_id, 0) if row.num_draft_tokens else 0
        is_running = seq.status is SequenceStatus.RUNNING
        if self.config.scheduler.async_scheduling:
            seq.num_in_flight -= 1 + row.num_draft_tokens
        if is_running:
            seq.num_computed -= row.num_draft_tokens - num_accepted
        num_new = min(num_accepted + 1, seq.max_known - seq.num_known)
        seq.num_known += num_new
        reason = self._finish_reason(seq, result)
        if reason is not None:
            seq.emit(plan.step, num_new)
            self._finish(seq, reason, plan.step)
            return True
        if is_running and self._scheduler.settle_into_steady(seq, plan.step):
            return False
        seq.emit(plan.step, num_new)
        if is_running:
            if self.config.scheduler.async_scheduling:
                self._kv.register_computed(seq, seq.num_computed - seq.num_in_flight)
            seq.num_drafts = result.num_drafts.get(seq.seq_id, 0)
        return False

    @staticmethod
    def _finish_reason(seq: Sequence, result: StepResult) -> FinishReason | None:
        if result.stopped and seq.seq_id in result.stopped:
            return FinishReason.STOP
        if seq.num_known < seq.max_known:
            return None
        if seq.num_output_tokens < seq.request.max_tokens:
            return FinishReason.LENGTH_CAPPED
        return FinishReason.LENGTH

    # Ends -----------------------------------------------------------------------------------------

    def _can_ever_fit(self, seq: Sequence) -> bool:
        """Whether it fits the model and, alone and with its drafts, the pool."""
        config = self.config.scheduler
        if seq.num_prompt_tokens >= config.max_model_len:
            return False
        num_tokens = seq.max_known - 1 + config.num_speculative_tokens
        return self._kv.num_blocks_for(num_tokens) <= self._kv.pool.num_blocks

    def _finish(self, seq: Sequence, reason: FinishReason, step: int) -> None:
        self._scheduler.remove(seq, self.step)
        self._close(seq, reason, step)

    def _close(self, seq: Sequence, reason: FinishReason, step: int) -> None:
        """Free what a sequence holds; it has left its queue."""
        if seq.table:
            self._kv.free(seq)
        if seq.first_scheduled_step is not None:
            seq.finish_step = step
        self._end(seq, reason)

    def _end(self, seq: Sequence, reason: FinishReason) -> None:
        seq.finish_reason = reason
        seq.status = SequenceStatus.FINISHED
        request = seq.request
        request.num_unfinished -= 1
        if not request.num_unfinished:
            del self._live[request.request_id]
