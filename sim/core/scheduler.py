"""`Scheduler`: who computes how many tokens in the next step.

There is no prefill phase and no decode phase: each sequence has tokens known and tokens computed, and a
step gives each enough to catch up, within a token budget. Running sequences come first, in the order of
their admission; then, if nobody had to be preempted, waiting ones. The rules are vLLM's (V1, 0.32), its
release differences are settings. `schedule` names the passes; `_schedule_one_running` and
`_schedule_one_waiting` are the rules.

Sequences that decode steadily are planned as one (`_schedule_steady`), which is exact when they stand
before all others in the running list, the budget holds them all and the victims of a shortage come off
the tail; otherwise everybody is looked at singly. Both ways give the same plans.

Refuses to know time (one stamp is passed through to the batch gate), ids of requests, and how long
anything takes.
"""

from __future__ import annotations

from collections.abc import Hashable
from itertools import islice
from typing import Any

from sim.core.circles import CircleWatch
from sim.core.compiling import mypyc_attr
from sim.core.kv_cache import NO_MOVES, Admission, AllocStatus
from sim.core.kv_memory import KVMemory
from sim.core.policy import BatchGate, PolicyKind, VictimChoice, make_waiting_queue, urgency
from sim.core.prefill_cadence import PrefillCadence
from sim.core.queues import Queues
from sim.core.request import Request, Sequence, SequenceStatus
from sim.core.scheduler_config import SchedulerConfig
from sim.core.settling import Settling
from sim.core.step import DraftRun, ScheduledSequence, ScheduleKind, StepOutcome, StepPlan, StepResult
from sim.core.step_draft import StepDraft


