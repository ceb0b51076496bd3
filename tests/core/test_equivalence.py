"""Three ways of stepping the core give the same run: sequence by sequence, steady batch, full horizon.

One step takes one nanosecond here, so requests arrive and are aborted in the middle of horizons. A
submission cuts a plan only if the core says that it may join the next step: that tests that all others
truly cannot change the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sim.core.block_pool import FreeOrder
from sim.core.engine import EngineConfig, EngineCore, PlanDetail, SubmitStatus
from sim.core.kv_cache import CacheConfig
from sim.core.policy import Batching, Continuous, Dynamic, PolicyKind, Static
from sim.core.request import Request
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import StepPlan, StepResult
from tests.strategies import examples

MAX_MODEL_LEN = 60
BATCHINGS: list[Batching] = [Continuous(), Continuous(), Static(3), Dynamic(3, 7)]


@dataclass(frozen=True)
class Asked:
    """A request to come."""

    arrival_ns: int
    prompt_tokens: int
    output_tokens: int
    num_samples: int
    priority: int
    group: int
    abort_after_ns: int | None


@dataclass(frozen=True)
class Content:
    """Requests of one group share up to three blocks of their prompts; output is each sample's own."""

    number: int
    group: int
    num_shared_blocks: int

    def keys(self, sample: int, start: int, stop: int) -> Sequence[Any]:
        return [
            ("shared", self.group, block) if block < self.num_shared_blocks else (self.number, sample, block)
            for block in range(start, stop)
        ]


asked = st.builds(
    Asked,
    arrival_ns=st.integers(0, 30) | st.integers(0, 80),
    prompt_tokens=st.integers(1, 30),
    output_tokens=st.integers(2, 40),
    num_samples=st.sampled_from([1, 1, 1, 2, 3]),
    priority=st.integers(0, 2),
    group=st.integers(0, 2),
    abort_after_ns=st.none() | st.integers(0, 40),
)


workloads = st.integers(1, 25).flatmap(lambda count: st.lists(asked, min_size=count, max_size=count))


@st.composite
def engine_configs(draw: st.DrawFn) -> EngineConfig:
    block_size = draw(st.sampled_from([1, 2, 4, 8]))
    caches_prefixes = draw(st.booleans())
    cache = CacheConfig(
        num_blocks=draw(st.integers(4, 30) | st.integers(40 // block_size, 160 // block_size)),
        block_size=block_size,
        enable_prefix_caching=caches_prefixes,
        free_order=draw(st.sampled_from(FreeOrder)),
        has_null_block=draw(st.booleans()),
        num_offload_blocks=draw(st.sampled_from([0, 0, 4, 30])) if caches_prefixes else 0,
    )
    is_chunked = draw(st.booleans())
    scheduler = SchedulerConfig(
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=draw(st.integers(1, 10)),
        max_num_batched_tokens=draw(st.integers(4, 80)) if is_chunked else draw(st.integers(60, 120)),
        max_num_scheduled_tokens=draw(st.none() | st.integers(2, 20)) if is_chunked else None,
        enable_chunked_prefill=is_chunked,
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 5, 12])),
        exempt_lone_prompt=draw(st.booleans()),
        policy=draw(st.sampled_from(PolicyKind)),
        watermark_fraction=draw(st.sampled_from([0.0, 0.0, 0.2])),
        async_scheduling=draw(st.sampled_from([False, False, False, True])),
        num_lookahead_slots=draw(st.sampled_from([0, 0, 0, 3])),
        full_sequence_gate=draw(st.booleans()),
        batching=draw(st.sampled_from(BATCHINGS)),
    )
    return EngineConfig(cache, scheduler)


