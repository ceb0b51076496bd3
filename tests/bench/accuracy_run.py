"""A real vLLM 0.19 run of 300 requests on an RTX 4090, simulated from its settings, arrivals and lengths.

A section of results/accuracy.md, and a picture of how many sequences ran and waited. Nothing is fitted to
the run; the number of KV blocks is what its own metadata say.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.config import load_experiment
from sim.experiment import Experiment
from sim.record.run_record import RunRecord
from sim.report.canvas import BLUE, GREY, ORANGE, Canvas, save
from sim.report.series import Bins, Curve, mean_over_time
from sim.simulation import simulate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE = Path("results/accuracy_rtx4090")
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
  fusion: {fusion}
workload: {{kind: trace, path: requests.csv, format: vidur}}
slo: {{ttft: 1 s, tpot: 50 ms}}
"""
_BY_KERNELS, _BY_ROOFLINE, _DATASHEET = "by kernels", "by one roofline", "datasheet alone"
Latencies = dict[str, float]
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Run:
    """The measured run.

    Attributes:
        rows: A request each. each_second: Of the engine's own counts.
    """

    rows: list[dict[str, Any]]
    each_second: dict[str, Curve]
    num_blocks: int

    @classmethod
    def read(cls, source: Path) -> Run:
        """From its folder."""
        with (source / "timeseries.csv").open(encoding="utf-8", newline="") as file:
            table = list(csv.DictReader(file))
        return cls(
            [json.loads(line) for line in (source / "requests.jsonl").read_text("utf-8").splitlines()],
            {name: np.array([float(row[name]) for row in table]) for name in table[0]},
            json.loads((source / "meta.json").read_text("utf-8"))["kv_cache"]["num_gpu_blocks"],
        )

    @property
    def latencies(self) -> Latencies:
        """What it gave; queueing starts when the engine took the request in."""
        columns = {name: np.array([row[name] for row in self.rows]) for name in self.rows[0]}
        arrival, first, last = (columns[name] for name in ("queued_ts", "first_token_ts", "last_token_ts"))
        return _latencies(arrival, first, last, columns["output_toks"])

    def simulated(self, folder: Path) -> dict[str, RunRecord]:
        """The same requests, with step times of three kinds."""
        self.write_requests(folder)
        kernels, roofline = (self.experiment(folder, fusion) for fusion in ("graph", "roofline"))
        return {
            _BY_KERNELS: simulate(kernels),
            _BY_ROOFLINE: simulate(roofline),
            _DATASHEET: simulate(datasheet_alone(roofline)),
        }

    def write_requests(self, folder: Path) -> None:
        """Arrivals and lengths, as a trace."""
        first = min(row["queued_ts"] for row in self.rows)
        lines = ["arrived_at,num_prefill_tokens,num_decode_tokens"]
        ordered = sorted(self.rows, key=lambda row: float(row["queued_ts"]))
        lines += [
            f"{row['queued_ts'] - first:.9f},{row['input_toks']},{row['output_toks']}" for row in ordered
        ]
        (folder / "requests.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def experiment(self, folder: Path, fusion: str) -> Experiment:
        """The run's settings, with one way to step times."""
        config = folder / "run.yaml"
        config.write_text(_CONFIG.format(blocks=self.num_blocks, fusion=fusion), encoding="utf-8")
        return load_experiment(config)


def datasheet_alone(experiment: Experiment) -> Experiment:
    """With the datasheet's rates reached in full and nothing else taking time."""
    gpu = replace(
        experiment.gpu, compute_efficiency_fraction=1.0, bandwidth_efficiency_fraction=1.0, step_overhead_ns=0
    )
    return replace(experiment, gpu=gpu)


def latencies_of(record: RunRecord) -> Latencies:
    """Of a simulation."""
    arrival, first, last = (
        record.requests[name].astype("int64") / 1e9 for name in ("arrival", "first_token", "last_token")
    )
    return _latencies(arrival, first, last, record.requests["output_tokens"])


def _latencies(arrival: Any, first: Any, last: Any, outputs: Any) -> Latencies:
    return {
        "mean TPOT": float(np.mean((last - first) / np.maximum(1, outputs - 1))),
        "mean end to end": float(np.mean(last - arrival)),
        "median TTFT": float(np.median(first - arrival)),
    }


def picture(run: Run, records: dict[str, RunRecord]) -> Callable[[], Figure]:
    """Sequences that run, and that wait, second by second."""

    def draw() -> Figure:
        canvas = Canvas(
            2, 1, height=5.4, title="vLLM 0.19 on an RTX 4090, Llama-3.1-8B: measured and simulated"
        )
        seconds = run.each_second["t"]
        bins = Bins(
            10**9, int(max(record.steps["end"].max().astype(int) for record in records.values()) / 1e9)
        )
        panels = zip(canvas.axes, ("running", "waiting"), strict=True)
        for axes, name in panels:
            axes.plot(seconds, run.each_second[name], color=GREY, linewidth=2.2, label="measured")
            for kind, colour, style in ((_BY_KERNELS, BLUE, "-"), (_DATASHEET, ORANGE, "--")):
                curve = mean_over_time(records[kind], f"num_{name}", bins)
                axes.plot(bins.middles_s, curve, color=colour, linestyle=style, linewidth=1.4, label=kind)
            axes.set_ylabel(f"Sequences {name}")
            axes.set_ylim(0)
        canvas.axes[0].legend(loc="upper right", frameon=False)
        canvas.axes[-1].set_xlim(0)
        canvas.axes[-1].set_xlabel("Time since the first request (s)")
        return canvas.figure

    return draw


def section(data: Path) -> list[str]:
    """Lines of Markdown; draws the picture."""
    run = Run.read(data / "measured" / "vllm0.19_rtx4090_llama3.1-8b")
    real = run.latencies
    with tempfile.TemporaryDirectory() as folder:
        records = run.simulated(Path(folder))
    save(picture(run, records), PICTURE)
    found = {kind: latencies_of(record) for kind, record in records.items()}
    text = """## vLLM 0.19 on an RTX 4090

300 requests to Llama-3.1-8B, simulated from the run's settings, arrivals and lengths. Goals: 8 %, 8 %, 20 %.
No parameter is fitted to this GPU or this run:

- datasheet: memory bandwidth, 16-bit rate; assumed: bandwidth and compute efficiency 0.8, 1.5 ms a step and
  5 us a sequence of the host; from the run: the number of KV blocks;
- by kernels: curves of an H100, scaled by those efficiencies; the host hides behind the device, as the run
  scheduled asynchronously (modelled after a first comparison had come out too slow: no blind prediction);
- by one roofline: rates times efficiencies, host added;
- datasheet alone: rates in full, no host: what the run would be with nothing fitted and nothing assumed.

7.7 % of full prompt blocks repeat an earlier prompt's in the run; lengths do not tell which, so no simulated
prompt hits the prefix cache.
"""
    lines = [
        *text.split("\n"),
        f"| | measured s | {' | error | '.join(found)} | error |",
        f"| --- | ---: |{' ---: | ---: |' * len(found)}",
    ]
    for name, value in real.items():
        cells = (f"{each[name]:.4g} | {each[name] / value - 1:+.1%}" for each in found.values())
        lines.append(f"| {name} | {value:.4g} | {' | '.join(cells)} |")
    return [*lines, "", f"![Sequences running and waiting]({PICTURE.name}.svg)", ""]
