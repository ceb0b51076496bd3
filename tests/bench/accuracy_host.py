"""How much of a step the host takes: vLLM 0.5.3 and 0.6 on H100, from figures of their announcement.

A section of results/accuracy.md.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sim.config.catalog import load_gpu, load_model
from sim.cost.hardware import Gpu
from sim.cost.kernels import Batch, Fusion
from sim.cost.step_time import KernelCost

TOKEN_MS, SERVER_SHARE, SCHEDULING_SHARE, GPU_SHARE = 13.0, 0.33, 0.29, 0.38
"""vLLM 0.5.3, Llama-3-8B on one H100, light load: a token, and what it is spent on (vLLM blog, 2024-09)."""
STEPS_AT_A_TIME = 10
"""Steps that vLLM 0.6 schedules at once (multi-step scheduling); assumed."""
BATCH = Batch(1, 300)
MODELS = (("llama-3-8b", 1, 2.7), ("llama-3-70b", 4, 1.8))
"""Model, GPUs, and by how much throughput grew from 0.5.3 to 0.6."""


def hosts() -> dict[str, float]:
    """Milliseconds of the host in a step that the GPU waits for.

    In 0.6 the server is a process of its own beside the GPU, and one scheduling serves many steps.
    """
    server, scheduling = TOKEN_MS * SERVER_SHARE, TOKEN_MS * SCHEDULING_SHARE
    return {"0.5.3": server + scheduling, "0.6": scheduling / STEPS_AT_A_TIME}


def with_host(host_ms: float) -> Gpu:
    """An H100 whose host takes so long for a step."""
    return replace(load_gpu("h100-sxm"), step_overhead_ns=round(host_ms * 1e6), seq_overhead_ns=0.0)


def step_ms(model: str, num_gpus: int, host_ms: float) -> tuple[float, float]:
    """A step, and its kernels alone."""
    gpu = with_host(host_ms)
    cost = KernelCost(load_model(model), gpu, tensor_parallel_size=num_gpus, fusion=Fusion.GRAPH)
    device = max(cost.device_ns(BATCH), cost.host_ns(BATCH))
    return (device + cost.overhead_ns(1)) / 1e6, device / 1e6


def section(_data: Path) -> list[str]:
    """Lines of Markdown."""
    rows, growth = [], []
    for model, num_gpus, published in MODELS:
        steps = []
        for version, host_ms in hosts().items():
            step, device = step_ms(model, num_gpus, host_ms)
            steps.append(step)
            cells = f"{device:.2f} | {step - device:.2f} | {step:.2f} | {(step - device) / step:.0%}"
            rows.append(f"| {model}, {num_gpus} GPU | {version} | {cells} |")
        growth.append(f"{model} {steps[0] / steps[1]:.2f} ({published})")
    _, device = step_ms("llama-3-8b", 1, 0.0)
    gpu_ms = TOKEN_MS * GPU_SHARE
    off = device / gpu_ms - 1
    llama, gpu = load_model("llama-3-8b"), load_gpu("h100-sxm")
    read = llama.weight_bytes - 2 * llama.num_head_parameters  # the input embedding is not read
    weights_ms = read / gpu.memory_bandwidth_bytes_per_s * 1e3
    table = "\n".join(rows)
    text = f"""## The host's share

vLLM 0.5.3 spent 13 ms on a token of Llama-3-8B on an H100 at light load; 33 % of its time went to the HTTP
server, 29 % to scheduling, 38 % to the GPU. 0.6 moved the server to a process of its own and schedules many
steps at a time, here {STEPS_AT_A_TIME}. Kernels are predicted; the host's times are those parts of 13 ms.

| model | vLLM | kernels ms | host ms | step ms | host's share |
| --- | --- | ---: | ---: | ---: | ---: |
{table}

Measured for 0.5.3 on 8B: 62 %. The GPU's 38 % of 13 ms would be {gpu_ms:.1f} ms; kernels are predicted
{off:+.0%} from that, and the weights alone take {weights_ms:.1f} ms at the whole bandwidth. Steps of 0.5.3
over those of 0.6, and what was published for throughput under load: {", ".join(growth)}.
"""
    return text.split("\n")
