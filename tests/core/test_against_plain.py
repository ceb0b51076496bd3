"""The core against the same rules written plainly, one sequence and one step at a time."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.core.block_pool import FreeOrder
from sim.core.engine import EngineConfig, EngineCore, PlanDetail, SubmitStatus
from sim.core.kv_cache import CacheConfig
from sim.core.policy import PolicyKind
from sim.core.request import Request, SeqId
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import StepPlan, StepResult
from tests.core.plain_scheduler import PlainScheduler, Row
from tests.strategies import examples

MAX_MODEL_LEN = 32
MANY = 10**6


@dataclass(frozen=True)
class Content:
    """Requests share up to four blocks of their prompts; what comes after is each sample's own."""

    number: int
    num_shared_blocks: int

    def keys(self, sample: int, start: int, stop: int) -> AbstractSequence[Any]:
        return [
            ("shared", block) if block < self.num_shared_blocks else (self.number, sample, block)
            for block in range(start, stop)
        ]


@dataclass(frozen=True)
class Asked:
    """A request to come."""

    step: int
    prompt_tokens: int
    output_tokens: int
    num_samples: int
    priority: int
    num_shared_blocks: int
    abort_after: int | None


asked = st.builds(
    Asked,
    step=st.integers(0, 15),
    prompt_tokens=st.integers(1, 24),
    output_tokens=st.integers(1, 30),
    num_samples=st.sampled_from([1, 1, 1, 2, 3, 11]),
    priority=st.sampled_from([0, 0, 0, 1]),
    num_shared_blocks=st.integers(0, 4),
    abort_after=st.none() | st.none() | st.integers(0, 12),
)
workloads = st.integers(1, 8).flatmap(lambda count: st.lists(asked, min_size=count, max_size=count))


@st.composite
def configs(draw: st.DrawFn, /, **fixed: Any) -> EngineConfig:
    block_size = draw(st.sampled_from([1, 2, 4]))
    num_drafts = fixed.get("num_speculative_tokens", draw(st.sampled_from([0, 0, 0, 1, 3])))
    drafter = draw(st.sampled_from(["n-gram", "draft model", "eagle"])) if num_drafts else ""
    is_async = fixed.get("async_scheduling", draw(st.sampled_from([False, False, True])))
    is_0_33 = draw(st.booleans())
    cache = CacheConfig(
        num_blocks=MAX_MODEL_LEN // block_size + draw(st.sampled_from([0, 0, 1, 3, 12, 40])),
        block_size=block_size,
        enable_prefix_caching=fixed.get("caching", draw(st.booleans())),
        free_order=draw(st.sampled_from(FreeOrder)),
        has_null_block=draw(st.booleans()),
        drops_last_hit=drafter == "eagle" and not is_0_33,
        num_key_lookahead_tokens=int(drafter == "eagle" and is_0_33),
    )
    threshold = draw(st.sampled_from([0, 0, 0, 2, 5]))
    scheduler = SchedulerConfig(
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=draw(st.integers(1, 8)),
        max_num_batched_tokens=draw(st.sampled_from([1, 3, 6, 16, 64])),
        max_num_scheduled_tokens=draw(st.none() | st.sampled_from([1, 2, 5])),
        long_prefill_token_threshold=threshold if threshold > num_drafts else 0,
        exempt_lone_prompt=draw(st.booleans()),
        policy=fixed.get("policy", draw(st.sampled_from(PolicyKind))),
        watermark_fraction=draw(st.sampled_from([0.0, 0.0, 0.1])),
        full_sequence_gate=draw(st.booleans()),
        async_scheduling=is_async,
        num_speculative_tokens=num_drafts,
        num_lookahead_slots=num_drafts if drafter in ("draft model", "eagle") else 0,
        num_draft_rows=int(drafter == "draft model"),
        pad_single_token_admissions=draw(st.booleans()),
        registers_at_update=is_0_33,
        goes_on_after_self_preemption=is_0_33,
        may_cut_drafts=True,
    )
    return EngineConfig(cache, scheduler)


