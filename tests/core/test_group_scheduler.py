"""The PagedAttention paper's scheduler: sharing, copy-on-write, swap, and a host that is full."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sim.core.group import GroupSchedulerConfig, PreemptionMode
from sim.core.group_scheduler import GroupScheduler
from sim.core.kv_cache import CacheConfig, KVCacheManager
from sim.core.request import FinishReason, Request, SeqId, Sequence
from sim.core.step import BeamFork, StepPlan, StepResult

BLOCK_SIZE = 4
MAX_MODEL_LEN = 64


class _BlocksAgainstTokens:
    """A swap costs as much as recomputing eight tokens for each block."""

    def swap_ns(self, num_blocks: int) -> int:
        return 8 * num_blocks

    def recompute_ns(self, num_tokens: int) -> int:
        return num_tokens


class Bench:
    """A scheduler with small pools, stepped by hand."""

    def __init__(self, num_blocks: int, num_host_blocks: int = 0, **settings: object) -> None:
        cache = CacheConfig(num_blocks, BLOCK_SIZE, enable_prefix_caching=False, has_null_block=False)
        self.kv = KVCacheManager(cache, max_model_len=MAX_MODEL_LEN)
        config = GroupSchedulerConfig(
            MAX_MODEL_LEN, watermark_fraction=0.0, num_host_blocks=num_host_blocks, **settings  # type: ignore[arg-type]
        )  # fmt: skip
        self.scheduler = GroupScheduler(config, self.kv, _BlocksAgainstTokens())
        self.ended: list[Sequence] = []
        self.num_steps = 0

    def submit(self, number: int, prompt: int, *lengths: int, beam_width: int = 0) -> list[Sequence]:
        request = Request(
            number, number, prompt, max(lengths), len(lengths), sample_tokens=lengths, beam_width=beam_width
        )
        seqs = [
            Sequence(0, request, sample, self.scheduler.config.max_known) for sample in range(len(lengths))
        ]
        self.scheduler.enqueue(request, seqs)
        return seqs

    def step(self, result: StepResult | None = None) -> StepPlan | None:
        plan = self.scheduler.schedule(self.num_steps)
        self.scheduler.check_invariants()
        if plan is not None:
            self.num_steps += 1
            self.ended += self.scheduler.settle(plan, result or StepResult([1])).finished
            self.scheduler.check_invariants()
        return plan

    def run(self) -> None:
        for _ in range(20_000):
            if self.step() is None:
                break
        scheduler = self.scheduler
        still = [*scheduler.waiting, *scheduler.running]
        assert not still, "these stand still"
        assert self.kv.pool.num_used == 0
        assert scheduler.num_free_host_blocks == scheduler.config.num_host_blocks


def test_samples_share_every_block_of_the_prompt_and_copy_only_the_last_one() -> None:
    bench = Bench(20)
    first, *others = bench.submit(0, 6, 5, 5, 5)
    bench.step()
    assert all(seq.table == first.table for seq in others)
    assert bench.kv.pool.num_used == 2
    plan = bench.step()
    assert plan is not None
    assert len(plan.blocks_to_copy) == 2, "the last holder writes in place"
    assert len({seq.table[0] for seq in (first, *others)}) == 1
    assert len({seq.table[1] for seq in (first, *others)}) == 3
    bench.run()


def test_a_prompt_that_ends_on_a_block_edge_needs_no_copy() -> None:
    bench = Bench(20)
    bench.submit(0, 8, 5, 5, 5)
    bench.step()
    plan = bench.step()
    assert plan is not None
    assert not plan.blocks_to_copy
    assert bench.kv.pool.num_used == 2 + 3


def test_a_swapped_group_moves_each_block_once_and_shares_again_when_it_is_back() -> None:
    bench = Bench(12, 12, max_num_batched_tokens=64)
    old = bench.submit(0, 16, 30)
    group = bench.submit(1, 9, 12, 12)
    swapped_out = swapped_in = None
    for _ in range(60):
        plan = bench.step()
        assert plan is not None
        if plan.blocks_to_swap_out and swapped_out is None:
            swapped_out = plan.blocks_to_swap_out
            assert len({copy.src for copy in swapped_out}) == len(swapped_out)
            assert group[0].table[:2] == group[1].table[:2], "shared on the host as on the device"
        if plan.blocks_to_swap_in:
            swapped_in = plan.blocks_to_swap_in
            break
    assert swapped_out is not None
    assert swapped_in is not None
    assert group[0].table[:2] == group[1].table[:2]
    assert group[0].table[2] != group[1].table[2]
    bench.run()
    assert {seq.num_output_tokens for seq in (*old, *group)} == {30, 12}


def test_a_full_host_pool_falls_back_to_recompute_and_counts_it() -> None:
    bench = Bench(12, 1, max_num_batched_tokens=64)
    bench.submit(0, 16, 30)
    bench.submit(1, 9, 12, 12)
    bench.run()
    assert bench.scheduler.num_swap_fallbacks > 0
    assert bench.scheduler.num_recomputed_tokens > 0
    assert len(bench.ended) == 3


def test_a_group_that_can_never_go_on_is_ended_instead_of_standing_still() -> None:
    bench = Bench(4, 8, max_num_batched_tokens=64)
    bench.submit(0, 8, 30, 30)
    bench.submit(1, 60, 2)
    bench.run()
    assert len(bench.ended) == 3


def test_a_beam_without_a_child_gives_its_blocks_up_and_takes_over_another() -> None:
    bench = Bench(20)
    first, second = bench.submit(0, 6, 6, 6, beam_width=2)
    bench.step()
    assert second.table == first.table
    bench.step()
    assert second.table != first.table
    fork = BeamFork(parent=second, child=first)
    bench.step(StepResult([1], beams={first.request.request_id: (fork,)}))
    assert first.table == second.table
    assert bench.kv.pool.num_used == 2
    plan = bench.step()
    assert plan is not None
    assert [row.seq for row in plan.rows] == [second, first], "a fork stands behind those that went on"
    bench.run()
    assert [seq.num_output_tokens for seq in (first, second)] == [6, 6]


@given(
    drawn=st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=1, max_size=12),
    prompt=st.integers(1, 9),
)
def test_whoever_is_forked_and_dropped_each_beam_goes_on_from_the_parent_that_was_drawn(
    drawn: list[list[int]], prompt: int
) -> None:
    """Each step every beam takes over from some beam, itself and dropped ones included."""
    bench = Bench(60)
    beams = bench.submit(0, prompt, *[len(drawn) + 2] * 3, beam_width=3)
    (request_id,) = {seq.request.request_id for seq in beams}
    bench.step()
    for parents in drawn:
        held = [seq.table[:] for seq in beams]
        forks = tuple(BeamFork(beams[parent], child) for parent, child in zip(parents, beams, strict=True))
        copies = _copied(bench, StepResult([1], beams={request_id: forks}), beams, held)
        for parent, child in zip(parents, beams, strict=True):
            assert child.table == copies[parent]
        assert list(bench.scheduler.running) == beams
    bench.run()


def _copied(
    bench: Bench, result: StepResult, beams: list[Sequence], held: list[list[int]]
) -> list[list[int]]:
    """Step; the tables as they were when the step computed, before beams changed parents."""
    plan = bench.scheduler.schedule(bench.num_steps)
    assert plan is not None
    tables = [seq.table[:] for seq in beams]
    assert all(table[: len(before) - 1] == before[:-1] for table, before in zip(tables, held, strict=True))
    bench.num_steps += 1
    bench.ended += bench.scheduler.settle(plan, result).finished
    bench.scheduler.check_invariants()
    return tables


def test_a_sequence_ends_when_it_is_longer_than_the_model_allows_not_as_long() -> None:
    bench = Bench(40)
    (seq,) = bench.submit(0, MAX_MODEL_LEN, 9)
    bench.run()
    assert (seq.num_output_tokens, seq.finish_reason) == (1, FinishReason.LENGTH_CAPPED)
    (seq,) = bench.submit(1, 60, 9)
    bench.run()
    assert (seq.num_known, seq.finish_reason) == (MAX_MODEL_LEN + 1, FinishReason.LENGTH_CAPPED)


def test_a_beam_that_stops_leaves_the_others_at_work() -> None:
    bench = Bench(20)
    first, second = bench.submit(0, 6, 9, 9, beam_width=2)
    first.seq_id, second.seq_id = SeqId(1), SeqId(2)
    bench.step()
    bench.step(StepResult([1], stopped=frozenset([first.seq_id])))
    assert first.finish_reason is FinishReason.STOP
    assert not first.table
    bench.run()
    assert second.num_output_tokens == 9


groups = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(1, 25), min_size=1, max_size=4)),
    min_size=1,
    max_size=8,
)


@given(groups, st.integers(8, 60), st.integers(0, 40), st.sampled_from(PreemptionMode), st.integers(4, 12))
def test_every_sequence_ends_once_and_nothing_is_kept(
    asked: list[tuple[int, list[int]]],
    num_blocks: int,
    num_host: int,
    mode: PreemptionMode,
    max_num_seqs: int,
) -> None:
    bench = Bench(num_blocks, num_host, preemption=mode, max_num_seqs=max_num_seqs, max_num_batched_tokens=64)
    seqs = [
        seq
        for number, (prompt, lengths) in enumerate(asked)
        for seq in bench.submit(number, prompt, *lengths)
    ]
    bench.run()
    assert sorted(map(id, bench.ended)) == sorted(map(id, seqs))
    ample = all(
        num_blocks >= len(lengths) * -(-(prompt + max(lengths)) // BLOCK_SIZE) + len(lengths)
        for prompt, lengths in asked
    )
    if ample:
        assert all(seq.num_known == seq.max_known for seq in seqs)


@given(st.integers(1, 40), st.integers(2, 5), st.integers(2, 20))
def test_copies_are_one_fewer_than_the_sharers_and_none_at_an_edge(
    prompt: int, count: int, length: int
) -> None:
    bench = Bench(200)
    bench.submit(0, prompt, *[length] * count)
    num_copies = 0
    while (plan := bench.step()) is not None:
        num_copies += len(plan.blocks_to_copy)
    assert num_copies == (0 if prompt % BLOCK_SIZE == 0 else count - 1)
