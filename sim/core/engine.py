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

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from sim.core.block_pool import BlockPool
from sim.core.buddy import BuddyPool
from sim.core.compiling import mypyc_attr
from sim.core.group import GroupSchedulerConfig, VictimCost
from sim.core.group_scheduler import GroupScheduler
from sim.core.kv_cache import CacheConfig, KVCacheManager, PrefixCacheStats
from sim.core.kv_memory import KVMemory, MemoryConfig, make_kv_memory
from sim.core.own_memory import AllocatedPool, OwnKVManager, OwnMemoryConfig
from sim.core.request import FinishReason, Request, Sequence
from sim.core.scheduler import Scheduler
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import DraftRun, StepOutcome, StepPlan, StepResult
from sim.core.step_scheduler import StepScheduler


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


MakeScheduler = Callable[..., StepScheduler]
"""From (config, kv, plans_sequences=, max_horizon=), as `Scheduler` is made."""


@mypyc_attr(native_class=False)
@dataclass(frozen=True, slots=True)
class EngineConfig:
    """All settings of one replica's core.

    Attributes:
        scheduler: Of vLLM's V1 or, with a `GroupSchedulerConfig`, of the PagedAttention paper.
        max_horizon: Most steps one plan may stand for; 1 makes every step a plan of its own (the paper's
            scheduler always does).
        detail: How much plans say.
        make_scheduler: Makes a scheduler of one's own; None: the one that the configuration names.
    """

    cache: MemoryConfig
    scheduler: SchedulerConfig | GroupSchedulerConfig
    max_horizon: int = 2**31
    detail: PlanDetail = PlanDetail.COUNTS
    make_scheduler: MakeScheduler | None = None

    def __post_init__(self) -> None:
        if self.max_horizon < 1:
            raise ValueError(f"max_horizon must be at least 1, not {self.max_horizon}")
        if isinstance(self.scheduler, GroupSchedulerConfig) and self.cache.enable_prefix_caching:
            raise ValueError("the paper's scheduler has no prefix caching")
        if isinstance(self.scheduler, GroupSchedulerConfig) and not isinstance(self.cache, CacheConfig):
            raise ValueError("the paper's scheduler pages its memory; other memories run under V1's")


