"""Both schedulers before the read-back oracle: whatever they plan, every sequence reads its own tokens.

A memory follows the plans: blocks move to the host, then back, then within the device, then each row's tokens
are written where its table says. Before they are written, all that the row builds on is read.
"""

from __future__ import annotations

from collections.abc import Hashable
from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from sim.core.allocator import Grant
from sim.core.engine import EngineConfig, EngineCore, PlanDetail
from sim.core.group import GroupSchedulerConfig, PreemptionMode
from sim.core.kv_cache import AllocStatus, CacheConfig
from sim.core.policy import PolicyKind
from sim.core.request import Request, Sequence
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import StepPlan, StepResult
from sim.fleet.beam_search import BeamChanges, BeamLaw
from sim.testing.memory import FakeMemory
from tests.strategies import examples

MAX_MODEL_LEN = 40


class Texts:
    """What every sequence says: prompts of a group begin alike, outputs are each sequence's own."""

    def __init__(self) -> None:
        self.tokens: dict[Sequence, list[Hashable]] = {}

    def of(self, seq: Sequence, length: int) -> list[Hashable]:
        """The first tokens of a sequence, made up as they come."""
        tokens = self.tokens.setdefault(seq, [])
        while len(tokens) < length:
            tokens.append(self._next(seq, len(tokens)))
        return tokens[:length]

    @staticmethod
    def _next(seq: Sequence, place: int) -> Hashable:
        if place < seq.num_prompt_tokens:
            group, num_shared = seq.request.request_id % 3, 9
            return ("text", group, place) if place < num_shared else ("own", seq.request.request_id, place)
        return ("said", seq.request.request_id, seq.sample, place)


@dataclass(frozen=True)
class Content:
    """Content keys that agree with the texts above."""

    request_id: int
    num_prompt_tokens: int
    block_size: int

    def keys(self, sample: int, start: int, stop: int) -> AbstractSequence[Hashable]:
        request = Request(self.request_id, 0, self.num_prompt_tokens, 1, sample + 1)
        texts, seq = Texts(), Sequence(0, request, sample, 10_000)
        tokens = texts.of(seq, stop * self.block_size)
        return [tuple(tokens[: (block + 1) * self.block_size]) for block in range(start, stop)]


class Bench:
    """An engine and a memory that follows its plans."""

    def __init__(self, engine: EngineConfig, num_host_blocks: int, beams: BeamChanges | None = None) -> None:
        self.core = EngineCore(engine, _Dear())
        self.size = engine.cache.block_size
        self.memory = FakeMemory(engine.cache.num_blocks + 1, num_host_blocks, self.size)
        self.texts = Texts()
        self.beams = beams

    def step(self) -> bool:
        plan = self.core.begin_step(0)
        if plan is None:
            return False
        self.memory.carry_out(
            Grant(
                AllocStatus.OK,
                to_host=plan.blocks_to_swap_out,
                from_host=plan.blocks_to_swap_in,
                copies=plan.blocks_to_copy,
            )
        )
        for row in plan.rows:
            self._compute(row.seq, row.num_computed_tokens, row.num_tokens)
        self._settle(plan)
        return True

    def _compute(self, seq: Sequence, start: int, count: int) -> None:
        table = seq.table
        known = self.texts.of(seq, start)
        place = self.memory.first_mismatch(table, known)
        assert place is None, f"token {place} of {seq!r} is not in its slot"
        self.memory.write(table, self.texts.of(seq, start + count), start)

    def _settle(self, plan: StepPlan) -> None:
        forks = self.beams.forks(plan) if self.beams is not None else {}
        for pairs in forks.values():
            for parent, child in pairs:
                self.texts.tokens[child] = self.texts.of(parent, parent.num_known)
        firsts = {row.seq for row in plan.rows if row.yields_token}
        self.core.finish_step(plan, StepResult([1] * plan.horizon, beams=forks))
        for seq in self.core.running:
            if seq not in firsts and seq not in self.texts.tokens and seq.num_computed:
                first = next(row.seq for row in plan.rows if row.seq.request is seq.request)
                self.texts.tokens[seq] = self.texts.of(first, seq.num_computed)


class _Dear:
    """A swap costs as much as recomputing eight tokens for each block."""

    def swap_ns(self, num_blocks: int) -> int:
        return 8 * num_blocks

    def recompute_ns(self, num_tokens: int) -> int:
        return num_tokens


requests = st.lists(
    st.tuples(st.integers(1, 18), st.integers(1, 16), st.integers(1, 3), st.integers(0, 30), st.booleans()),
    min_size=1,
    max_size=10,
)


Asked = tuple[int, int, int, int, bool]
"""Prompt, output, width, arrival step, whether it is aborted."""


def drive(bench: Bench, asked: list[Asked], *, searches: bool, caches: bool) -> None:
    """Requests arrive step by step, some are aborted, until all have ended."""
    arrivals = sorted(enumerate(asked), key=lambda item: item[1][3])
    step = 0
    while arrivals or bench.core.has_unfinished:
        while arrivals and arrivals[0][1][3] <= step:
            number, (prompt, output, width, _, _) = arrivals.pop(0)
            content = Content(number, prompt, bench.size) if caches else None
            beam_width = width if searches else 0
            bench.core.submit(
                Request(number, step, prompt, output, width, number % 2, content, beam_width=beam_width)
            )
        for number, (_, _, _, arrival, is_aborted) in enumerate(asked):
            if is_aborted and step == arrival + 6:
                bench.core.abort(number)
        bench.step()
        bench.core.check_invariants()
        step += 1
        assert step < 3000, "it stands still"
    assert (bench.core.num_used_blocks, bench.core.num_used_host_blocks) == (0, 0)


@examples(150)
@given(
    requests,
    st.sampled_from([1, 2, 4]),
    st.integers(0, 12),
    st.sampled_from([0, 30]),
    st.sampled_from(PreemptionMode),
    st.booleans(),
)
def test_the_paper_s_scheduler_reads_back(
    asked: list[Asked],
    block_size: int,
    num_more: int,
    num_host: int,
    mode: PreemptionMode,
    searches: bool,
) -> None:
    num_blocks = 60 // block_size + num_more
    cache = CacheConfig(num_blocks, block_size, enable_prefix_caching=False, has_null_block=False)
    scheduler = GroupSchedulerConfig(MAX_MODEL_LEN, 12, num_host_blocks=num_host, preemption=mode)
    beams = BeamChanges(BeamLaw(0.4)) if searches else None
    drive(Bench(EngineConfig(cache, scheduler), num_host, beams), asked, searches=searches, caches=False)


@examples(150)
@given(
    requests,
    st.sampled_from([1, 2, 4]),
    st.integers(0, 12),
    st.booleans(),
    st.sampled_from([0, 6, 40]),
    st.integers(6, 40),
)
def test_v1_s_scheduler_reads_back(
    asked: list[Asked],
    block_size: int,
    num_more: int,
    caches: bool,
    num_offload: int,
    max_num_batched_tokens: int,
) -> None:
    num_blocks = MAX_MODEL_LEN // block_size + num_more
    num_offload = num_offload if caches else 0
    cache = CacheConfig(num_blocks, block_size, enable_prefix_caching=caches, num_offload_blocks=num_offload)
    scheduler = SchedulerConfig(
        MAX_MODEL_LEN, 8, max_num_batched_tokens=max_num_batched_tokens, policy=PolicyKind.FCFS
    )
    engine = EngineConfig(cache, scheduler, max_horizon=1, detail=PlanDetail.SEQUENCES)
    drive(Bench(engine, num_offload), asked, searches=False, caches=caches)
