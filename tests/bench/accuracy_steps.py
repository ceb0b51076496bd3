"""Whole steps predicted from datasheets and curves, beside steps that were measured: error and direction.

A section of results/accuracy.md. Nothing is tuned to a row: GPUs and models are the catalogue's.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import numpy as np

from sim.config_catalog import load_gpu, load_model
from sim.cost.kernels import Batch, Fusion, KernelList
from sim.cost.model import ModelShape
from sim.cost.step_time import KernelCost

_TOKEN_COUNTS = (512, 1024, 2048)
_CONTEXT = 512


@dataclass(frozen=True, slots=True)
class Point:
    """A measured step and the same predicted, in milliseconds."""

    name: str
    measured_ms: float
    predicted_ms: float

    @property
    def error_fraction(self) -> float:
        """Above 0 where the prediction is too long."""
        return self.predicted_ms / self.measured_ms - 1


def sarathi(folder: Path) -> list[Point]:
    """Yi-34B on two A100: decode batches and prompts."""
    cost = _cost("yi-34b", "a100-80gb-pcie", 2)
    points = []
    for kind in ("decode", "prefill"):
        for row in _rows(folder / f"sarathi_osdi24_fig2_{kind}_yi34b_2xa100.csv"):
            size = int(row[f"batch_num_{kind}_tokens"])
            batch = Batch(size, size * _CONTEXT) if kind == "decode" else _prompts(1, size)
            measured_ms = float(row["batch_execution_time"]) * 1e3
            points.append(Point(f"{kind} {size}", measured_ms, step_ms(cost, batch)))
    return points


def distserve(folder: Path) -> list[Point]:
    """OPT-13B on A100: what the coefficients fitted to measured iterations say for usual sizes."""
    profile = json.loads((folder / "distserve_profile_a100_80g_opt.json").read_text(encoding="utf-8"))
    fitted = profile["distserve"]["facebook/opt-13b"]
    points = []
    for size in (1, 2, 4):
        cost, rules = _cost("opt-13b", "a100-80gb-sxm", size), fitted[str(size)]
        for tokens in _TOKEN_COUNTS:
            a, b, c = rules["prefill"]
            measured_ms = a + b * tokens + c * tokens**2
            points.append(
                Point(f"TP {size} prefill {tokens}", measured_ms, step_ms(cost, _prompts(1, tokens)))
            )
        for seqs in (1, 8, 32, 64):
            a, b, c = rules["decoding_smallbs"]
            measured_ms = a + b * seqs * _CONTEXT + c * seqs
            points.append(
                Point(f"TP {size} decode {seqs}", measured_ms, step_ms(cost, Batch(seqs, seqs * _CONTEXT)))
            )
    return points


def splitwise(folder: Path) -> list[Point]:
    """Llama-2-70B on A100; without two GPUs at batch 64, which looks truncated."""
    prompts, tokens = defaultdict(list), defaultdict(list)
    for row in _rows(folder / "splitwise_perf_model_a100.csv"):
        key = (int(row["tensor_parallel"]), int(row["prompt_size"]), int(row["batch_size"]))
        if row["model"] == "llama2-70b" and (key[0], key[2]) != (2, 64):
            prompts[key].append(float(row["prompt_time"]))
            tokens[key].append((float(row["token_time"]), int(row["token_size"])))
    points = []
    for size, length, seqs in sorted(prompts):
        cost, name = _cost("llama-2-70b", "a100-80gb-sxm", size), f"TP {size} {seqs} x {length}"
        predicted_ms = step_ms(cost, _prompts(seqs, length))
        points.append(Point(f"{name} prompt", median(prompts[size, length, seqs]), predicted_ms))
        times, counts = zip(*tokens[size, length, seqs], strict=True)
        decode = Batch(seqs, round(seqs * (length + mean(counts) / 2)))
        points.append(Point(f"{name} token", median(times), step_ms(cost, decode)))
    return points


def gpt_fast() -> list[Point]:
    """Llama-2-7B at batch 1 on an A100: eager, and compiled into a graph."""
    batch = Batch(1, 200)
    rates = ((Fusion.NONE, 25.5), (Fusion.GRAPH, 104.9))
    return [
        Point(
            f"{fusion.value}",
            1e3 / rate,
            _launched_ms(_cost("llama-2-7b", "a100-80gb-sxm", 1, fusion), batch),
        )
        for fusion, rate in rates
    ]


def flash_attention_gb() -> tuple[float, float]:
    """HBM traffic of GPT-2 medium's attention forward, with its score matrix in memory and without, in GB."""
    shape = ModelShape("one layer of gpt-2", 1, 1024, 16, 16, 64, 4096, 50_257, 1024)
    return tuple(  # type: ignore[return-value]
        sum(
            float(kernel.num_bytes)
            for kernel in KernelList(shape, fusion).prompt_attention(((1024, 0, 1),) * 64)
        )
        / 1e9
        for fusion in (Fusion.NONE, Fusion.FUSED)
    )