@mypyc_attr(allow_interpreted_subclasses=True)
class EngineCore:
    """Scheduler and KV memory of one replica, driven from outside."""

    __slots__ = (
        "_kv",
        "_live",
        "_next_seq_id",
        "_scheduler",
        "config",
        "num_copied_blocks",
        "num_preemptions",
        "num_swapped_in_blocks",
        "num_swapped_out_blocks",
        "step",
    )

    def __init__(self, config: EngineConfig, victim_cost: VictimCost | None = None) -> None:
        self.config = config
        self.step = 0
        """Number of the next step."""
        self.num_preemptions = 0
        self.num_swapped_out_blocks = 0
        self.num_swapped_in_blocks = 0
        self.num_copied_blocks = 0
        """Blocks copied because a sequence wrote into one that it shared (copy-on-write)."""
        self._kv = make_kv_memory(
            config.cache,
            max_model_len=config.scheduler.max_model_len,
            num_lookahead_slots=config.scheduler.num_lookahead_slots,
        )
        self._scheduler = _make_scheduler(config, self._kv, victim_cost)
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
    def is_circling(self) -> bool:
        """Whether steps repeat themselves for ever, without a token, until somebody comes or goes.

        vLLM's scheduler can be caught so; whoever drives this one should not step it on.
        """
        return self._scheduler.is_circling

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
        return self._scheduler.num_running

    @property
    def num_waiting(self) -> int:
        """How many wait, preempted ones included."""
        return self._scheduler.num_waiting

    @property
    def pool(self) -> BlockPool | BuddyPool | AllocatedPool:
        """The device's memory, for those who look on."""
        return self._kv.pool

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
    def num_used_host_blocks(self) -> int:
        """Blocks of the host pool that hold swapped sequences."""
        return self._scheduler.num_used_host_blocks

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
    def num_swap_fallbacks(self) -> int:
        """Victims that should have been swapped but were recomputed, the host pool being full, so far."""
        return self._scheduler.num_swap_fallbacks

    @property
    def draft_runs(self) -> Mapping[DraftRun, int]:
        """How often drafts were verified with this outcome, so far."""
        return self._scheduler.draft_runs

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
        live = {seq for seqs in self._live.values() for seq in seqs if not seq.is_finished}
        assert live == {*self.running, *self.waiting}, "a live sequence is in no queue, or a dead one is"

    # Requests come and go -------------------------------------------------------------------------

    def submit(self, request: Request) -> SubmitStatus:
        """Queue a request; its samples become sequences.

        Raises:
            ValueError: A live request has this id already.
        """
        if request.request_id in self._live:
            raise ValueError(f"request {request.request_id} is here already")
        max_known = self.config.scheduler.max_known
        seqs = []
        for sample in range(request.num_samples):
            seqs.append(Sequence(self._next_seq_id, request, sample, max_known))
            self._next_seq_id += 1
        self._live[request.request_id] = seqs
        if not self._scheduler.can_ever_fit(seqs):
            for seq in seqs:
                seq.end(FinishReason.REJECTED, self.step)
                self._forget(seq)
            return SubmitStatus.REJECTED
        joins_next = self._scheduler.enqueue(request, seqs)
        return SubmitStatus.NEXT_STEP if joins_next else SubmitStatus.QUEUED

    def abort(self, request_id: int, sample: int | None = None) -> list[Sequence]:
        """End a request, or one sample of it, wherever it stands; to be called between steps.

        Returns:
            The sequences it ended.
        """
        seqs = self._live.get(request_id, ())
        ended = [seq for seq in seqs if not seq.is_finished and sample in (None, seq.sample)]
        for seq in ended:
            self._scheduler.remove(seq, self.step)
            seq.end(FinishReason.ABORT, self.step)
            self._forget(seq)
        return ended

    # One step -------------------------------------------------------------------------------------

    def begin_step(self, now_ns: int) -> StepPlan | None:
        """Plan the next step, or several equal ones; None if there is nothing to compute."""
        plan = self._scheduler.schedule(self.step, now_ns)
        if plan is not None:
            if isinstance(self._kv, OwnKVManager):
                plan = self._kv.with_copies(plan)
            self.step += 1
            self.num_preemptions += len(plan.preempted)
            if plan.blocks_to_swap_out or plan.blocks_to_swap_in or plan.blocks_to_copy:
                self.num_swapped_out_blocks += len(plan.blocks_to_swap_out)
                self.num_swapped_in_blocks += len(plan.blocks_to_swap_in)
                self.num_copied_blocks += len(plan.blocks_to_copy)
        return plan

    def finish_step(self, plan: StepPlan, result: StepResult, num_steps: int = 1) -> StepOutcome:
        """Settle the first `num_steps` of a plan's steps: those that did happen.

        Raises:
            ValueError: More steps than the plan stands for.
        """
        if not 1 <= num_steps <= plan.horizon:
            raise ValueError(f"{num_steps} steps settled of a plan for {plan.horizon}")
        outcome = self._scheduler.settle(plan, result, num_steps)
        if num_steps > 1:
            self.step = plan.step + num_steps
        for seq in outcome.finished:
            self._forget(seq)
        return outcome

    # Ends -----------------------------------------------------------------------------------------

    def _forget(self, seq: Sequence) -> None:
        """A sequence has ended; with its last one, a request has."""
        request = seq.request
        request.num_unfinished -= 1
        if not request.num_unfinished:
            del self._live[request.request_id]


def _make_scheduler(config: EngineConfig, kv: KVMemory, victim_cost: VictimCost | None) -> StepScheduler:
    match config.scheduler:
        case SchedulerConfig():
            # an allocator is asked for every token, so nobody may decode unseen
            plans_sequences = config.detail is PlanDetail.SEQUENCES or isinstance(
                config.cache, OwnMemoryConfig
            )
            make = config.make_scheduler or Scheduler
            return make(config.scheduler, kv, plans_sequences=plans_sequences, max_horizon=config.max_horizon)
        case GroupSchedulerConfig():
            assert isinstance(kv, KVCacheManager), "checked by the configuration"
            return GroupScheduler(config.scheduler, kv, victim_cost)
