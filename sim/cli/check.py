"""What `pagecast check` prints: everything an experiment comes to short of running it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from sim.cli.console import warn
from sim.config import Experiment, load_experiment
from sim.cost.memory import gpu_memory
from sim.errors import ConfigError
from workloads.errors import WorkloadError
from workloads.generate import build
from workloads.spec import Workload


def check_all(configs: Sequence[Path], overrides: tuple[str, ...]) -> bool:
    """Check every file, also after one that is wrong; whether all are fine."""
    verdicts = [_is_fine(config, overrides) for config in configs]
    return all(verdicts)


def _is_fine(config: Path, overrides: tuple[str, ...]) -> bool:
    try:
        experiment = load_experiment(config, overrides)
        workload = build(experiment.workload, seed=experiment.seed)
    except (ConfigError, WorkloadError) as error:
        sys.stderr.write(f"{error}\n")
        return False
    sys.stdout.write(f"{config}: fine\n")
    for name, text in _facts(experiment, workload).items():
        sys.stdout.write(f"  {name:<9} {text}\n")
    sys.stdout.flush()
    warn((*experiment.warnings, *workload.notes))
    return True


def _facts(experiment: Experiment, workload: Workload) -> dict[str, str]:
    memory = gpu_memory(
        experiment.model,
        experiment.gpu,
        tensor_parallel_size=experiment.tensor_parallel_size,
        pipeline_parallel_size=experiment.pipeline_parallel_size,
    )
    held = "each GPU" if experiment.pipeline_parallel_size == 1 else "the fullest GPU"
    cache = experiment.engine.cache
    gpus = f"{_count(experiment.num_gpus, 'GPU')} ({experiment.settings['hardware']})"
    return {
        "model": f"{experiment.settings['model']}, {memory.weight_bytes / 1e9:.1f} GB of weights on {held}",
        "fleet": f"{_count(experiment.cluster.num_replicas, 'replica')} on {gpus}",
        "KV cache": f"{cache.num_blocks:,} blocks of {cache.block_size} tokens on each replica, "
        f"{cache.num_blocks * cache.block_size:,} tokens",
        "workload": f"{_count(len(workload), 'request')}, {workload.total_prompt_tokens:,} prompt and "
        f"{workload.total_output_tokens:,} output tokens{_too_long(experiment, workload)}"
        f"{_left_out(workload)}",
    }


def _left_out(workload: Workload) -> str:
    """How many rows of a trace are not among the requests, and why."""
    if not workload.left_out:
        return ""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in workload.left_out.items())
    return f"; left out: {reasons}"


def _too_long(experiment: Experiment, workload: Workload) -> str:
    """How many requests the engine will refuse, if any."""
    limit = experiment.engine.scheduler.max_model_len
    num_refused = int((workload.prompt_tokens >= limit).sum())
    if not num_refused:
        return ""
    return f"; {num_refused:,} with prompts that max_model_len {limit:,} refuses"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
