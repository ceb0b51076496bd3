"""A real vLLM 0.19 run of 300 requests on an RTX 4090, simulated from its settings, arrivals and lengths.

A section of results/accuracy.md.

Rates are a datasheet's, curves another GPU's, overheads the catalogue's assumptions; the number of KV blocks
is what the run's own metadata say.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from sim.config import load_experiment
from sim.run_record import RunRecord
from sim.simulation import simulate

_CONFIG = """\
name: rtx-4090
model: llama-3.1-8b
hardware: rtx-4090
engine:
  num_gpu_blocks_override: {blocks}
  max_num_seqs: 256
  max_num_batched_tokens: 2048
  max_model_len: 32768
  scheduler: vllm-0.16
  async_scheduling: true
{more}
workload: {{kind: trace, path: requests.csv, format: vidur}}
slo: {{ttft: 1 s, tpot: 50 ms}}
"""
Latencies = dict[str, float]
"""Seconds."""


def measured(rows: list[dict[str, Any]]) -> Latencies:
    """What the run gave; queueing starts when the engine took the request in."""
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0] if name != "request_id"}
    return _latencies(
        columns["queued_ts"], columns["first_token_ts"], columns["last_token_ts"], columns["output_toks"]
    )


def simulated(folder: Path, rows: list[dict[str, Any]], num_blocks: int, more: str) -> Latencies:
    """The same of a simulation."""
    first = min(row["queued_ts"] for row in rows)
    lines = ["arrived_at,num_prefill_tokens,num_decode_tokens"]
    ordered = sorted(rows, key=lambda row: float(row["queued_ts"]))
    lines += [f"{row['queued_ts'] - first:.9f},{row['input_toks']},{row['output_toks']}" for row in ordered]
    (folder / "requests.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = folder / "run.yaml"
    config.write_text(_CONFIG.format(blocks=num_blocks, more=more), encoding="utf-8")
    return _of_record(simulate(load_experiment(config)))


def _of_record(record: RunRecord) -> Latencies:
    seconds = {
        name: record.requests[name].astype("int64") / 1e9 for name in ("arrival", "first_token", "last_token")
    }
    return _latencies(
        seconds["arrival"], seconds["first_token"], seconds["last_token"], record.requests["output_tokens"]
    )


def _latencies(arrival: Any, first: Any, last: Any, outputs: Any) -> Latencies:
    return {
        "mean TPOT": float(np.mean((last - first) / np.maximum(1, outputs - 1))),
        "mean end to end": float(np.mean(last - arrival)),
        "median TTFT": float(np.median(first - arrival)),
    }


def section(data: Path) -> list[str]:
    """Lines of Markdown."""
    source = data / "measured" / "vllm0.19_rtx4090_llama3.1-8b"
    rows = [json.loads(line) for line in (source / "requests.jsonl").read_text("utf-8").splitlines()]
    num_blocks = json.loads((source / "meta.json").read_text("utf-8"))["kv_cache"]["num_gpu_blocks"]
    real = measured(rows)
    lines = [
        "## vLLM 0.19 on an RTX 4090",
        "",
        "300 requests to Llama-3.1-8B, simulated from the run's settings, arrivals and lengths. Nothing is",
        "fitted to this GPU: rates are its datasheet's, curves an H100's, overheads assumed; the number of",
        "KV blocks is the run's own. Goals: 8 %, 8 %, 20 %. By kernels, the host's overhead hides behind the",
        "device, as the run scheduled asynchronously; the roofline adds it. That overlap was modelled after",
        "a first comparison with this run, which had come out too slow: it is no blind prediction.",
        "",
        "| | measured s | by kernels | error | by one roofline | error |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        kernels, roofline = (
            simulated(Path(folder), rows, num_blocks, more) for more in ("  fusion: graph", "")
        )
    for name, value in real.items():
        a, b = kernels[name], roofline[name]
        lines.append(
            f"| {name} | {value:.4g} | {a:.4g} | {a / value - 1:+.1%} | {b:.4g} | {b / value - 1:+.1%} |"
        )
    return [*lines, ""]
