"""`bench.json` against vLLM's schema: its keys, its units, and the reader other people use."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.metrics.summary import Identity, Slo, summarize
from sim.record.run_record import RunRecord
from sim.results.bench_file import Traffic, bench_document, dump_bench, traffic_of
from tests.records import MS, Served, make_record, toy_run
from workloads.arrivals import AllAtOnce, Arrivals, ClosedLoop, Constant, Gamma, Poisson, VllmGamma
from workloads.lengths import Fixed
from workloads.synthetic import SyntheticWorkload

DATE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DETAIL = ("input_lens", "output_lens", "ttfts", "itls", "start_times", "generated_texts", "errors")


def document_of(record: RunRecord, traffic: Traffic | None = None, slo: Slo | None = None) -> dict[str, Any]:
    summary = summarize(record, slo or Slo(), Identity("toy", "llama-3-8b", 7))
    return bench_document(record, summary, traffic or Traffic(4.0), DATE)


def mixed_record() -> RunRecord:
    return make_record(
        [
            Served(0, 0, ((100, 150, 210),), prompt_tokens=7),
            Served(50, None, (), prompt_tokens=999, reason="rejected", finished_ms=50),
            Served(60, 210, ((300, 320, 320, 400),), prompt_tokens=9),
            Served(70, 210, ((300, 310),), reason="abort", finished_ms=330),
            Served(80, 210, ((400,),), prompt_tokens=2),
        ]
    )


def test_keys_are_those_of_vllm_in_its_order() -> None:
    keys = [key for key in document_of(toy_run(20, 4.0)) if not key.startswith("sim_")]
    setup = ["date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "num_prompts"]
    traffic = ["request_rate", "burstiness", "max_concurrency"]
    totals = ["duration", "completed", "failed", "total_input_tokens", "total_output_tokens"]
    rates = ["request_throughput", "request_goodput", "output_throughput", "total_token_throughput"]
    lists = ["input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times", "queue_times"]
    ends = ["generated_texts", "errors", "max_output_tokens_per_s", "max_concurrent_requests", "rtfx"]
    words = ["mean", "median", "std", "p1", "p5", "p10", "p25", "p75", "p90", "p95", "p99", "p99.9"]
    statistics = [f"{word}_{name}_ms" for name in ("ttft", "tpot", "itl", "e2el") for word in words]
    assert keys == [*setup, *traffic, *totals, *rates, *lists, *ends, *statistics]


def test_lists_are_in_seconds_and_failed_requests_keep_their_slot() -> None:
    document = document_of(mixed_record())
    assert document["num_prompts"] == 5
    assert document["input_lens"] == [7, 999, 9, 10, 2]
    assert document["output_lens"] == [3, 0, 4, 0, 1]
    assert document["ttfts"] == [0.1, 0.0, 0.24, 0.0, 0.32]
    assert document["itls"] == [[0.05, 0.06], [], [0.02, 0.08], [], []]
    assert document["latencies"] == [0.21, 0.0, 0.34, 0.0, 0.32]
    assert document["start_times"] == [0.0, 0.05, 0.06, 0.07, 0.08]
    assert document["errors"] == ["", "rejected", "", "abort", ""]
    assert all(len(document[name]) == 5 for name in DETAIL)


def test_itl_is_the_gap_between_emissions_as_a_client_of_vllm_sees_it() -> None:
    document = document_of(mixed_record())
    gaps_ms = [50, 60, 20, 80]
    assert document["mean_itl_ms"] == pytest.approx(np.mean(gaps_ms))
    pooled = [gap for gaps in document["itls"] for gap in gaps]
    assert document["p90_itl_ms"] == pytest.approx(np.percentile(pooled, 90) * 1000)


def test_statistics_are_what_vllm_would_compute_from_the_lists() -> None:
    document = document_of(toy_run(60, 6.0), slo=Slo(ttft_ns=60 * MS))
    ttfts, latencies = np.array(document["ttfts"]), np.array(document["latencies"])
    lengths = np.array(document["output_lens"])
    tpots = (latencies - ttfts)[lengths > 1] / (lengths[lengths > 1] - 1)
    for name, values in (("ttft", ttfts), ("e2el", latencies), ("tpot", tpots)):
        assert document[f"mean_{name}_ms"] == pytest.approx(values.mean() * 1000)
        assert document[f"std_{name}_ms"] == pytest.approx(values.std() * 1000)
        assert document[f"p99_{name}_ms"] == pytest.approx(np.percentile(values, 99) * 1000)
    good = (ttfts <= 0.06).sum()
    assert document["request_goodput"] == pytest.approx(good / document["duration"])


def test_nothing_measured_is_zero_because_readers_of_the_file_take_no_null() -> None:
    document = document_of(make_record([Served(0, None, (), reason="rejected", finished_ms=0)]))
    assert (document["mean_tpot_ms"], document["output_throughput"], document["itls"]) == (0.0, 0.0, [[]])
    assert document["request_goodput"] is None


def test_too_many_gaps_are_left_out_and_said_to_be() -> None:
    record = toy_run(20, 4.0)
    summary = summarize(record, Slo(), Identity("toy", "llama-3-8b", 7))
    document = bench_document(record, summary, Traffic(4.0), DATE, max_gaps=100)
    assert "itls" not in document
    assert "tokens.npz" in document["sim_itls"]
    assert len(document["ttfts"]) == 20


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        (Poisson(3.0), (3.0, 1.0, None)),
        (Gamma(3.0, 0.5), (3.0, 0.5, None)),
        (VllmGamma(3.0, 2.0), (3.0, 2.0, None)),
        (Constant(3.0), (3.0, "inf", None)),
        (AllAtOnce(), ("inf", 1.0, None)),
        (ClosedLoop(8), ("inf", 1.0, 8)),
    ],
)
def test_traffic_is_told_in_the_terms_of_vllm(arrivals: Arrivals, expected: tuple[Any, ...]) -> None:
    record = toy_run(5, 4.0)
    workload = SyntheticWorkload(5, arrivals, Fixed(10), Fixed(10))
    document = document_of(record, traffic_of(workload, record))
    assert tuple(document[key] for key in ("request_rate", "burstiness", "max_concurrency")) == expected


@pytest.mark.parametrize("version", ["0_1", "0_2"])
@pytest.mark.parametrize("traffic", [Traffic(4.0), Traffic(None, None, 8)])
def test_llmd_benchmark_report_converts_the_file_unchanged(
    tmp_path: Path, version: str, traffic: Traffic
) -> None:
    reader = pytest.importorskip(
        f"llmd_benchmark_report.native_to_br{version}", reason="needs the extra dev: llmd-benchmark-report"
    )
    document = document_of(toy_run(60, 6.0), traffic)
    path = tmp_path / "bench.json"
    path.write_text(dump_bench(document))
    report = json.loads(reader.import_vllm_benchmark(str(path)).model_dump_json())
    latency, throughput, requests = sections(report)
    names = {
        "time_to_first_token": "ttft",
        "time_per_output_token": "tpot",
        "inter_token_latency": "itl",
        "request_latency": "e2el",
    }
    words = {"mean": "mean", "stddev": "std", "p50": "median", "p1": "p1", "p90": "p90", "p99p9": "p99.9"}
    for theirs, ours in names.items():
        for field, word in words.items():
            assert latency[theirs][field] == document[f"{word}_{ours}_ms"], (theirs, field)
    assert document["output_throughput"] in throughput
    assert document["request_throughput"] in throughput
    assert requests["total"] == 60
    assert requests["output_length"]["mean"] == document["total_output_tokens"] / 60


def sections(report: dict[str, Any]) -> tuple[dict[str, Any], list[float], dict[str, Any]]:
    """Latency, throughputs and requests of either version of the report."""
    if "metrics" in report:
        metrics = report["metrics"]
        return metrics["latency"], list(metrics["throughput"].values()), metrics["requests"]
    aggregate = report["results"]["request_performance"]["aggregate"]
    rates = [rate["mean"] for rate in aggregate["throughput"].values() if rate is not None]
    return aggregate["latency"], rates, aggregate["requests"]