class Pair:
    """Steps both through one workload and compares all they decide."""

    def __init__(self, config: EngineConfig, workload: list[Asked], seed: int) -> None:
        assert isinstance(config.scheduler, SchedulerConfig)
        self.core, self.plain = EngineCore(config), PlainScheduler(config)
        self._config = config
        self._workload = workload
        self._random = random.Random(seed)
        self._under_way: deque[tuple[StepPlan | None, list[Row]]] = deque()
        self._is_async = config.scheduler.async_scheduling
        self.steps_in_plans: list[int] = []

    def run(self) -> None:
        step, last = 0, max(one.step + (one.abort_after or 0) for one in self._workload)
        while step <= last or self.core.has_unfinished:
            self._meet(step)
            if self.core.is_circling and step > last:
                self._stays_caught()
                return
            plan = self.core.begin_step(step)
            rows = self._compare(plan)
            num_steps = 1
            if plan is not None and plan.horizon > 1:
                num_steps = min(plan.horizon, self._next_event(step) - step)
            self.steps_in_plans.append(num_steps)
            self._under_way.append((plan, rows))
            if not self._is_async or len(self._under_way) > 1 or plan is None:
                self._finish(num_steps)
            self._same_state()
            if plan is None and step > last and not self._under_way:
                return
            step += num_steps
        while self._under_way:
            self._finish(1)
        self._same_state()

    def _next_event(self, step: int) -> int:
        events = [one.step for one in self._workload]
        events += [one.step + one.abort_after for one in self._workload if one.abort_after is not None]
        return min((event for event in events if event > step), default=MANY)

    def _meet(self, step: int) -> None:
        for number, one in enumerate(self._workload):
            if one.step == step:
                content = Content(number, min(one.num_shared_blocks, one.prompt_tokens // 4))
                made = [
                    Request(
                        number,
                        step,
                        one.prompt_tokens,
                        one.output_tokens,
                        one.num_samples,
                        one.priority,
                        content,
                    )
                    for _ in range(2)
                ]
                if self.core.submit(made[0]) is SubmitStatus.REJECTED:
                    self.plain.skip_ids(made[1])
                else:
                    self.plain.submit(made[1])
        for number, one in enumerate(self._workload):
            if one.abort_after is not None and one.step + one.abort_after == step:
                assert [seq.seq_id for seq in self.core.abort(number)] == self.plain.abort(number)

    def _compare(self, plan: StepPlan | None) -> list[Row]:
        """What both plan for the next step."""
        rows, preempted = self.plain.schedule()
        if plan is None:
            assert not rows
            assert not preempted
            return rows
        assert [seq.seq_id for seq in plan.preempted] == preempted
        told = [(row.seq.seq_id, row.kind, row.num_tokens, row.num_computed, row.num_drafts) for row in rows]
        assert [
            (row.seq.seq_id, row.kind.value, row.num_tokens, row.num_computed_tokens, row.num_draft_tokens)
            for row in plan.rows
        ] == told[plan.num_steady_seqs :]
        assert all((kind, count) == ("running", 1) for _, kind, count, *_ in told[: plan.num_steady_seqs])
        decodes = [row for row in rows if row.yields and row.num_tokens == 1]
        assert plan.num_decode_seqs == len(decodes)
        assert plan.decode_context_tokens == sum(row.num_computed + 1 for row in decodes)
        assert self.core.num_used_blocks == len(self.plain.holders)
        return rows

    def _finish(self, num_steps: int) -> None:
        plan, rows = self._under_way.popleft()
        accepted, proposed = self._drawn(rows)
        ended = self.plain.settle(rows, accepted, proposed)
        for _ in range(num_steps - 1):
            assert not ended
            rows, preempted = self.plain.schedule()
            assert not preempted
            assert len(rows) == len(decoded(rows))
            ended = self.plain.settle(rows, {}, {})
        if plan is None:
            return
        result = StepResult(
            [1],
            num_accepted={SeqId(seq_id): count for seq_id, count in accepted.items()},
            num_drafts={SeqId(seq_id): count for seq_id, count in proposed.items()},
        )
        outcome = self.core.finish_step(plan, result, num_steps)
        assert [seq.seq_id for seq in outcome.finished] == ended

    def _drawn(self, rows: list[Row]) -> tuple[dict[int, int], dict[int, int]]:
        """How many drafts are kept, none where they only pad, and how many are proposed next."""
        assert isinstance(self._config.scheduler, SchedulerConfig)
        most = self._config.scheduler.num_speculative_tokens
        accepted = {
            row.seq.seq_id: self._random.randint(0, row.num_drafts) if row.kind == "running" else 0
            for row in rows
            if row.num_drafts
        }
        return accepted, {
            row.seq.seq_id: self._random.randint(0, most) for row in rows if row.yields and most
        }

    def _same_state(self) -> None:
        core, plain = self.core, self.plain
        if not self._under_way:
            core.check_invariants()
        assert [seq.seq_id for seq in core.running] == [seq.seq_id for seq in plain.running]
        assert [seq.seq_id for seq in core.waiting] == [seq.seq_id for seq in plain.queue()]
        assert [seq.table for seq in core.running] == [seq.table for seq in plain.running]
        assert core.free_head(MANY) == plain.free
        assert core.num_cached_blocks == len(plain.content)

    def _stays_caught(self) -> None:
        """It goes in circles: however often the plain one is stepped on, nobody gets a token."""
        known = [(seq.seq_id, seq.known) for seq in (*self.plain.running, *self.plain.queue())]
        for _ in range(60):
            rows, _ = self.plain.schedule()
            assert not any(row.yields for row in rows)
        assert sorted(known) == sorted(
            (seq.seq_id, seq.known) for seq in (*self.plain.running, *self.plain.queue())
        )


def decoded(rows: list[Row]) -> list[Row]:
    return [row for row in rows if (row.kind, row.num_tokens, row.yields) == ("running", 1, True)]


CLASSES: dict[str, dict[str, Any]] = {
    "anything": {},
    "asynchronous, with prefix caching": {
        "async_scheduling": True,
        "num_speculative_tokens": 0,
        "caching": True,
    },
    "asynchronous, with drafts": {"async_scheduling": True, "num_speculative_tokens": 3},
    "by priority, with samples that are equals": {"policy": PolicyKind.PRIORITY, "num_speculative_tokens": 0},
    "with drafts, some beyond the budget, and EAGLE's dropped hit": {"num_speculative_tokens": 3},
}


@pytest.mark.parametrize("detail", PlanDetail)
@pytest.mark.parametrize("kind", CLASSES)
def test_the_core_decides_as_the_plain_rules_do(kind: str, detail: PlanDetail) -> None:
    @given(config=configs(**CLASSES[kind]), workload=workloads, seed=st.integers(0, 99))
    @examples(60)
    def holds(config: EngineConfig, workload: list[Asked], seed: int) -> None:
        horizon = 1 if detail is PlanDetail.SEQUENCES else MANY
        Pair(replace(config, detail=detail, max_horizon=horizon), workload, seed).run()

    holds()