class Stepper:
    """Drives a core through a workload and writes down every decision."""

    def __init__(self, config: EngineConfig, workload: list[Asked]) -> None:
        self.core = EngineCore(config)
        self.now_ns = 0
        self.steps: list[Any] = []
        self.after_plans: dict[int, Any] = {}
        self.ended: list[Any] = []
        self._is_cut = False
        self._live: set[int] = set()
        self._events = sorted(
            [(one.arrival_ns, 0, number, one) for number, one in enumerate(workload)]
            + [
                (one.arrival_ns + one.abort_after_ns, 1, number, one)
                for number, one in enumerate(workload)
                if one.abort_after_ns is not None
            ],
            key=lambda event: event[:3],
        )

    def run(self) -> Stepper:
        while self._events or self.core.has_unfinished:
            self._meet_events()
            self.core.check_invariants()
            plan = self.core.begin_step(self.now_ns) if not self.core.is_circling else None
            if plan is None and self.core.is_circling and not self._events:
                return self
            if plan is None:
                if self._events or self.core.has_unfinished:
                    self.now_ns = self._next_instant()
                continue
            num_steps = 1
            while num_steps < plan.horizon and not self._meets_cut(self.now_ns + num_steps):
                num_steps += 1
            self._finish(plan, num_steps)
        self.core.check_invariants()
        assert self.core.num_used_blocks == 0
        return self

    def _next_instant(self) -> int:
        instants = [self._events[0][0]] if self._events else []
        if self.core.next_wake_ns is not None:
            instants.append(self.core.next_wake_ns)
        later = [instant for instant in instants if instant > self.now_ns]
        assert later, "the core stands still"
        return min(later)

    def _meet_events(self) -> None:
        while self._events and self._events[0][0] <= self.now_ns:
            _, is_abort, number, one = self._events.pop(0)
            if is_abort:
                self.ended += [self._story(seq) for seq in self.core.abort(number)]
            else:
                self.core.submit(self._request(number, one))

    def _meets_cut(self, instant_ns: int) -> bool:
        """Whether what comes at this instant, the end of a step, ends the plan there."""
        is_cut = False
        while self._events and self._events[0][0] <= instant_ns:
            _, is_abort, number, one = self._events[0]
            if is_abort:
                return True
            self._events.pop(0)
            is_cut |= self.core.submit(self._request(number, one)) is SubmitStatus.NEXT_STEP
        return is_cut

    def _request(self, number: int, one: Asked) -> Request:
        num_prompt_blocks = one.prompt_tokens // self.core.config.cache.block_size
        return Request(
            number,
            one.arrival_ns,
            one.prompt_tokens,
            one.output_tokens,
            one.num_samples,
            one.priority,
            Content(number, one.group, min(num_prompt_blocks, 3)),
        )

    def _finish(self, plan: StepPlan, num_steps: int) -> None:
        outcome = self.core.finish_step(plan, StepResult(list(range(1, plan.horizon + 1))), num_steps)
        for ahead in range(num_steps):
            chunks = [(row.seq.seq_id, row.num_tokens, row.num_computed_tokens) for row in plan.chunks]
            self.steps.append(
                (
                    plan.step + ahead,
                    plan.num_decode_seqs,
                    plan.decode_context_tokens + ahead * plan.num_decode_seqs,
                    chunks,
                    [seq.seq_id for seq in plan.preempted] if ahead == 0 else [],
                    plan.num_running,
                    outcome.used_blocks[ahead],
                    outcome.filled_slots + ahead * outcome.filled_slots_per_step,
                )
            )
        self.ended += [self._story(seq) for seq in outcome.finished]
        self.now_ns += num_steps
        state = (
            self.core.free_head(50),
            self.core.num_cached_blocks,
            [seq.table[:] for seq in self.core.running],
        )
        self.after_plans[plan.step + num_steps] = state

    @staticmethod
    def _story(seq: Any) -> Any:
        return (
            seq.seq_id,
            seq.finish_reason,
            seq.finish_step,
            seq.runs,
            seq.preemptions,
            seq.num_output_tokens,
        )


def _variant(config: EngineConfig, max_horizon: int, detail: PlanDetail) -> EngineConfig:
    return EngineConfig(config.cache, config.scheduler, max_horizon, detail)


@given(config=engine_configs(), workload=workloads)
@examples(300)
def test_all_ways_of_stepping_make_the_same_decisions(config: EngineConfig, workload: list[Asked]) -> None:
    singly = Stepper(_variant(config, 1, PlanDetail.SEQUENCES), workload).run()
    steadily = Stepper(_variant(config, 1, PlanDetail.COUNTS), workload).run()
    ahead = Stepper(_variant(config, 2**31, PlanDetail.COUNTS), workload).run()
    assert steadily.steps == singly.steps
    assert ahead.steps == singly.steps
    assert steadily.ended == singly.ended
    assert ahead.ended == singly.ended
    assert steadily.after_plans == singly.after_plans
    assert ahead.after_plans.items() <= singly.after_plans.items()
    assert ahead.core.prefix_stats == steadily.core.prefix_stats == singly.core.prefix_stats


@given(config=engine_configs(), workload=workloads)
def test_every_request_ends_once_with_all_the_tokens_it_can_have(
    config: EngineConfig, workload: list[Asked]
) -> None:
    run = Stepper(config, workload).run()
    told = {seq_id: story for seq_id, *story in run.ended}
    assert len(told) == len(run.ended), "a sequence ended twice"
    first_id = 0
    order = sorted(range(len(workload)), key=lambda number: (workload[number].arrival_ns, number))
    for number in order:
        one = workload[number]
        for seq_id in range(first_id, first_id + one.num_samples):
            if seq_id not in told:
                continue  # refused at once: it can never fit
            reason, _, runs, _, num_output = told[seq_id]
            emitted = sum(num_steps * per_step for _, num_steps, per_step in runs)
            assert emitted == num_output
            if reason.value != "abort":
                assert num_output == min(one.output_tokens, MAX_MODEL_LEN - one.prompt_tokens)
        first_id += one.num_samples


@given(
    workload=workloads,
    configs=st.lists(engine_configs(), min_size=2, max_size=2),
)
def test_how_memory_is_managed_never_changes_what_a_request_gets(
    workload: list[Asked], configs: list[EngineConfig]
) -> None:
    """Against a pool and a batch in which all fit at once: the same tokens and reasons, another time."""
    workload = [replace(one, abort_after_ns=None) for one in workload]
    ample = EngineConfig(CacheConfig(5000, 4), SchedulerConfig(max_model_len=MAX_MODEL_LEN))
    got = {
        seq_id: (reason, tokens) for seq_id, reason, _, _, _, tokens in Stepper(ample, workload).run().ended
    }
    for config in configs:
        for seq_id, reason, _, _, _, tokens in Stepper(config, workload).run().ended:
            assert got[seq_id] == (reason, tokens)


def test_the_horizon_really_is_longer_than_a_step() -> None:
    config = EngineConfig(CacheConfig(50, 4), SchedulerConfig(max_model_len=MAX_MODEL_LEN))
    core = EngineCore(config)
    core.submit(Request(0, 0, 8, 30))
    plan = core.begin_step(0)
    assert plan is not None
    core.finish_step(plan, StepResult([1]))
    plan = core.begin_step(1)
    assert plan is not None
    assert plan.horizon == 29