def host_share() -> float:
    """Part of a step of Llama-3-8B on an H100 at batch 1 that is the host's overhead."""
    cost, batch = _cost("llama-3-8b", "h100-sxm", 1), Batch(1, 300)
    return cost.overhead_ns(1) / 1e6 / step_ms(cost, batch)


def step_ms(cost: KernelCost, batch: Batch) -> float:
    """A whole step."""
    return _launched_ms(cost, batch) + cost.overhead_ns(batch.num_decode_seqs + len(batch.chunks)) / 1e6


def _launched_ms(cost: KernelCost, batch: Batch) -> float:
    return max(cost.device_ns(batch), cost.host_ns(batch)) / 1e6


def _cost(model: str, gpu: str, size: int, fusion: Fusion = Fusion.FUSED) -> KernelCost:
    return KernelCost(load_model(model), load_gpu(gpu), tensor_parallel_size=size, fusion=fusion)


def _prompts(num_seqs: int, length: int) -> Batch:
    return Batch(0, 0, ((length, 0, 1),) * num_seqs)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def section(data: Path) -> list[str]:
    """Lines of Markdown."""
    folder = data / "measured"
    lines = [
        "## Whole steps",
        "",
        "Predicted from `sim/catalog` and `sim/cost`, nothing tuned to a row; the goal",
    ]
    lines += ["is a median absolute error of at most 12 %. Contexts of decoding sequences that a source does"]
    lines += ["not say are taken to be 512 tokens each.", ""]
    lines += _points("Sarathi-Serve, Yi-34B on two A100", sarathi(folder), each=True)
    lines += _points("DistServe, OPT-13B on A100", distserve(folder), each=True)
    lines += _points("Splitwise, Llama-2-70B on A100", splitwise(folder), each=False)
    eager, graph = gpt_fast()
    lines += _points("gpt-fast, Llama-2-7B on an A100, eager and as a graph", [eager, graph], each=True)
    measured, predicted = eager.measured_ms / graph.measured_ms, eager.predicted_ms / graph.predicted_ms
    error = predicted / measured - 1
    lines += [
        f"Eager over graph: {measured:.2f} measured, {predicted:.2f} predicted, {error:+.1%} (goal: 20 %).",
        "",
    ]
    standard, flash = flash_attention_gb()
    lines += [
        f"FlashAttention, forward only: {standard:.1f} GB with scores in memory, {flash:.2f} without. The",
        "paper's 40.3 and 4.4 GB are of forward and backward; there are no backward kernels here, so that",
        "goal is not met.",
        "",
        f"Host overhead is {host_share():.0%} of a step of Llama-3-8B on an H100 at batch 1 with",
        "the catalogue's assumed figures; of vLLM 0.5.3, 62 % of the time was not the GPU's.",
        "",
    ]
    return lines


def _points(title: str, points: list[Point], *, each: bool) -> list[str]:
    errors = np.array([point.error_fraction for point in points])
    lines = [
        f"**{title}**: {len(points)} steps, median absolute error {np.median(abs(errors)):.1%},",
        f"90th percentile {np.quantile(abs(errors), 0.9):.1%}, median error {np.median(errors):+.1%}.",
        "",
    ]
    if each:
        lines += ["| step | measured ms | predicted ms | error |", "| --- | ---: | ---: | ---: |"]
        for point in points:
            times = f"{point.measured_ms:.1f} | {point.predicted_ms:.1f}"
            lines.append(f"| {point.name} | {times} | {point.error_fraction:+.1%} |")
        lines.append("")
    return lines
