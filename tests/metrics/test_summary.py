"""Metrics against numbers worked out by hand, and properties that hold for any record."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.metrics.definitions import LATENCIES, SCALARS
from sim.metrics.keys import PERCENTILES, definition_of, percentile_word, statistic_key
from sim.metrics.summary import Identity, Slo, Summary, summarize
from sim.record.run_record import RunRecord
from tests.records import MS, Served, StepRow, make_record, toy_run

WHOSE = Identity("by-hand", "llama-3-8b", 0)

BY_HAND = make_record(
    [
        Served(0, 0, ((100, 150, 210),), prompt_tokens=7),
        Served(50, 100, ((210,),), prompt_tokens=5, prefix_hit_tokens=4),
        Served(60, 210, ((300, 320, 320, 1420),), prompt_tokens=9, requeue_ms=30, num_preemptions=2),
        Served(70, None, (), prompt_tokens=1000, reason="rejected", finished_ms=70),
        Served(80, 210, ((300, 320),), prompt_tokens=3, reason="abort", finished_ms=330),
    ],
    [
        StepRow(0, 100, 0, 1, 7, num_running=1, num_waiting=0, used_blocks=2, filled_slots=7),
        StepRow(100, 300, 1, 1, 5, num_running=2, num_waiting=2, used_blocks=5, filled_slots=14),
        StepRow(400, 1400, 3, 0, 0, num_running=3, num_waiting=0, used_blocks=8, filled_slots=20),
    ],
    num_blocks=10,
    counters={
        "prefix_queries_tokens": 21,
        "prefix_hits_tokens": 7,
        "preemptions": 2,
        "recomputed_tokens": 12,
        "blocks_allocated": 9,
    },
)


DRAFTED = make_record(
    [Served(0, 0, ((100, 150, 150, 210),), prompt_tokens=7)],
    [StepRow(0, 100, 0, 1, 7), StepRow(100, 300, num_prefill_seqs=1, num_prefill_tokens=3, drafting_ms=50)],
    counters={
        "draft_runs": 2,
        "drafted_tokens": 4,
        "accepted_tokens": 1,
        "drafted_at_1": 2,
        "accepted_at_1": 1,
        "drafted_at_2": 2,
        "accepted_at_2": 0,
    },
)


def numbers(record: RunRecord, slo: Slo | None = None) -> dict[str, int | float | None]:
    return dict(summarize(record, slo or Slo(), WHOSE).values)


def test_counts_leave_out_requests_that_failed() -> None:
    values = numbers(BY_HAND)
    assert (values["completed"], values["failed"]) == (3, 2)
    assert (values["sim_rejected"], values["sim_aborted"], values["sim_unfinished"]) == (1, 1, 0)
    assert values["total_input_tokens"] == 7 + 5 + 9
    assert values["total_output_tokens"] == 3 + 1 + 4


def test_throughputs_divide_by_the_end_of_the_last_request() -> None:
    values = numbers(BY_HAND)
    assert values["duration"] == 1.42
    assert values["request_throughput"] == pytest.approx(3 / 1.42)
    assert values["output_throughput"] == pytest.approx(8 / 1.42)
    assert values["total_token_throughput"] == pytest.approx(29 / 1.42)


def test_ttft_counts_from_arrival_and_e2el_to_the_end() -> None:
    values = numbers(BY_HAND)
    assert values["mean_ttft_ms"] == pytest.approx((100 + 160 + 240) / 3)
    assert values["median_ttft_ms"] == 160
    assert values["std_ttft_ms"] == pytest.approx(np.std([100, 160, 240]))
    assert values["p25_ttft_ms"] == 130
    assert values["mean_e2el_ms"] == pytest.approx((210 + 160 + 1360) / 3)


def test_tpot_leaves_out_requests_of_one_token() -> None:
    values = numbers(BY_HAND)
    assert values["mean_tpot_ms"] == pytest.approx(((210 - 100) / 2 + (1420 - 300) / 3) / 2)


def test_itl_counts_tokens_of_one_step_as_gap_zero_and_step_gap_skips_them() -> None:
    values = numbers(BY_HAND)
    assert values["mean_itl_ms"] == pytest.approx((50 + 60 + 20 + 0 + 1100) / 5)
    assert values["sim_mean_step_gap_ms"] == pytest.approx((50 + 60 + 20 + 1100) / 4)
    assert values["p1_itl_ms"] == pytest.approx(0.04 * 20)


def test_queue_requeue_and_normalised_latency() -> None:
    values = numbers(BY_HAND)
    assert values["sim_mean_queue_time_ms"] == pytest.approx((0 + 50 + 150) / 3)
    assert values["sim_mean_requeue_time_ms"] == pytest.approx(30 / 3)
    assert values["sim_mean_normalized_latency_ms"] == pytest.approx((210 / 3 + 160 / 1 + 1360 / 4) / 3)


def test_peaks_count_tokens_per_second_and_overlapping_requests() -> None:
    values = numbers(BY_HAND)
    assert values["max_output_tokens_per_s"] == 7
    assert values["max_concurrent_requests"] == 3


def test_seconds_of_the_peak_begin_at_the_first_arrival() -> None:
    record = make_record([Served(900, 900, ((950, 1850),)), Served(1500, 1500, ((2500,),))])
    assert numbers(record)["max_output_tokens_per_s"] == 2


def test_a_request_that_ends_as_another_arrives_does_not_overlap_it() -> None:
    record = make_record([Served(0, 0, ((10,),)), Served(10, 10, ((20,),))])
    assert numbers(record)["max_concurrent_requests"] == 1


def test_memory_is_weighted_by_time_and_idle_counts_as_empty() -> None:
    values = numbers(BY_HAND)
    held_ms = 2 * 100 + 5 * 200 + 8 * 1000
    assert values["sim_mean_kv_usage_fraction"] == pytest.approx(held_ms / (10 * 1420))
    assert values["sim_peak_kv_usage_fraction"] == 0.8
    filled_ms = 7 * 100 + 14 * 200 + 20 * 1000
    assert values["sim_internal_fragmentation_fraction"] == pytest.approx(1 - filled_ms / (held_ms * 4))
    assert values["sim_busy_fraction"] == pytest.approx(1300 / 1420)


def test_scheduling_numbers() -> None:
    values = numbers(BY_HAND)
    assert values["sim_mean_running"] == pytest.approx((100 + 2 * 200 + 3 * 1000) / 1420)
    assert values["sim_mean_waiting"] == pytest.approx(2 * 200 / 1420)
    assert values["sim_peak_waiting"] == 2
    assert values["sim_mean_batch_size"] == pytest.approx((1 + 2 + 3) / 3)
    assert values["sim_mean_step_tokens"] == pytest.approx((7 + 6 + 3) / 3)
    assert (values["sim_preemptions"], values["sim_requests_preempted"]) == (2, 1)
    assert values["sim_prefix_hit_rate"] == pytest.approx(7 / 21)
    assert (values["sim_recomputed_tokens"], values["sim_steps"]) == (12, 3)


def test_two_replicas_share_the_blocks_of_both() -> None:
    steps = [StepRow(0, 100, used_blocks=10), StepRow(0, 50, used_blocks=4, replica=1)]
    values = numbers(make_record([Served(0, 0, ((100,),))], steps, num_blocks=10, num_replicas=2))
    assert values["sim_mean_kv_usage_fraction"] == pytest.approx((10 * 100 + 4 * 50) / (2 * 10 * 100))
    assert values["sim_peak_kv_usage_fraction"] == 1.0
    assert values["sim_mean_running"] == pytest.approx(1.5)


def test_goals_are_judged_over_all_requests_and_failed_ones_miss() -> None:
    values = numbers(BY_HAND, Slo(ttft_ns=160 * MS, tpot_ns=100 * MS, e2el_ns=200 * MS))
    assert values["sim_slo_requests"] == 5
    assert (values["sim_slo_ttft_met"], values["sim_slo_ttft_attainment"]) == (2, 0.4)
    assert (values["sim_slo_tpot_met"], values["sim_slo_e2el_met"]) == (2, 1)
    assert (values["sim_slo_met"], values["sim_slo_attainment"]) == (1, 0.2)
    assert values["request_goodput"] == pytest.approx(1 / 1.42)
    assert values["sim_slo_ttft_ms"] == 160


def test_without_goals_there_is_no_goodput() -> None:
    values = numbers(BY_HAND)
    assert values["request_goodput"] is None
    assert not [key for key in values if key.startswith("sim_slo")]


def test_samples_of_one_request_are_streams_of_their_own() -> None:
    record = make_record([Served(0, 0, ((10, 20, 30), (15, 45)))])
    values = numbers(record)
    assert values["mean_itl_ms"] == pytest.approx((10 + 10 + 30) / 3)
    assert values["mean_ttft_ms"] == 10
    assert values["mean_tpot_ms"] == pytest.approx((45 - 10) / 2)
    assert values["total_output_tokens"] == 5


def test_streams_without_tokens_do_not_shift_gaps() -> None:
    record = make_record(
        [
            Served(0, None, ((),), reason="abort", finished_ms=5),
            Served(0, 0, ((10, 20),)),
            Served(0, None, ((),), reason="abort", finished_ms=5),
        ]
    )
    assert numbers(record)["mean_itl_ms"] == 10


def test_an_empty_run_has_counts_but_no_latencies() -> None:
    summary = summarize(make_record([]), Slo(ttft_ns=MS), WHOSE)
    assert summary.values["completed"] == 0
    assert summary.values["mean_ttft_ms"] is None
    assert summary.values["request_throughput"] is None
    assert summary.values["sim_slo_attainment"] is None
    assert summary.notes == ("No request completed, so there are no latencies.",)


def test_every_key_has_a_definition_and_every_definition_a_key() -> None:
    keys = [*numbers(BY_HAND, Slo(MS, MS, MS)), *numbers(DRAFTED)]
    metrics = {key: definition_of(key) for key in keys}
    assert [key for key, metric in metrics.items() if metric is None] == []
    used = {metric.name for metric in metrics.values() if metric is not None}
    assert {metric.name for metric in (*SCALARS, *LATENCIES)} <= used
    assert definition_of("sim_notes") is None


def test_a_run_of_centuries_takes_no_memory_for_its_seconds() -> None:
    year_ms = 365 * 86_400_000
    record = make_record([Served(0, 0, ((100, 150, 150, 200 * year_ms),))], [StepRow(0, 100)])
    tracemalloc.start()
    values = numbers(record)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert values["max_output_tokens_per_s"] == 3
    assert peak_bytes < 4 << 20, "8 bytes a second would be 50 GB"


def test_what_drafting_gave() -> None:
    values = numbers(DRAFTED)
    assert values["sim_acceptance_rate"] == 0.25
    assert values["sim_mean_acceptance_length"] == 1.5
    assert [values[f"sim_acceptance_rate_at_{place}"] for place in (1, 2)] == [0.5, 0]
    assert values["sim_mean_num_drafts"] == 2
    assert values["sim_drafting_fraction"] == pytest.approx(50 / 300)
    assert values["sim_verifying_fraction"] == pytest.approx(250 / 300)
    assert "sim_acceptance_rate" not in numbers(BY_HAND)


def test_the_keys_vllm_writes_are_all_there() -> None:
    statistics = ["mean", "median", "std", "p1", "p5", "p10", "p25", "p75", "p90", "p95", "p99", "p99.9"]
    flat = [
        "completed",
        "failed",
        "duration",
        "total_input_tokens",
        "total_output_tokens",
        "request_throughput",
        "request_goodput",
        "output_throughput",
        "total_token_throughput",
        "max_output_tokens_per_s",
        "max_concurrent_requests",
    ]
    expected = flat + [f"{s}_{m}_ms" for m in ("ttft", "tpot", "itl", "e2el") for s in statistics]
    values = numbers(BY_HAND)
    assert [key for key in expected if key not in values] == []
    assert [key for key in values if key not in expected and not key.startswith("sim_")] == []


def test_percentiles_that_few_requests_cannot_carry_are_marked() -> None:
    summary = summarize(toy_run(50, 5.0), Slo(), WHOSE)
    assert {"p99_ttft_ms", "p99.9_ttft_ms", "p95_ttft_ms"} <= set(summary.weak)
    assert "median_ttft_ms" not in summary.weak
    assert any("50 completed requests" in note for note in summary.notes)


def test_a_percentile_with_ten_requests_beyond_it_is_not_marked() -> None:
    requests = [Served(i, i, ((i + 1.0, i + 2.0 + i / 1000),)) for i in range(1000)]
    assert "p99_ttft_ms" not in summarize(make_record(requests), Slo(), WHOSE).weak
    assert "p99_ttft_ms" in summarize(make_record(requests[:999]), Slo(), WHOSE).weak


def grows(summary: Summary) -> bool:
    return any("queue grew" in note for note in summary.notes)


def test_an_overloaded_run_is_called_unstable_and_a_calm_one_is_not() -> None:
    assert grows(summarize(toy_run(600, 40.0), Slo(), WHOSE))
    assert not grows(summarize(toy_run(600, 2.0), Slo(), WHOSE))


def test_a_burst_at_time_zero_is_not_called_unstable() -> None:
    requests = [Served(0, 10.0 * i, ((10.0 * i + 10,),)) for i in range(200)]
    assert not grows(summarize(make_record(requests), Slo(), WHOSE))


def test_a_long_queue_that_hardly_grows_is_not_called_unstable() -> None:
    waits_ms = [100 + i / 200 for i in range(2000)]
    requests = [Served(i, i + wait, ((i + wait + 1,),)) for i, wait in enumerate(waits_ms)]
    assert not grows(summarize(make_record(requests), Slo(), WHOSE))


def test_failures_are_told_in_words() -> None:
    notes = " ".join(summarize(BY_HAND, Slo(), WHOSE).notes)
    assert "1 rejected because they can never fit" in notes
    assert "1 given up by their client" in notes


@st.composite
def random_records(draw: st.DrawFn) -> RunRecord:
    requests = []
    for _ in range(draw(st.integers(1, 12))):
        arrival = draw(st.integers(0, 1000))
        scheduled = arrival + draw(st.integers(0, 500))
        gaps = draw(st.lists(st.integers(0, 90), max_size=8))
        tokens = np.cumsum([scheduled + draw(st.integers(1, 300)), *gaps]).tolist()
        reason = draw(st.sampled_from(["length", "length", "stop", "length_capped", "abort"]))
        requests.append(Served(arrival, scheduled, (tuple(tokens),), reason=reason))
    steps, now = [], 0
    for _ in range(draw(st.integers(0, 10))):
        start = now + draw(st.integers(0, 50))
        now = start + draw(st.integers(1, 100))
        used = draw(st.integers(0, 100))
        filled = draw(st.integers(0, used * 4))
        steps.append(
            StepRow(start, now, num_running=draw(st.integers(0, 9)), used_blocks=used, filled_slots=filled)
        )
    return make_record(requests, steps)


@given(random_records())
def test_percentiles_never_fall(record: RunRecord) -> None:
    values = numbers(record)
    for latency in LATENCIES:
        found = [values[statistic_key(percentile_word(p), latency.name)] for p in PERCENTILES]
        present = [value for value in found if value is not None]
        assert present == sorted(present)
        assert len(present) in (0, len(PERCENTILES))


@given(random_records())
def test_fractions_are_fractions(record: RunRecord) -> None:
    values = numbers(record, Slo(200 * MS, 20 * MS, 700 * MS))
    for key, value in values.items():
        metric = definition_of(key)
        if metric is not None and metric.unit == "fraction" and value is not None:
            assert 0 <= value <= 1, key
    assert values["sim_slo_attainment"] <= min(  # type: ignore[operator, type-var]
        values[f"sim_slo_{name}_attainment"] for name in ("ttft", "tpot", "e2el")
    )


@given(random_records())
def test_a_mean_over_time_lies_between_zero_and_the_peak(record: RunRecord) -> None:
    values = numbers(record)
    running = [int(count) for count in record.steps["num_running"]]
    assert 0 <= values["sim_mean_running"] <= max(running, default=0)  # type: ignore[operator]
    mean, peak = values["sim_mean_kv_usage_fraction"], values["sim_peak_kv_usage_fraction"]
    assert mean is not None
    assert peak is not None
    assert mean <= peak + 1e-12


@given(random_records())
def test_no_number_is_nan_or_infinite(record: RunRecord) -> None:
    for key, value in numbers(record, Slo(tpot_ns=0)).items():
        assert value is None or math.isfinite(value), key


def test_little_law_holds_on_a_toy_run() -> None:
    record = toy_run(300, 4.0)
    values = numbers(record)
    in_system = values["mean_e2el_ms"] * values["completed"] / 1000 / values["duration"]  # type: ignore[operator]
    mean = values["sim_mean_running"] + values["sim_mean_waiting"]  # type: ignore[operator]
    assert mean == pytest.approx(in_system, rel=0.05)
