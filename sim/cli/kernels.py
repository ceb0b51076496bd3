"""What `pagecast kernels` prints: every kernel of one step, what it moves, computes, and is bound by."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from sim.config import load_experiment
from sim.cost.hardware import Gpu
from sim.cost.kernels import Batch, Fusion, Kernel, KernelKind
from sim.cost.step_time import KernelCost
from sim.errors import ConfigError, Problem
from sim.experiment import Experiment
from sim.metrics.basis import Part
from sim.metrics.confidence import kernel_parts
from sim.simulation import grounds_of

_US, _MB, _GFLOP = 1e3, 1e6, 1e9


def print_kernels(
    config: Path,
    overrides: tuple[str, ...],
    batch: Batch,
    fusion: Fusion | None,
    without_drafts: Batch | None = None,
) -> None:
    """Print the kernels of a step of an experiment's model on its GPU.

    Args:
        config: The experiment.
        overrides: Changes of it.
        batch: What the step computes.
        without_drafts: The same step with nothing to verify, to compare it with; None: do not.
        fusion: Level; None: the experiment's own, or graph where its step times are those of one roofline.

    Raises:
        ConfigError: The experiment is wrong.
    """
    experiment = load_experiment(config, overrides)
    cost = _cost(experiment, fusion or experiment.fusion or Fusion.GRAPH)
    console = Console(width=100)
    console.print(kernel_table(cost, batch, experiment.gpu))
    for part in kernel_parts(grounds_of(experiment)):
        console.print(f"{part.name}: {_range(part)}{part.rests_on}", highlight=False, style="dim")
    console.print(_summary(cost, batch), highlight=False)
    if without_drafts is not None:
        times = [_step_ns(cost, each) for each in (batch, without_drafts)]
        console.print(f"verifying takes {times[0] / times[1]:.2f} times the step without drafts")


def batch_of(num_tokens: int, num_decodes: int, context: int, num_drafts: int = 0) -> Batch:
    """A prompt chunk of so many tokens, and so many decoding sequences, each after `context` others.

    Args:
        num_tokens: Of the chunk; 0: there is none.
        num_decodes: Decoding sequences.
        context: Tokens each had before.
        num_drafts: Drafts that each decoding sequence verifies beside its own token.

    Raises:
        ConfigError: There is nothing to compute, or nobody to verify.
    """
    if num_drafts and not num_decodes:
        raise ConfigError([Problem("--verify", "", "is for --decodes, and there are none")])
    if not num_tokens and not num_decodes:
        raise ConfigError([Problem("--tokens", "", "and --decodes are both 0: a step computes something")])
    chunks = ((num_tokens, context, 1),) if num_tokens else ()
    if not num_drafts:
        return Batch(num_decodes, num_decodes * (context + 1), chunks)
    return Batch(0, 0, (*chunks, *((1 + num_drafts, context, 1 + num_drafts),) * num_decodes))


def fusion_of(name: str | None) -> Fusion | None:
    """The level of that name; None where none is named.

    Raises:
        ConfigError: There is none.
    """
    try:
        return None if name is None else Fusion(name)
    except ValueError as error:
        levels = ", ".join(level.value for level in Fusion)
        raise ConfigError([Problem("--fusion", "", f"'{name}' is none of {levels}")]) from error


def kernel_table(cost: KernelCost, batch: Batch, gpu: Gpu) -> Table:
    """A row a kernel; bytes, operations and time are those of one launch."""
    kernels = cost.kernels
    title = f"{kernels.model.name} on {gpu.name}, fusion: {kernels.fusion.value}, {batch.num_tokens} tokens"
    table = Table(title=title)
    table.add_column("kernel")
    for name in ("launches", "GFLOP", "MB read", "MB written", "us each", "us all"):
        table.add_column(name, justify="right")
    table.add_column("bound by")
    for kernel, kernel_ns in cost.timed_kernels(batch):
        table.add_row(
            kernel.name,
            str(kernel.num_launches),
            f"{float(kernel.flops) / _GFLOP:.3g}",
            f"{float(kernel.bytes_read) / _MB:.3f}",
            f"{float(kernel.bytes_written) / _MB:.3f}",
            f"{kernel_ns / _US:.1f}",
            f"{kernel_ns * kernel.num_launches / _US:.0f}",
            bound_by(kernel, kernel_ns, gpu, cost.peak_flops_per_s(kernel)),
        )
    return table


def bound_by(kernel: Kernel, kernel_ns: float, gpu: Gpu, peak_flops_per_s: float) -> str:
    """What takes the larger part of a kernel's time: computing, moving bytes, or just being launched."""
    if kernel.kind in (KernelKind.ALL_REDUCE, KernelKind.SEND):
        return "link"
    compute_ns = float(kernel.flops) / peak_flops_per_s * 1e9
    memory_ns = float(kernel.num_bytes) / gpu.memory_bandwidth_bytes_per_s * 1e9
    if max(compute_ns, memory_ns) < kernel_ns / 4:
        return "launch"
    return "compute" if compute_ns > memory_ns else "bandwidth"


def _range(part: Part) -> str:
    """How far measured times lie from a part's, where that is known."""
    if part.shorter_fraction is None:
        return ""
    longer = "" if part.longer_fraction is None else f", +{100 * part.longer_fraction:.0f} %"
    return f"-{100 * part.shorter_fraction:.0f} %{longer}: "


def _summary(cost: KernelCost, batch: Batch) -> str:
    device_ns, host_ns = cost.device_ns(batch), cost.host_ns(batch)
    overhead_ns = cost.overhead_ns(batch.num_decode_seqs + len(batch.chunks))
    hidden = "hidden" if host_ns < device_ns else "not hidden"
    stages = cost.kernels.pipeline_parallel_size
    slowest = (
        f"; slowest of {stages} stages {cost.slowest_stage_ns(batch) / 1e6:.3f} ms" if stages > 1 else ""
    )
    return (
        f"kernels {device_ns / 1e6:.3f} ms, launches {host_ns / 1e6:.3f} ms ({hidden}), "
        f"host overhead {overhead_ns / 1e6:.3f} ms: step {_step_ns(cost, batch) / 1e6:.3f} ms{slowest}"
    )


def _step_ns(cost: KernelCost, batch: Batch) -> float:
    overhead_ns = cost.overhead_ns(batch.num_decode_seqs + len(batch.chunks))
    return max(cost.device_ns(batch), cost.host_ns(batch)) + overhead_ns


def _cost(experiment: Experiment, fusion: Fusion) -> KernelCost:
    return KernelCost(
        experiment.model,
        experiment.gpu,
        tensor_parallel_size=experiment.tensor_parallel_size,
        pipeline_parallel_size=experiment.pipeline_parallel_size,
        block_size=experiment.paged_block_size,
        attention=experiment.attention,
        fusion=fusion,
    )
