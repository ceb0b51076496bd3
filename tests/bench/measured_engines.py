"""The engines whose steps were measured, as far as their sources tell; and what their hosts take.

A GPU's figures are the catalogue's. What is particular to an engine of its time stands here: which kernels
it launched, whether its attention read a KV head once for each query head, how its GPUs were linked, and the
time of its host. Host times of the engines that are vLLM of 2023 or came from it are fitted to measured steps
of *other* models than those predicted from them: OPT-13B and 66B under early vLLM (DistServe's profile) and
BLOOM-176B (Splitwise's table). Nothing is fitted to a row that a section of the page shows.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

import numpy as np
from numpy.typing import NDArray

from sim.config.catalog import load_gpu, load_model
from sim.cost.curve_parameters import REFERENCE
from sim.cost.hardware import Gpu
from sim.cost.kernels import Batch, Fusion
from sim.cost.model import ModelShape
from sim.cost.step_time import KernelCost

CONTEXT = 512
"""Of each decoding sequence, where a source gives coefficients and no context."""
A100 = load_gpu("a100-80gb-sxm")
BLOOM = ModelShape(
    "bloom-176b", 70, 14336, 112, 112, 128, 57344, 250_880, 2048, tie_word_embeddings=True, gated_mlp=False
)
SARATHI_CONTEXT = 1022
TOKENS_AS_LINEAR = 2048
"""Beyond so many tokens a step, Splitwise's prompts on 4 and 8 GPUs take more than in proportion."""


@dataclass(frozen=True, slots=True)
class Host:
    """What an engine's host takes, in nanoseconds: a step, a kernel, a sequence, a token of a prompt."""

    step_ns: float
    launch_ns: float
    seq_ns: float
    token_ns: float = 0.0


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine on one model.

    Attributes:
        kernels_per_layer: Launched by it, counted in its code; None: as many as the fused kernel list.
    """

    cost: KernelCost
    host: Host
    kernels_per_layer: int | None = None

    def step_ms(self, batch: Batch) -> float:
        """Kernels, or their launches where those take longer; then the rest of the host."""
        kernels, prompt_tokens = self.cost.kernels, sum(new for new, _, _ in batch.chunks)
        launches = sum(kernel.num_launches for kernel in kernels.of(batch))
        if self.kernels_per_layer is not None:
            launches = self.kernels_per_layer * kernels.model.num_hidden_layers
        device_ns = max(self.cost.device_ns(batch), self.host.launch_ns * launches)
        num_seqs = batch.num_decode_seqs + len(batch.chunks)
        overhead_ns = self.host.step_ns + self.host.seq_ns * num_seqs + self.host.token_ns * prompt_tokens
        return (device_ns + overhead_ns) / 1e6


@dataclass(frozen=True, slots=True)
class Step:
    """A measured step of an engine."""

    name: str
    batch: Batch
    measured_ms: float


def early_gpu(folder: Path, gpu: Gpu = A100) -> Gpu:
    """With prompt attention as fast as early vLLM's on OPT-13B, by its term in the square of the length."""
    fraction = early_attention_fraction(folder)
    attention = replace(REFERENCE.prefill_attention, compute_fraction=fraction)
    return replace(gpu, curves=replace(gpu.curves, prefill_attention=attention))


def early_attention_fraction(folder: Path) -> float:
    """Of the A100's rate: half of all pairs of tokens are attended to."""
    _, _, ms_per_pair = _profile(folder)["vllm"]["facebook/opt-13b"]["1"]["prefill"]
    flops = load_model("opt-13b").attention_flops_per_token_pair / 2
    return float(flops / (ms_per_pair * 1e-3) / A100.compute_flops_per_s)


def early_cost(model: ModelShape, gpu: Gpu, num_gpus: int, *, packs_query_heads: bool = False) -> KernelCost:
    """Fused kernels, launched one by one."""
    return KernelCost(
        model, gpu, tensor_parallel_size=num_gpus, fusion=Fusion.FUSED, packs_query_heads=packs_query_heads
    )


def early_vllm(model: ModelShape, gpu: Gpu, num_gpus: int, host: Host) -> Engine:
    """vLLM of 2023: residuals, cache write and the rotation, where there is one, are kernels of their own."""
    rotates = model.gated_mlp  # of the models here, Llama and its kin
    return Engine(early_cost(model, gpu, num_gpus), host, 14 if rotates else 12)


def distserve_steps(folder: Path, engine: str, model: str, num_gpus: int) -> list[Step]:
    """What the coefficients fitted to measured iterations say for usual sizes."""
    rules = _profile(folder)[engine][f"facebook/{model}"][str(num_gpus)]
    steps = []
    for tokens in (512, 1024, 2048):
        a, b, c = rules["prefill"]
        steps.append(Step(f"prefill {tokens}", prompts(1, tokens), a + b * tokens + c * tokens**2))
    for seqs in (1, 8, 32, 64):
        a, b, c = rules["decoding_smallbs"]
        batch = Batch(seqs, seqs * CONTEXT)
        steps.append(Step(f"decode {seqs}", batch, a + b * seqs * CONTEXT + c * seqs))
    return steps


