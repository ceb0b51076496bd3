"""The record of a run against a diary that is kept step by step and sequence by sequence, without arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sim.core.engine import EngineConfig, EngineCore, PlanDetail
from sim.core.group import VictimCost
from sim.core.request import Sequence
from sim.core.step import ScheduleKind, StepOutcome, StepPlan, StepResult
from sim.record.run_record import RunRecord
from sim.simulation import run
from tests.strategies import Case, cases, examples
from tests.v1 import v1_scheduler

Stream = tuple[int, int]


def stream_of(seq: Sequence) -> Stream:
    return seq.request.request_id, seq.sample


@dataclass
class Diary:
    """What an onlooker of the cores writes down."""

    cores: list[EngineCore] = field(default_factory=list)
    now_ns: dict[int, int] = field(default_factory=dict)
    steps: list[tuple[int, ...]] = field(default_factory=list)
    token_times_ns: dict[Stream, list[int]] = field(default_factory=lambda: defaultdict(list))
    first_scheduled_ns: dict[Stream, int] = field(default_factory=dict)
    preempted_ns: dict[Stream, int] = field(default_factory=dict)
    requeue_ns: dict[Stream, int] = field(default_factory=lambda: defaultdict(int))
    num_preemptions: dict[Stream, int] = field(default_factory=lambda: defaultdict(int))
    num_waiting: dict[int, int] = field(default_factory=dict)

    def note_begin(self, core: EngineCore, plan: StepPlan, now_ns: int) -> None:
        replica = self.cores.index(core)
        self.now_ns[replica] = now_ns
        self.num_waiting[replica] = core.num_waiting
        for row in plan.rows:
            stream = stream_of(row.seq)
            self.first_scheduled_ns.setdefault(stream, now_ns)
            if row.kind is ScheduleKind.RESUMED:
                self.requeue_ns[stream] += now_ns - self.preempted_ns.pop(stream)
        for seq in plan.preempted:
            self.preempted_ns[stream_of(seq)] = now_ns
            self.num_preemptions[stream_of(seq)] += 1

    def note_finish(self, core: EngineCore, plan: StepPlan, end_ns: int, num_used_blocks: int) -> None:
        replica = self.cores.index(core)
        start_ns = self.now_ns[replica]
        decodes = [row for row in plan.rows if row.is_decode]
        chunks = [row for row in plan.rows if not row.is_decode]
        self.steps.append(
            (
                start_ns,
                replica,
                start_ns + end_ns,
                len(decodes),
                sum(row.num_computed_tokens + 1 for row in decodes),
                len(chunks),
                sum(row.num_tokens for row in chunks),
                plan.num_running,
                self.num_waiting[replica],
                num_used_blocks,
                len(plan.preempted),
            )
        )
        for row in plan.rows:
            if row.yields_token and not row.seq.is_finished:
                self.token_times_ns[stream_of(row.seq)].append(start_ns + end_ns)


@contextmanager
def kept_diary() -> Iterator[Diary]:
    diary = Diary()
    init, begin, finish = EngineCore.__init__, EngineCore.begin_step, EngineCore.finish_step

    def noting_init(self: EngineCore, config: EngineConfig, victim_cost: VictimCost | None = None) -> None:
        init(self, config, victim_cost)
        diary.cores.append(self)

    def noting_begin(self: EngineCore, now_ns: int) -> StepPlan | None:
        plan = begin(self, now_ns)
        if plan is not None:
            diary.note_begin(self, plan, now_ns)
        return plan

    def noting_finish(
        self: EngineCore, plan: StepPlan, result: StepResult, num_steps: int = 1
    ) -> StepOutcome:
        diary.note_finish(self, plan, result.ends_ns[0], self.num_used_blocks)
        return finish(self, plan, result, num_steps)

    with (
        patch.object(EngineCore, "__init__", noting_init),
        patch.object(EngineCore, "begin_step", noting_begin),
        patch.object(EngineCore, "finish_step", noting_finish),
    ):
        yield diary


def diary_and_record(case: Case) -> tuple[Diary, RunRecord]:
    """A diary of single steps, sequence by sequence, and the record of full horizons with steady batches."""
    scheduler = replace(v1_scheduler(case.engine), async_scheduling=False)
    engine = replace(case.engine, scheduler=scheduler)
    plain = replace(engine, max_horizon=1, detail=PlanDetail.SEQUENCES)
    with kept_diary() as diary:
        run(case.workload, plain, case.cost, case.cluster)
    return diary, run(case.workload, engine, case.cost, case.cluster)


STEP_COLUMNS = (
    "start",
    "replica",
    "end",
    "num_decode_seqs",
    "decode_context_tokens",
    "num_prefill_seqs",
    "num_prefill_tokens",
    "num_running",
    "num_waiting",
    "used_blocks",
    "num_preempted",
)


def follows_at_once(case: Case) -> bool:
    """Whether a request may arrive at an instant at which a step has begun already."""
    workload = case.workload
    if workload.concurrency is not None:
        return workload.think_time_ns == 0
    return any(turn.delay_ns == 0 for turn in workload.waits_for.values())


@examples(200)
@given(case=cases())
def test_the_table_of_steps_is_what_an_onlooker_saw(case: Case) -> None:
    diary, record = diary_and_record(case)
    seen = np.array(sorted(diary.steps), dtype=np.int64).reshape(-1, len(STEP_COLUMNS))
    for place, name in enumerate(STEP_COLUMNS):
        if name == "num_waiting" and follows_at_once(case):
            continue  # Counted as waiting already; the engine saw it a moment later.
        np.testing.assert_array_equal(record.steps[name].astype(np.int64), seen[:, place], err_msg=name)


@examples(200)
@given(case=cases())
def test_token_times_are_what_an_onlooker_saw(case: Case) -> None:
    diary, record = diary_and_record(case)
    streams = [
        (request_id, sample)
        for request_id in range(len(case.workload))
        for sample in range(case.workload.num_samples)
    ]
    assert [row for row, _ in streams] == record.stream_request.tolist()
    for number, stream in enumerate(streams):
        times = record.token_times[record.token_offsets[number] : record.token_offsets[number + 1]]
        assert times.tolist() == diary.token_times_ns[stream], stream


@examples(200)
@given(case=cases())
def test_the_table_of_requests_is_what_an_onlooker_saw(case: Case) -> None:
    diary, record = diary_and_record(case)
    requests = record.requests
    ints = {name: column.astype(np.int64) for name, column in requests.items() if name != "finish_reason"}
    for row in range(record.num_requests):
        streams = [(row, sample) for sample in range(case.workload.num_samples)]
        tokens = [time_ns for stream in streams for time_ns in diary.token_times_ns[stream]]
        assert ints["output_tokens"][row] == len(tokens)
        assert ints["longest_sample_tokens"][row] == max(
            len(diary.token_times_ns[stream]) for stream in streams
        )
        assert ints["num_preemptions"][row] == sum(diary.num_preemptions[stream] for stream in streams)
        finished_ns = int(ints["finished"][row])
        # Those who gave up in the queue were in it to the end.
        left_ns = [diary.preempted_ns[stream] for stream in streams if stream in diary.preempted_ns]
        assert not left_ns or requests["finish_reason"][row] == "abort"
        requeue_ns = sum(diary.requeue_ns[stream] for stream in streams)
        assert ints["requeue"][row] == requeue_ns + sum(finished_ns - since_ns for since_ns in left_ns)
        scheduled = [diary.first_scheduled_ns[s] for s in streams if s in diary.first_scheduled_ns]
        if scheduled:
            assert ints["first_scheduled"][row] == min(scheduled)
        else:
            assert np.isnat(requests["first_scheduled"][row])
        if tokens:
            assert (ints["first_token"][row], ints["last_token"][row]) == (min(tokens), max(tokens))
            assert finished_ns >= max(tokens)
        else:
            assert np.isnat(requests["first_token"][row])
            assert np.isnat(requests["last_token"][row])


@examples(100)
@given(case=cases())
def test_counters_add_up_to_the_tables(case: Case) -> None:
    record = run(case.workload, case.engine, case.cost, case.cluster)
    counters, requests, steps = record.counters, record.requests, record.steps
    assert counters["num_steps"] == record.num_steps
    assert counters["num_plans"] <= counters["num_steps"]
    assert counters["preemptions"] == requests["num_preemptions"].sum() == steps["num_preempted"].sum()
    assert counters["rejected"] == (requests["finish_reason"] == "rejected").sum()
    assert counters["aborted"] == (requests["finish_reason"] == "abort").sum()
    if case.engine.cache.enable_prefix_caching:
        assert counters["prefix_hits_tokens"] == requests["prefix_hit_tokens"].sum()
    if not counters["preemptions"]:
        assert counters["recomputed_tokens"] == 0


@examples(50)
@given(case=cases(), tokens_at_once=st.integers(1, 20))
def test_token_times_do_not_depend_on_how_many_are_expanded_at_once(case: Case, tokens_at_once: int) -> None:
    at_once = run(case.workload, case.engine, case.cost, case.cluster)
    with patch("sim.record.builder._TOKENS_AT_ONCE", tokens_at_once):
        in_parts = run(case.workload, case.engine, case.cost, case.cluster)
    np.testing.assert_array_equal(at_once.token_times, in_parts.token_times)
