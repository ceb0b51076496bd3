"""Small cores, stepped by hand."""

from __future__ import annotations

from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass
from typing import Any

from sim.core.block_pool import FreeOrder
from sim.core.engine import EngineConfig, EngineCore, PlanDetail
from sim.core.kv_cache import Admission, AllocStatus, CacheConfig, KVCacheManager
from sim.core.request import Request, Sequence
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import StepOutcome, StepPlan, StepResult

MANAGER_MAX_MODEL_LEN = 64


@dataclass(frozen=True)
class Text:
    """Content by position: requests with the same text share their prefix."""

    name: str

    def keys(self, sample: int, start: int, stop: int) -> AbstractSequence[Any]:
        return [(self.name, block) for block in range(start, stop)]


def make_core(
    num_blocks: int = 20,
    block_size: int = 4,
    *,
    caching: bool = False,
    free_order: FreeOrder = FreeOrder.UNHASHED_FIRST,
    detail: PlanDetail = PlanDetail.SEQUENCES,
    max_horizon: int = 1,
    **settings: Any,
) -> EngineCore:
    cache = CacheConfig(num_blocks, block_size, enable_prefix_caching=caching, free_order=free_order)
    scheduler = SchedulerConfig(**{"max_model_len": 64, "max_num_batched_tokens": 64, **settings})
    return EngineCore(EngineConfig(cache, scheduler, max_horizon, detail))


def begin(core: EngineCore, now_ns: int = 0) -> StepPlan:
    plan = core.begin_step(now_ns)
    assert plan is not None
    return plan


def finish(core: EngineCore, plan: StepPlan, result: StepResult | None = None) -> StepOutcome:
    outcome = core.finish_step(plan, result or StepResult([1]))
    core.check_invariants()
    return outcome


def step(core: EngineCore, result: StepResult | None = None, now_ns: int = 0) -> StepPlan:
    plan = begin(core, now_ns)
    finish(core, plan, result)
    return plan


def members(plan: StepPlan) -> list[int]:
    """Requests of everyone in a plan, in scheduled order."""
    return [int(row.seq.request.request_id) for row in plan.rows]


def told(plan: StepPlan) -> list[tuple[int, int, int]]:
    """(request, tokens, computed before) of everyone in a plan."""
    return [(row.seq.request.request_id, row.num_tokens, row.num_computed_tokens) for row in plan.rows]


def preempted(plan: StepPlan) -> list[int]:
    return [int(seq.request.request_id) for seq in plan.preempted]


def in_queue(seqs: Any) -> list[int]:
    """Requests of a core's running or waiting list."""
    return [int(seq.request.request_id) for seq in seqs]


def step_until_preemption(core: EngineCore) -> StepPlan:
    for _ in range(200):
        plan = step(core)
        if plan.preempted:
            return plan
    raise AssertionError("nobody was preempted")


def drain(core: EngineCore) -> list[Sequence]:
    """Step until all have ended, and see that nothing is kept; returns who ended."""
    ended: list[Sequence] = []
    for _ in range(1000):
        if not core.has_unfinished:
            break
        ended += finish(core, begin(core)).finished
    assert_empty(core)
    return ended


def assert_empty(core: EngineCore) -> None:
    core.check_invariants()
    assert not core.has_unfinished
    assert not list(core.running)
    assert not list(core.waiting)
    assert core.num_used_blocks == 0
    assert core.num_free_blocks == core.num_blocks


def make_manager(
    num_blocks: int = 10, block_size: int = 4, *, lookahead: int = 0, **config: Any
) -> KVCacheManager:
    cache = CacheConfig(num_blocks, block_size, **config)
    return KVCacheManager(cache, max_model_len=MANAGER_MAX_MODEL_LEN, num_lookahead_slots=lookahead)


def make_sequence(number: int, num_known: int, text: str | None = None) -> Sequence:
    content = Text(text) if text is not None else None
    return Sequence(number, Request(number, number, num_known, 9, content=content), 0, MANAGER_MAX_MODEL_LEN)


def admit(kv: KVCacheManager, seq: Sequence, **limits: Any) -> AllocStatus:
    """Let a sequence in for all it knows beyond its hit, as the scheduler would."""
    hit = kv.find_hit(seq)
    status = kv.admit(seq, hit, Admission(seq.num_known - len(hit) * kv.block_size, **limits))
    if status is AllocStatus.OK:
        seq.num_computed = seq.num_known
    return status
