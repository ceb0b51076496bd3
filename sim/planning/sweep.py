"""A sweep from its file to its table: points, runs under keys of their content, a folder that can be resumed.

    sweep.json      what is swept, of which experiment, with which code: whose folder this is
    rows/           a file a run, as soon as it is done
    runs/           whole runs, where they are kept
    runs.csv, points.csv (and .parquet)     made anew at the end of each session

A sweep that is killed and started again finds its rows and simulates what is missing; the tables are then the
same, byte for byte. Refuses to print.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.config import load_experiment
from sim.errors import ConfigError, Problem
from sim.planning.axes import AxisError
from sim.planning.point_run import Row, Task, code_version, overrides_with_seed
from sim.planning.points import Axes, Setting, overrides_of, points_of, replication_seeds
from sim.planning.tables import point_records, run_records, write_table
from sim.planning.workers import run_in_a_pool, run_in_this_process, run_on_ray

MANIFEST = "sweep.json"
ROWS, RUNS = "rows", "runs"


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is asked for.

    Attributes:
        config: The experiment file.
        overrides: Changes to it that all points share.
        axes: What is varied.
        replications: Runs of each point.
        keeps_runs: Whether whole run folders are kept.
        shard: (which, of how many), from 1: only so many of the runs.
    """

    config: Path
    overrides: tuple[str, ...]
    axes: Axes
    replications: int = 1
    keeps_runs: bool = False
    shard: tuple[int, int] = (1, 1)


@dataclass(frozen=True, slots=True)
class Where:
    """Which processes simulate: this one, a pool, or a Ray cluster by its address (None: a local one)."""

    num_workers: int = 1
    is_ray: bool = False
    address: str | None = None


ONE_PROCESS = Where()


@dataclass(frozen=True, slots=True)
class Swept:
    """What came of it."""

    folder: Path
    points: list[Setting]
    rows: list[tuple[Task, Row]]
    files: list[Path]

    @property
    def failed(self) -> list[tuple[Task, Row]]:
        """Runs without numbers."""
        return [pair for pair in self.rows if pair[1].error]


OnRow = Callable[[int, int, int], None]
"""Called with runs done, runs failed, runs in all."""


def run_sweep(
    sweep: Sweep, folder: Path | None = None, *, where: Where = ONE_PROCESS, on_row: OnRow | None = None
) -> Swept:
    """Simulate what is missing of a sweep, and write its tables.

    Args:
        sweep: What is asked for.
        folder: Its folder, new or of an earlier session; None: `<results>/<experiment>/sweep-<hash>`.
        where: Which processes simulate.
        on_row: Told of each run that is done.

    Raises:
        ConfigError: The experiment, an axis or a key is wrong; the folder is another sweep's, was made by
            other code, or cannot be written.
    """
    base = load_experiment(sweep.config, sweep.overrides)
    try:
        points = points_of(sweep.axes, base.seed)
    except AxisError as error:
        raise ConfigError([Problem(str(sweep.config), "sweep", str(error))]) from error
    _refuse_unknown_keys(sweep)
    code = code_version()
    about = {"config": base.resolved(), "points": points, "replications": sweep.replications, "code": code}
    if folder is None:
        folder = base.results_dir / base.name / f"sweep-{_digest({**about, 'code': ''})[:8]}"
    _claim(folder, about)
    tasks = list(_tasks(sweep, points, base.seed, folder, code))
    which, of = sweep.shard
    mine = tasks[which - 1 :: of]
    rows: list[tuple[Task, Row]] = []
    num_failed = 0
    for task, row in _simulate(mine, where):
        rows.append((task, row))
        num_failed += bool(row.error)
        if on_row is not None:
            on_row(len(rows) - num_failed, num_failed, len(mine))
    files = [
        *write_table(folder / _named("runs", sweep), run_records(points, rows)),
        *write_table(folder / _named("points", sweep), point_records(points, rows)),
    ]
    return Swept(folder, points, rows, files)


def _simulate(tasks: Sequence[Task], where: Where) -> Iterator[tuple[Task, Row]]:
    if where.is_ray:
        return run_on_ray(tasks, where.address)
    if where.num_workers == 1:
        return run_in_this_process(tasks)
    return run_in_a_pool(tasks, where.num_workers)


def _named(name: str, sweep: Sweep) -> str:
    which, of = sweep.shard
    return name if of == 1 else f"{name}-{which}-of-{of}"


def _tasks(sweep: Sweep, points: Sequence[Setting], seed: int, folder: Path, code: str) -> Iterator[Task]:
    runs = folder / RUNS if sweep.keeps_runs else None
    for number, point in enumerate(points):
        seeds = replication_seeds(point.get("seed", seed), sweep.replications)
        for replication, own_seed in enumerate(seeds):
            yield Task(
                number=number * sweep.replications + replication,
                point=number,
                replication=replication,
                config=sweep.config,
                overrides=overrides_with_seed((*sweep.overrides, *overrides_of(point)), own_seed),
                store=folder / ROWS,
                runs=runs,
                code=code,
            )


def _refuse_unknown_keys(sweep: Sweep) -> None:
    """A key that no experiment has is a mistake of the whole sweep; a value that does not do is a row's.

    Raises:
        ConfigError: With every such key.
    """
    problems: dict[Problem, None] = {}
    for key in sweep.axes.keys:
        try:
            load_experiment(sweep.config, (*sweep.overrides, f"{key}=null"))
        except ConfigError as error:
            problems |= dict.fromkeys(found for found in error.problems if "unknown key" in found.message)
    if problems:
        raise ConfigError(list(problems))


def _claim(folder: Path, about: dict[str, Any]) -> None:
    """Make a sweep's folder, or see that this one is its own.

    Raises:
        ConfigError: It is not, or cannot be written.
    """
    path = folder / MANIFEST
    try:
        if path.exists():
            _refuse_another(folder, json.loads(path.read_text(encoding="utf-8")), about)
            return
        if folder.is_dir() and any(folder.iterdir()):
            raise ConfigError([Problem(str(folder), "", "is no folder of a sweep, and is not empty")])
        (folder / ROWS).mkdir(parents=True, exist_ok=True)
        partial = folder / f".{MANIFEST}"
        partial.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        partial.rename(path)
    except OSError as error:
        raise ConfigError([Problem(str(folder), "", f"cannot be written: {error.strerror}")]) from error
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError([Problem(str(path), "", "is damaged: give another --out")]) from error


def _refuse_another(folder: Path, found: dict[str, Any], about: dict[str, Any]) -> None:
    wanted = json.loads(json.dumps(about))
    if found.get("code") != wanted["code"]:
        message = "was made by another version of the code: its rows would not be these; give another --out"
        raise ConfigError([Problem(str(folder), "", message)])
    for part in ("config", "points", "replications"):
        if found.get(part) != wanted[part]:
            message = f"is the folder of another sweep ({part} differ): give another --out"
            raise ConfigError([Problem(str(folder), "", message)])


def _digest(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
