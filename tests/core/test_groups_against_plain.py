"""The paper's scheduler in the core against its rules written plainly, beams and longest sequences too."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from sim.core.engine import EngineConfig, EngineCore, SubmitStatus
from sim.core.group import GroupSchedulerConfig, PreemptionMode
from sim.core.kv_cache import CacheConfig
from sim.core.request import Request, RequestId, Sequence
from sim.core.step import BeamFork, StepPlan, StepResult
from tests.core.plain_group_scheduler import PlainGroupScheduler, PlainSample
from tests.strategies import examples

MAX_MODEL_LEN = 24


@dataclass(frozen=True)
class Asked:
    """A request to come; `lengths` are those of its samples, or all the same for a search."""

    step: int
    prompt_tokens: int
    lengths: tuple[int, ...]
    is_search: bool
    abort_after: int | None

    def request(self, number: int) -> Request:
        width = len(self.lengths)
        return Request(
            number,
            self.step,
            self.prompt_tokens,
            max(self.lengths),
            width,
            sample_tokens=() if self.is_search else self.lengths,
            beam_width=width if self.is_search else 0,
        )


asked = st.builds(
    Asked,
    step=st.integers(0, 12),
    prompt_tokens=st.integers(1, MAX_MODEL_LEN),
    lengths=st.lists(st.integers(1, 26), min_size=1, max_size=4).map(tuple),
    is_search=st.booleans(),
    abort_after=st.none() | st.none() | st.integers(0, 12),
)


@st.composite
def configs(draw: st.DrawFn, /) -> tuple[GroupSchedulerConfig, CacheConfig]:
    block_size = draw(st.sampled_from([1, 2, 4]))
    num_blocks = 30 // block_size + draw(st.sampled_from([0, 2, 6, 20, 60]))
    cache = CacheConfig(num_blocks, block_size, enable_prefix_caching=False, has_null_block=False)
    rules = GroupSchedulerConfig(
        MAX_MODEL_LEN,
        max_num_seqs=draw(st.integers(4, 12)),
        max_num_batched_tokens=draw(st.sampled_from([24, 40, 200])),
        max_paddings=draw(st.sampled_from([0, 5, 100])),
        watermark_fraction=draw(st.sampled_from([0.0, 0.01, 0.1])),
        num_host_blocks=draw(st.sampled_from([0, 5, 60])),
        preemption=draw(
            st.sampled_from([PreemptionMode.BY_WIDTH, PreemptionMode.SWAP, PreemptionMode.RECOMPUTE])
        ),
    )
    return rules, cache


@given(
    config=configs(),
    workload=st.integers(1, 8).flatmap(lambda size: st.lists(asked, min_size=size, max_size=size)),
    seed=st.integers(0, 99),
)
@examples(150)
def test_the_core_decides_as_the_plain_rules_do(
    config: tuple[GroupSchedulerConfig, CacheConfig], workload: list[Asked], seed: int
) -> None:
    rules, cache = config
    core, plain = EngineCore(EngineConfig(cache, rules)), PlainGroupScheduler(rules, cache)
    stream = random.Random(seed)
    last = max(one.step + (one.abort_after or 0) for one in workload)
    step = 0
    while step <= last or core.has_unfinished:
        _meet(core, plain, workload, step)
        plan = core.begin_step(step)
        rows, preempted = plain.schedule()
        _same_plan(plan, plain, rows, preempted)
        if plan is not None:
            beams = _forks(plan, stream)
            told = {
                int(request_id): [(int(parent.seq_id), int(child.seq_id)) for parent, child in forks]
                for request_id, forks in beams.items()
            }
            ended = core.finish_step(plan, StepResult([1], beams=beams)).finished
            assert [seq.seq_id for seq in ended] == plain.settle(rows, told)
        _same_state(core, plain)
        step += 1
    assert core.num_used_blocks == 0


def _meet(core: EngineCore, plain: PlainGroupScheduler, workload: list[Asked], step: int) -> None:
    for number, one in enumerate(workload):
        if one.step == step:
            if core.submit(one.request(number)) is SubmitStatus.REJECTED:
                plain.num_seqs += len(one.lengths)
            else:
                plain.submit(one.request(number))
    for number, one in enumerate(workload):
        if one.abort_after is not None and one.step + one.abort_after == step:
            assert sorted(seq.seq_id for seq in core.abort(number)) == plain.abort(number)


def _forks(plan: StepPlan, stream: random.Random) -> dict[RequestId, tuple[BeamFork, ...]]:
    """Some searches' beams change parents: any beam may be dropped, forked, or both."""
    beams: dict[RequestId, list[Sequence]] = {}
    for row in plan.rows:
        if row.seq.request.beam_width and row.seq.num_output_tokens:
            beams.setdefault(row.seq.request.request_id, []).append(row.seq)
    return {
        request_id: tuple(
            BeamFork(stream.choice(seqs), child)
            for child in stream.sample(seqs, stream.randint(1, len(seqs)))
        )
        for request_id, seqs in beams.items()
        if stream.random() < 0.5
    }


def _same_plan(
    plan: StepPlan | None, plain: PlainGroupScheduler, rows: list[tuple[int, int, int]], preempted: list[int]
) -> None:
    if plan is None:
        assert not rows
        assert not preempted
        return
    assert [(row.seq.seq_id, row.num_tokens, row.num_computed_tokens) for row in plan.rows] == rows
    assert [seq.seq_id for seq in plan.preempted] == preempted
    assert len(plan.blocks_to_copy) == plain.num_copies
    assert len(plan.blocks_to_swap_out) == plain.num_swapped_out
    assert len(plan.blocks_to_swap_in) == plain.num_swapped_in


def _same_state(core: EngineCore, plain: PlainGroupScheduler) -> None:
    core.check_invariants()
    running = [seq for group in plain.running for seq in (*group.seqs, *group.unborn)]
    waiting = [seq for group in (*plain.swapped, *plain.waiting) for seq in (*group.seqs, *group.unborn)]
    assert [seq.seq_id for seq in core.running] == [seq.seq_id for seq in running]
    assert [seq.seq_id for seq in core.waiting] == [seq.seq_id for seq in waiting]
    assert core.num_free_blocks == plain.num_free()
    assert core.num_used_host_blocks == plain.rules.num_host_blocks - plain.num_free_on_host()
    assert _shared(core.running) == _shared(running)


def _shared(seqs: Iterable[Sequence | PlainSample]) -> list[list[int]]:
    """Who shares which blocks with whom, whatever the blocks are called."""
    place_of: dict[int, int] = {}
    return [[place_of.setdefault(block, len(place_of)) for block in seq.table] for seq in seqs]
