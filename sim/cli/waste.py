"""`pagecast explain-waste`: one instant of one workload, under contiguous reservation and under paging."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sim.config import load_experiment
from sim.core.own_memory import OwnMemoryConfig
from sim.core.reservation import Reservation
from sim.errors import ConfigError, Problem
from sim.experiment import Experiment
from sim.fleet.cluster import Physics
from sim.metrics.memory_map import MemoryMap, contiguous, memory_map, paged
from sim.metrics.summary import NS_PER_S
from sim.report.canvas import save
from sim.report.memory_picture import Panel, draw_memory
from sim.results.writable import refuse_unwritable_files, telling_unwritable
from sim.simulation import core_at, experiment_cost
from sim.units import UnitError, parse_duration_ns
from workloads.generate import build
from workloads.spec import Workload

PAGED = "paged"
_STATES = (
    ("tokens", "hold the keys and values of a token"),
    ("reserved", "kept for tokens that a running sequence will come to"),
    ("internal", "held by a sequence, and no token will ever come"),
    ("external", "held by nobody: free, or lost to the allocator's rounding"),
)


def explain(config: Path, overrides: Sequence[str], at: str | None, reservation: str, out: Path) -> None:
    """Print the shares under every kind of memory, and draw one kind of reservation beside paging.

    Raises:
        ConfigError: The experiment cannot be read, or cannot be run under contiguous reservation.
    """
    drawn = _reservation(reservation)
    refuse_unwritable_files(out.with_suffix(".svg"), out.with_suffix(".png"))
    experiment = load_experiment(config, overrides)
    workload = build(experiment.workload, seed=experiment.seed)
    instant_ns = _instant_ns(at, workload)
    maps = _maps(experiment, workload, instant_ns)
    Console().print(_table(maps, instant_ns))
    *_, blockwise = maps
    panels = [Panel(_title(name, maps[name]), maps[name]) for name in (drawn.value, blockwise)]
    heading = f"{experiment.name}: the same requests in the same memory at {_time(instant_ns)}"
    with telling_unwritable(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        files = save(lambda: draw_memory(panels, heading), out)
    for file in files:
        sys.stdout.write(f"Picture     {file}\n")


def _problem(key: str, message: str) -> ConfigError:
    return ConfigError([Problem(key, "", message)])


def _reservation(name: str) -> Reservation:
    try:
        return Reservation(name)
    except ValueError as error:
        known = ", ".join(rule.value for rule in Reservation)
        raise _problem("--reservation", f"must be one of {known}, not {name!r}") from error


def _instant_ns(at: str | None, workload: Workload) -> int:
    if at is None:
        return max(int(workload.arrival_ns[-1]) // 2, 1)
    try:
        return parse_duration_ns(at)
    except UnitError as error:
        raise _problem("--at", str(error)) from error


def _maps(experiment: Experiment, workload: Workload, instant_ns: int) -> dict[str, MemoryMap]:
    physics = Physics(experiment_cost(experiment), experiment.traffic, experiment.beams)
    try:
        engines = {rule.value: contiguous(experiment.engine, rule) for rule in Reservation}
    except ValueError as error:
        raise _problem("engine.max_model_len", str(error)) from error
    as_paged = memory_map(core_at(workload, paged(experiment.engine), physics, instant_ns))
    if not as_paged.num_running:
        raise _problem("--at", f"nothing runs at {_time(instant_ns)}: look at another instant")
    maps = {
        name: memory_map(core_at(workload, engine, physics, instant_ns)) for name, engine in engines.items()
    }
    maps[PAGED] = as_paged
    memory = experiment.engine.cache
    if isinstance(memory, OwnMemoryConfig):
        maps[memory.name] = memory_map(core_at(workload, experiment.engine, physics, instant_ns))
    return maps


def _title(name: str, found: MemoryMap) -> str:
    kind = f"Allocated by {name}"
    if name == PAGED:
        kind = "Paged: blocks on demand"
    elif name in {rule.value for rule in Reservation}:
        kind = f"Contiguous: reserve {name}"
    return f"{kind}   |   {found.num_running:,} sequences run, {found.num_waiting:,} wait"


def _table(maps: dict[str, MemoryMap], instant_ns: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold cyan", padding=(0, 2, 0, 0))
    table.add_column(f"Slots at {_time(instant_ns)}", no_wrap=True)
    for name in maps:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", style="dim")
    for state, meaning in _STATES:
        shares = [f"{getattr(found.shares, state):.1%}" for found in maps.values()]
        table.add_row(state, *shares, meaning)
    table.add_row("running", *(f"{found.num_running:,}" for found in maps.values()), "sequences")
    table.add_row("waiting", *(f"{found.num_waiting:,}" for found in maps.values()), "sequences")
    return table


def _time(instant_ns: int) -> str:
    return f"{instant_ns / NS_PER_S:,.4g} s"
