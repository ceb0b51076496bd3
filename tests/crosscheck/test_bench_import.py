"""Benchmarks of real servers are read, placed beside a simulation, and refused where they say too little."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from sim.cli import app
from sim.config import load_experiment
from sim.crosscheck.bench_import import import_bench
from sim.errors import ConfigError
from sim.recording import record_experiment

EXPERIMENT = """
model: llama-3.1-8b
hardware: l40s
engine: {max_model_len: 4096}
workload:
  kind: synthetic
  num_requests: 40
  arrivals: {kind: poisson, rate: 4 /s}
  prompt_tokens: {kind: uniform, low: 50, high: 600}
  output_tokens: {kind: uniform, low: 2, high: 90}
crosscheck: {tpot_p50: 1 %, ttft_p50: 1 %, e2el_mean: 1 %, throughput: 2 %}
"""


def write(folder: Path) -> Path:
    path = folder / "server.yaml"
    path.write_text(EXPERIMENT)
    return path


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """What `vllm bench serve` would have saved of this very simulator."""
    experiment = load_experiment(write(tmp_path))
    record_experiment(experiment, folder=tmp_path / "run", with_plots=False)
    return tmp_path / "run" / "bench.json"


def aiperf_record(number: int, start_s: float, ttft_ms: float, tokens: int, each_ms: float) -> dict[str, Any]:
    return {
        "metadata": {
            "session_num": number,
            "request_start_ns": int(start_s * 1e9),
            "benchmark_phase": "profiling",
        },
        "metrics": {
            "input_sequence_length": {"value": 100 + number, "unit": "tokens"},
            "output_sequence_length": {"value": tokens, "unit": "tokens"},
            "time_to_first_token": {"value": ttft_ms, "unit": "ms"},
            "request_latency": {"value": ttft_ms + (tokens - 1) * each_ms, "unit": "ms"},
        },
        "error": None,
    }


def test_a_result_of_vllm_simulated_again_is_what_it_was(measured: Path) -> None:
    """The file has everything that the simulation of its requests needs: arrivals, lengths, latencies."""
    out = measured.parent.parent / "compared"
    config = measured.parent.parent / "server.yaml"
    done = CliRunner().invoke(
        app, ["import-bench", str(measured), "--config", str(config), "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    errors = {row["metric"]: row for row in json.loads((out / "comparison.json").read_text())["errors"]}
    assert abs(errors["tpot_p50"]["error"]) < 1e-6
    assert abs(errors["ttft_p99"]["error"]) < 1e-6
    page = (out / "comparison.html").read_text()
    assert "within its tolerance" in page
    assert "pictures/distributions.svg" in page
    assert (out / "pictures" / "distributions.svg").exists()
    assert (out / "simulation" / "summary.json").exists()


def test_another_server_is_beyond_the_tolerance(measured: Path) -> None:
    config = measured.parent.parent / "server.yaml"
    sets = ["--set", "hardware=h100-sxm", "--no-plots", "--out", str(measured.parent.parent / "other")]
    done = CliRunner().invoke(app, ["import-bench", str(measured), "--config", str(config), *sets])
    assert done.exit_code == 1
    assert "no, 1 %" in done.output


def test_alone_a_result_is_summed_up(measured: Path) -> None:
    done = CliRunner().invoke(app, ["import-bench", str(measured)])
    assert done.exit_code == 0
    assert "TTFT median" in done.output


def test_records_of_aiperf_are_read_request_by_request(tmp_path: Path) -> None:
    records = [aiperf_record(number, 100 + 0.5 * number, 40.0, 11, 5.0) for number in range(6)]
    records.append({"metadata": {"request_start_ns": 1}, "metrics": {}, "error": {"code": 499}})
    records.append({"metadata": {"request_start_ns": 0, "benchmark_phase": "warmup"}, "metrics": {}})
    path = tmp_path / "profile_export.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    imported = import_bench(path)
    observed = imported.observed
    assert observed.metric("ttft_p50") == pytest.approx(40)
    assert observed.metric("tpot_mean") == pytest.approx(5)
    assert observed.metric("e2el_p99") == pytest.approx(90)
    assert observed.output_tokens_per_s == pytest.approx(66 / 2.59)
    assert observed.notes == ("1 of 7 requests failed and are left out",), "warm-up is no request"
    assert imported.workload is not None
    np.testing.assert_array_equal(imported.workload.arrival_ns, np.arange(6) * 500_000_000)
    assert imported.workload.prompt_tokens.tolist() == [100, 101, 102, 103, 104, 105]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[1, 2]", "holds no JSON object"),
        ("{}", "is neither a result of vllm bench serve nor"),
        ('{"request_throughput": 3, "duration": 1}', "--save-detailed"),
        (
            '{"ttfts": [1], "itls": [], "output_lens": [3], "input_lens": [3], "duration": 1}',
            "differ in length",
        ),
        ('{"ttfts": [0], "itls": [[]], "output_lens": [0], "input_lens": [3], "duration": 1}', "no request"),
        ('{"metrics": {}, "metadata": {}}', "lacks what a record of AIPerf has"),
    ],
)
def test_what_is_no_detailed_benchmark_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        import_bench(path)
    done = CliRunner().invoke(app, ["import-bench", str(path)])
    assert done.exit_code == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        import_bench(tmp_path / "nothing.json")