def splitwise_steps(folder: Path, model: str) -> Iterator[tuple[int, Step]]:
    """Medians of the repetitions, with the number of GPUs; without the truncated rows of two GPUs."""
    prompt_ms, token_ms = defaultdict(list), defaultdict(list)
    for row in read_rows(folder / "splitwise_perf_model_a100.csv"):
        key = (int(row["tensor_parallel"]), int(row["prompt_size"]), int(row["batch_size"]))
        if row["model"] == model and (key[0], key[2]) != (2, 64):
            prompt_ms[key].append(float(row["prompt_time"]))
            token_ms[key].append((float(row["token_time"]), int(row["token_size"])))
    for num_gpus, length, seqs in sorted(prompt_ms):
        key, name = (num_gpus, length, seqs), f"TP {num_gpus} {seqs} x {length}"
        yield num_gpus, Step(f"{name} prompt", prompts(seqs, length), median(prompt_ms[key]))
        times, counts = zip(*token_ms[key], strict=True)
        decode = Batch(seqs, round(seqs * (length + mean(counts) / 2)))
        yield num_gpus, Step(f"{name} token", decode, median(times))


def fit_early_vllm_host(folder: Path) -> tuple[Host, NDArray[np.float64]]:
    """The host of early vLLM with several workers, and the relative errors that are left.

    Least squares on the logarithm of predicted over measured, with a soft-L1 loss that turns linear beyond
    10 %. Starts from the product's own figures and from launches of twice that time, and takes the better
    end: from one of them alone launches may end at nothing, where steps no longer tell of them.
    """
    from scipy.optimize import least_squares

    gpu = early_gpu(folder)
    cases = [*_early_cases(folder, gpu)]

    def logs(values: NDArray[np.float64]) -> NDArray[np.float64]:  # [num_steps]
        host = Host(*map(float, np.exp(values)))
        return np.array([np.log(replace(e, host=host).step_ms(s.batch) / s.measured_ms) for e, s in cases])

    starts = [
        np.log([gpu.step_overhead_ns, launches * gpu.eager_operation_ns, gpu.seq_overhead_ns, 1_000.0])
        for launches in (1, 2)
    ]
    fits = [least_squares(logs, start, loss="soft_l1", f_scale=0.1) for start in starts]
    found = min(fits, key=lambda fit: float(fit.cost))
    return Host(*map(float, np.exp(found.x))), np.expm1(logs(found.x))


def _early_cases(folder: Path, gpu: Gpu) -> Iterator[tuple[Engine, Step]]:
    nobody = Host(0, 0, 0)
    for name, sizes in (("opt-13b", (2, 4)), ("opt-66b", (2, 4, 8))):
        for num_gpus in sizes:
            engine = early_vllm(load_model(name), gpu, num_gpus, nobody)
            yield from ((engine, step) for step in distserve_steps(folder, "vllm", name, num_gpus))
    for num_gpus, step in splitwise_steps(folder, "bloom-176b"):
        if step.batch.num_tokens <= TOKENS_AS_LINEAR:
            yield early_vllm(BLOOM, gpu, num_gpus, nobody), step


def prompts(num_seqs: int, length: int) -> Batch:
    """Whole prompts, each of which gives a token."""
    return Batch(0, 0, ((length, 0, 1),) * num_seqs)


def read_rows(path: Path) -> list[dict[str, str]]:
    """A table with a header."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _profile(folder: Path) -> dict[str, dict[str, dict[str, dict[str, list[float]]]]]:
    text = (folder / "distserve_profile_a100_80g_opt.json").read_text(encoding="utf-8")
    profile: dict[str, dict[str, dict[str, dict[str, list[float]]]]] = json.loads(text)
    return profile


def sarathi_steps(folder: Path) -> Iterator[Step]:
    """Decode batches after 1,020 to 1,023 tokens, and whole prompts, as the figure's script has it."""
    for kind in ("decode", "prefill"):
        for row in read_rows(folder / f"sarathi_osdi24_fig2_{kind}_yi34b_2xa100.csv"):
            size = int(row[f"batch_num_{kind}_tokens"])
            batch = Batch(size, size * SARATHI_CONTEXT) if kind == "decode" else prompts(1, size)
            yield Step(f"{kind} {size}", batch, float(row["batch_execution_time"]) * 1e3)


def sarathi(folder: Path, host: Host, *, packs_query_heads: bool) -> Engine:
    """A fork of vLLM on two PCIe cards with a bridge; its workers keep prompts, so no token travels to them.

    Its attention wrapper copies queries, keys, values and outputs: 18 kernels a layer.
    """
    gpu = early_gpu(folder, load_gpu("a100-80gb-pcie"))
    curves = replace(gpu.curves, all_reduce=A100.curves.all_reduce)
    gpu = replace(gpu, curves=curves, link_bandwidth_bytes_per_s=A100.link_bandwidth_bytes_per_s)
    cost = early_cost(load_model("yi-34b"), gpu, 2, packs_query_heads=packs_query_heads)
    return Engine(cost, replace(host, token_ns=0.0), 18)


def distserve(folder: Path, model: str, num_gpus: int) -> Engine:
    """An engine in C++: the catalogue's own times of the host, and prompt attention of its day."""
    gpu = early_gpu(folder)
    host = Host(gpu.step_overhead_ns, gpu.kernel_launch_ns, gpu.seq_overhead_ns)
    return Engine(early_cost(load_model(model), gpu, num_gpus), host)


def splitwise_h100_steps() -> list[Step]:
    """Llama-2-70B on eight H100, as the paper prints it."""
    steps = [Step(f"H100 prompt {n}", prompts(1, n), ms) for n, ms in ((512, 54), (2048, 137), (8192, 845))]
    return [*steps, Step("H100 token", Batch(1, CONTEXT), 30)]