@mypyc_attr(allow_interpreted_subclasses=True)
class Scheduler:
    """Queues of one replica, and the rules that fill a step from them; a `StepScheduler`."""

    def __init__(
        self, config: SchedulerConfig, kv: KVMemory, *, plans_sequences: bool, max_horizon: int
    ) -> None:
        self.config = config
        order = config.waiting_order
        waiting = make_waiting_queue(config.policy, order() if order is not None else None)
        self._queues = queues = Queues(waiting, kv)
        self.waiting = queues.waiting
        self.running = queues.running
        """In order of admission."""
        self.steady = queues.steady
        self._singles = queues.singles
        self._kv = kv
        self._gate = BatchGate(config.batching)
        self._max_horizon = max_horizon
        self._victims = config.victim_choice() if config.victim_choice is not None else None
        allows_steady = type(self) is Scheduler and not (  # a subclass may have changed any rule
            plans_sequences
            or self._victims
            or config.async_scheduling
            or config.num_speculative_tokens
            or config.num_lookahead_slots
            or config.num_draft_rows
            or config.prefill_schedule_interval > 1
        )
        self._may_lift_threshold = config.long_prefill_token_threshold > 0 and config.exempt_lone_prompt
        self._watermark_blocks = kv.config.fraction_of_blocks(config.watermark_fraction)
        self._num_admissions = 0
        self._circles = CircleWatch()
        self._cadence = PrefillCadence(config.prefill_schedule_interval)
        self._settling = Settling(queues, kv, config, allows_steady=allows_steady)
        self.num_swap_fallbacks = self.num_used_host_blocks = 0
        """None: preemption is by recompute only."""
        self.num_recomputed_tokens = 0
        """Token states that preemptions threw away and no prefix hit brought back."""

    # The queues -----------------------------------------------------------------------------------

    @property
    def num_running(self) -> int:
        """How many run."""
        return len(self.running)

    @property
    def num_waiting(self) -> int:
        """How many wait, preempted ones included."""
        return len(self.waiting)

    def can_ever_fit(self, seqs: list[Sequence]) -> bool:
        """Whether a newcomer fits the model and, alone and with its drafts, the pool."""
        seq, config = seqs[0], self.config
        if seq.num_prompt_tokens >= config.max_model_len:
            return False
        return self._kv.can_ever_hold(seqs, config.num_speculative_tokens)

    def enqueue(self, request: Request, seqs: list[Sequence]) -> bool:
        """Add the samples of a newcomer, each by itself; True if one may join the very next step."""
        self._circles.forget()
        joins = [self._enqueue_one(seq) for seq in seqs]
        return any(joins)

    def _enqueue_one(self, seq: Sequence) -> bool:
        waiting, num_running = self.waiting, len(self.running)
        is_next = not len(waiting)
        waiting.push(seq)
        if num_running == 0:
            return True
        if num_running >= self.config.max_num_seqs or not self._gate.is_continuous:
            return False
        return is_next or waiting.head() is seq

    def wake_ns(self) -> int | None:
        """When, with nothing running, waiting alone will start a batch."""
        is_caught = self.running or self.is_circling
        return None if is_caught else self._gate.wake_ns(self.waiting)

    def remove(self, seq: Sequence, step: int) -> None:
        """Take a sequence out of whatever queue it is in before `step`, with all it holds."""
        self._circles.forget()
        self._queues.remove(seq, step)

    def settle(self, plan: StepPlan, result: StepResult, num_steps: int) -> StepOutcome:
        """Commit what the first `num_steps` steps of a plan gave; frees what ended."""
        return self._settling.settle(plan, result, num_steps)

    @property
    def is_circling(self) -> bool:
        """Whether steps repeat themselves for ever, without a token, until somebody comes or goes."""
        return self._circles.is_circling

    @property
    def draft_runs(self) -> dict[DraftRun, int]:
        """How often drafts were verified with this outcome; padding is not counted."""
        return self._settling.draft_runs

    # One step -------------------------------------------------------------------------------------

    def schedule(self, step: int, now_ns: int) -> StepPlan | None:
        """Fill one step; None if there is nothing to compute."""
        draft = StepDraft(step, self.config)
        cadence = self._cadence
        if cadence.is_on:
            draft.holds_prompts = cadence.holds(decodes=not all(seq.is_in_prompt for seq in self.running))
        if self._may_lift_threshold and len(self.running) + len(self.waiting) <= 1:
            draft.lift_threshold()
        if self.steady.num_seqs:
            self._schedule_steady(draft)
        if self._singles:
            self._schedule_singles(draft)
        is_blocked_for_good = True
        if self.waiting and not draft.preempted:
            is_blocked_for_good = self._schedule_waiting(draft, now_ns)
        if cadence.is_on:
            self._note_cadence(draft)
        if not (draft.rows or draft.preempted or self.steady.num_seqs):
            return None
        plan = self._close(draft, may_repeat=is_blocked_for_good and not draft.preempted)
        if draft.preempted or self._circles.is_watching:
            self._watch(draft)
        return plan

    def _note_cadence(self, draft: StepDraft) -> None:
        if not (draft.preempted or draft.holds_prompts):
            self._cadence.note_waiting(len(self.waiting))
        if draft.rows:
            self._cadence.note_step(has_prompt=draft.has_prompt)

    def _watch(self, draft: StepDraft) -> None:
        """Only preemptions undo anything: a circle has one, and none of its steps gives anybody a token."""
        if self.steady.num_seqs or any(row.yields_token for row in draft.rows):
            self._circles.forget()
        elif draft.preempted:
            self._circles.look(
                (
                    tuple((seq.seq_id, seq.num_computed, *_counts(seq)) for seq in self.running),
                    tuple((seq.seq_id, *_counts(seq)) for seq in self.waiting),
                    self._kv.state(self.running),
                )
            )

    def _close(self, draft: StepDraft, *, may_repeat: bool) -> StepPlan:
        steady, rows = self.steady, draft.rows
        swap_out, swap_in = self._kv.take_moves() if self._kv.offloads else NO_MOVES
        num_steady, context = steady.num_seqs, steady.sum_known
        if not rows:
            may_repeat = may_repeat and not swap_out
            horizon = steady.horizon(draft.step, self._max_horizon) if may_repeat else 1
            preempted = tuple(draft.preempted)
            num_running = self._num_running_in(draft)
            return StepPlan(
                draft.step, horizon, num_steady, context, (), preempted, num_running, (), num_steady, swap_out
            )
        num_decode = num_steady
        chunks = []
        for row in rows:
            if row.is_decode:
                num_decode += 1
                context += row.num_computed_tokens + 1
            else:
                chunks.append(row)
            row.seq.num_computed += row.num_tokens
            row.seq.is_in_prompt = not row.yields_token
            if row.yields_token and self.config.async_scheduling:
                row.seq.num_in_flight += 1 + row.num_draft_tokens
                row.seq.num_drafts = self.config.num_speculative_tokens
        return StepPlan(
            step=draft.step,
            horizon=1,
            num_decode_seqs=num_decode,
            decode_context_tokens=context,
            chunks=tuple(chunks),
            preempted=tuple(draft.preempted),
            num_running=self._num_running_in(draft),
            rows=tuple(rows),
            num_steady_seqs=num_steady,
            blocks_to_swap_out=swap_out,
            blocks_to_swap_in=swap_in,
        )

    def _num_running_in(self, draft: StepDraft) -> int:
        """How many run while this step does; those that end with the step before it do not."""
        if not self.config.async_scheduling:
            return len(self.running)
        in_step = {row.seq for row in draft.rows}
        over = [seq for seq in self._singles if seq not in in_step and _ends_in_flight(seq, seq.max_known)]
        return len(self.running) - len(over)

    # Running sequences ----------------------------------------------------------------------------

    def _schedule_steady(self, draft: StepDraft) -> None:
        steady, step = self.steady, draft.step
        takers = steady.takers(step)
        num_short = len(takers) - self._kv.pool.num_free
        if not self._steady_goes_first(draft) or (
            num_short > 0 and self.config.policy is PolicyKind.PRIORITY
        ):
            self._queues.dissolve_steady(step)
            return
        if num_short <= 0:
            steady.grow(step)
        else:
            self._grow_steady_with_victims(draft)
        draft.charge_steady(steady.num_seqs)
        if self._kv.caches_prefixes:
            steady.register(step)

    def _steady_goes_first(self, draft: StepDraft) -> bool:
        """Whether planning the steady batch first, as a whole, equals going through the running list."""
        if self.steady.num_seqs > min(draft.token_budget, draft.token_rows):
            return False
        if not self._singles:
            return True
        tail = islice(reversed(self.running), len(self._singles))
        return not any(seq.in_steady_batch for seq in tail)

    def _grow_steady_with_victims(self, draft: StepDraft) -> None:
        """Hand out the step's blocks one by one; a shortage costs the last running sequence its place."""
        pool = self._kv.pool
        for seq in list(self.steady.takers(draft.step)):
            if not seq.in_steady_batch:
                break
            while not pool.num_free:
                victim = next(reversed(self.running))
                self._preempt(victim, draft)
                if victim is seq:
                    return
            self._kv.take_one_each((seq.table,), 1)

    def _schedule_singles(self, draft: StepDraft) -> None:
        for seq in list(self._singles):
            if draft.token_budget <= 0:
                return
            if draft.holds_prompts and seq.is_in_prompt:
                continue
            if seq.status is SequenceStatus.RUNNING and not self._schedule_one_running(seq, draft):
                return

    def _schedule_one_running(self, seq: Sequence, draft: StepDraft) -> bool:
        """Give a running sequence its share; False if the pass ends here, since it had to be preempted."""
        if _ends_in_flight(seq, seq.num_prompt_tokens + seq.request.max_tokens):
            return True
        num_rows = self.config.num_draft_rows
        num_tokens = min(
            seq.num_known + seq.num_drafts + seq.num_in_flight - seq.num_computed,
            draft.threshold,
            draft.token_budget,
            draft.token_rows - num_rows,
            self.config.max_model_len - 1 - seq.num_computed,
        )
        if num_tokens <= 0:
            return True
        num_held = len(seq.table)
        while self._kv.grow(seq, num_tokens) is AllocStatus.LATER:
            victim = self._choose_victim() if self._victims is None else self._own_victim(self._victims, seq)
            self._preempt(victim, draft)
            if victim is seq:
                return self.config.goes_on_after_self_preemption
        num_known = seq.num_known + seq.num_in_flight
        num_drafts = max(seq.num_computed + num_tokens - num_known, 0)
        seq.num_drafts = 0
        draft.has_prompt |= seq.is_in_prompt
        draft.add(_row(seq, num_tokens, num_drafts, seq.table[num_held:], ScheduleKind.RUNNING))
        return True

    def _own_victim(self, victims: VictimChoice, needy: Sequence) -> Sequence:
        chooser: Any = victims  # whatever it says is looked at before it is believed
        victim: Any = chooser.choose(tuple(self.running), needy)
        if victim not in self.running:
            raise ValueError(f"{type(victims).__name__} chose {victim!r}, which does not run")
        chosen: Sequence = victim
        return chosen

    def _choose_victim(self) -> Sequence:
        if self.config.policy is PolicyKind.PRIORITY:
            return max(self.running, key=urgency)
        return next(reversed(self.running))

    def _preempt(self, victim: Sequence, draft: StepDraft) -> None:
        """Take everything from a running sequence; it will recompute prompt and output alike."""
        draft.undo(victim)
        self._queues.leave_running(victim, draft.step)
        self._kv.free(victim)
        victim.num_lost_tokens = victim.num_computed
        victim.num_computed = 0
        victim.num_drafts = 0
        victim.status = SequenceStatus.PREEMPTED
        victim.preemptions.append((draft.step, None))
        self.waiting.push_preempted(victim)
        draft.preempted.append(victim)

    # Waiting sequences ----------------------------------------------------------------------------

    def _schedule_waiting(self, draft: StepDraft, now_ns: int) -> bool:
        """Let sequences in; False if the head may fit in a later step though nobody has left by then."""
        waiting, running = self.waiting, self.running
        gate = self._gate
        if not gate.is_continuous and not running:
            gate.open(waiting, now_ns)
        num_seats = self.config.max_num_seqs - len(running)
        num_admitted = 0
        is_blocked_for_good = True
        while waiting and num_admitted < num_seats and draft.token_budget > 0:
            seq = waiting.head()
            if not gate.may_join(seq):
                break
            hit = self._kv.find_hit(seq)
            host_hit = self._kv.find_host_hit(seq, len(hit)) if self._kv.offloads else ()
            if not self._schedule_one_waiting(seq, hit, host_hit, draft):
                is_blocked_for_good = self.config.full_sequence_gate or not any(
                    map(self._kv.pool.is_free, hit)
                )
                break
            num_admitted += 1
        return is_blocked_for_good

    def _schedule_one_waiting(
        self, seq: Sequence, hit: list[int], host_hit: tuple[Hashable, ...], draft: StepDraft
    ) -> bool:
        """Let the head of the queue in with what the budgets allow; False if it does not fit."""
        config = self.config
        num_hit = (len(hit) + len(host_hit)) * self._kv.block_size
        num_tokens = seq.num_known - num_hit
        is_prompt = num_tokens > 1
        if draft.holds_prompts and is_prompt:
            return False
        num_drafts = self._num_padding_drafts(num_tokens, num_hit, draft)
        budget = min(draft.token_budget, draft.token_rows - config.num_draft_rows)
        num_tokens = min(num_tokens, draft.threshold) + num_drafts
        if num_tokens > budget:
            if num_drafts or not config.enable_chunked_prefill:
                return False
            num_tokens = budget
        if num_tokens <= 0:
            return False
        watermark_blocks = self._watermark_blocks if self.running else 0
        admission = Admission(num_tokens, watermark_blocks, config.full_sequence_gate, host_hit)
        if self._kv.admit(seq, hit, admission) is AllocStatus.LATER:
            return False
        self._enter_running(seq, num_hit, draft, num_tokens, num_drafts)
        draft.has_prompt |= is_prompt
        return True

    def _enter_running(
        self, seq: Sequence, num_hit: int, draft: StepDraft, num_tokens: int, num_drafts: int
    ) -> None:
        self.waiting.pop_head()
        kind = ScheduleKind.NEW
        if seq.status is SequenceStatus.PREEMPTED:
            kind = ScheduleKind.RESUMED
            seq.preemptions[-1] = (seq.preemptions[-1][0], draft.step)
            self.num_recomputed_tokens += max(seq.num_lost_tokens - num_hit, 0)
        else:
            seq.first_scheduled_step = draft.step
            seq.num_prefix_hit_tokens = num_hit
        seq.status = SequenceStatus.RUNNING
        seq.num_computed = num_hit
        self._num_admissions += 1
        seq.order = self._num_admissions
        self.running[seq] = None
        self._singles[seq] = None
        draft.add(_row(seq, num_tokens, num_drafts, seq.table[:], kind))

    def _num_padding_drafts(self, num_tokens: int, num_hit: int, draft: StepDraft) -> int:
        """Drafts (all to be rejected) that make an admission of one token look like the decodes beside it."""
        config = self.config
        if not (config.num_speculative_tokens and config.pad_single_token_admissions and num_tokens == 1):
            return 0
        if num_hit + 1 + config.num_speculative_tokens >= config.max_model_len:
            return 0
        ran = [row for row in draft.rows if row.kind is ScheduleKind.RUNNING]
        if any(row.seq.is_in_prompt for row in ran):
            return 0
        return config.num_speculative_tokens if ran or num_hit else 0

    def check_invariants(self, step: int) -> None:
        """The running list, the steady batch and the singles must agree, and the pool with their tables."""
        self._kv.check_invariants(self.running)
        self._queues.check_invariants(step)
        assert len(self.running) <= self.config.max_num_seqs, "more sequences run than there are seats"


def _ends_in_flight(seq: Sequence, num_tokens: int) -> bool:
    """With asynchronous scheduling: whether the step under way is sure to bring it to `num_tokens` tokens."""
    return bool(seq.num_in_flight) and seq.num_computed + 2 - seq.num_in_flight >= num_tokens


def _counts(seq: Sequence) -> tuple[int, int, int]:
    return seq.num_known, seq.num_in_flight, seq.num_drafts


def _row(
    seq: Sequence, num_tokens: int, num_drafts: int, blocks: list[int], kind: ScheduleKind
) -> ScheduledSequence:
    num_known = seq.num_known + seq.num_in_flight
    yields_token = seq.num_computed + num_tokens - num_drafts == num_known
    return ScheduledSequence(seq, num_tokens, seq.num_computed, blocks, num_drafts, kind, yields_token)
