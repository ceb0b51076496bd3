"""What `simulate`, `check` and `compare` print, and in which order; the work itself is elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from sim.cluster import Progress as Report
from sim.compare import compare_runs
from sim.config import Experiment, load_experiment
from sim.cost.memory import gpu_memory
from sim.recording import Recorded, record_experiment
from sim.report.tables import comparison_table, summary_table
from sim.results import dump_summary, load_run
from workloads.generate import build

NS_PER_S = 1e9


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asked `simulate` for."""

    config: Path
    overrides: tuple[str, ...]
    out: Path | None = None
    shows_progress: bool = False


def simulate_one(request: Request, *, as_json: bool) -> None:
    """Simulate one experiment and print its numbers."""
    experiment = load_experiment(request.config, request.overrides)
    recorded = _record(experiment, request)
    if as_json:
        sys.stdout.write(dump_summary(recorded.run.summary))
        return
    console = Console()
    console.print(summary_table(recorded.folder.name, recorded.run.summary))
    pictures = sorted((recorded.folder / "plots").glob("*.png"))
    console.print(f"Run folder  {recorded.folder}", soft_wrap=True, highlight=False)
    for picture in pictures:
        console.print(f"Picture     {picture}", soft_wrap=True, highlight=False)


def simulate_and_compare(request: Request, variations: Sequence[str]) -> None:
    """Simulate an experiment once for each variation and print the runs side by side."""
    experiments = [
        load_experiment(request.config, (*request.overrides, variation)) for variation in variations
    ]
    runs = []
    for variation, experiment in zip(variations, experiments, strict=True):
        recorded = _record(experiment, request)
        runs.append((variation.partition("=")[2].strip(), recorded.run))
        Console().print(f"Run folder  {recorded.folder}", soft_wrap=True, highlight=False)
    if len(runs) > 1:
        Console().print(comparison_table(compare_runs(runs)))


def compare_folders(folders: Sequence[Path]) -> None:
    """Print the runs in these folders side by side."""
    Console().print(comparison_table(compare_runs([(folder.name, load_run(folder)) for folder in folders])))


def check_one(config: Path, overrides: tuple[str, ...]) -> None:
    """Load everything an experiment needs, and print what it comes to."""
    experiment = load_experiment(config, overrides)
    workload = build(experiment.workload, seed=experiment.seed)
    memory = gpu_memory(
        experiment.model, experiment.gpu, tensor_parallel_size=experiment.tensor_parallel_size
    )
    cache = experiment.engine.cache
    lines = {
        "model": f"{experiment.settings['model']}, {memory.weight_bytes / 1e9:.1f} GB of weights on each GPU",
        "fleet": f"{experiment.cluster.num_replicas} x {experiment.tensor_parallel_size} "
        f"{experiment.settings['hardware']} ({experiment.num_gpus} GPUs)",
        "KV cache": f"{cache.num_blocks:,} blocks of {cache.block_size} tokens on each replica, "
        f"{cache.num_blocks * cache.block_size:,} tokens",
        "workload": f"{len(workload):,} requests, {workload.total_prompt_tokens:,} prompt and "
        f"{workload.total_output_tokens:,} output tokens",
    }
    sys.stdout.write(f"{config}: fine\n")
    for name, text in lines.items():
        sys.stdout.write(f"  {name:<9} {text}\n")
    _warn((*experiment.warnings, *workload.notes))


def _record(experiment: Experiment, request: Request) -> Recorded:
    with _progress(experiment.name, shown=request.shows_progress) as report:
        recorded = record_experiment(experiment, folder=request.out, on_progress=report)
    _warn(recorded.notes)
    return recorded


def _warn(messages: Sequence[str]) -> None:
    console = Console(stderr=True)
    for message in messages:
        console.print(f"[yellow]warning:[/yellow] {message}", soft_wrap=True, highlight=False)


@contextmanager
def _progress(name: str, *, shown: bool) -> Iterator[Report | None]:
    """A bar on standard error with simulated time and requests done."""
    if not shown:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}"),
        TextColumn("simulated {task.fields[now]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None, done="making the workload", now="0 s")

        def report(now_ns: int, num_ended: int, num_requests: int) -> None:
            now = f"{now_ns / NS_PER_S:,.0f} s"
            done = f"{num_ended:,} of {num_requests:,} requests"
            bar.update(task, completed=num_ended, total=num_requests, done=done, now=now)

        yield report
