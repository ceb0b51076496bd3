"""What `sweep` prints: one live line while it runs, then its points and where the tables are."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sim.config.loading import load_sweep
from sim.config.sweep import SweepSection
from sim.config.yaml_source import parse_yaml
from sim.errors import ConfigError, Problem
from sim.planning.points import Axes, Sample
from sim.planning.sweep import OnRow, Sweep, Swept, Where, run_sweep

SHOWN = 20
"""Points of the table in the terminal; the files have all."""
COLUMNS = (
    ("request_throughput", "req\nper s"),
    ("output_throughput", "tokens\nper s"),
    ("median_ttft_ms", "TTFT ms\nmedian"),
    ("p99_ttft_ms", "\np99"),
    ("median_tpot_ms", "TPOT ms\nmedian"),
    ("p99_e2el_ms", "E2E ms\np99"),
    ("sim_slo_attainment", "goals\nmet"),
)


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asked `sweep` for."""

    config: Path
    overrides: tuple[str, ...]
    grid: tuple[str, ...]
    zips: tuple[str, ...]
    replications: int | None
    shard: str | None
    keep: str | None
    where: Where
    out: Path | None
    shows_progress: bool


def sweep_one(request: Request) -> bool:
    """Run a sweep and print what came of it; False if every run failed."""
    sweep = _sweep_of(request)
    with _live_line(request.shows_progress) as on_row:
        swept = run_sweep(sweep, request.out, where=request.where, on_row=on_row)
    _print(swept, sweep.axes.keys)
    return len(swept.failed) < len(swept.rows) or not swept.rows


def _sweep_of(request: Request) -> Sweep:
    section = load_sweep(request.config, request.overrides)
    axes = _axes(section, request)
    if not axes.keys:
        message = "varies nothing: give --grid KEY=A,B,C, or a sweep section in the file"
        raise ConfigError([Problem(str(request.config), "sweep", message)])
    if request.keep not in (None, "runs"):
        raise ConfigError([Problem("--keep", "", f"must be runs, not '{request.keep}'")])
    return Sweep(
        request.config,
        request.overrides,
        axes,
        request.replications or (1 if section is None else section.replications),
        keeps_runs=request.keep is not None,
        shard=_shard(request.shard),
    )


def _axes(section: SweepSection | None, request: Request) -> Axes:
    """What the file varies, and what the command line varies besides, or otherwise."""
    grid = dict(map(_axis, request.grid))
    zips = tuple(dict(map(_axis, group.split(";"))) for group in request.zips)
    if section is None:
        return Axes(grid, zips)
    sample = None
    if section.sample is not None:
        is_latin = section.sample.method == "latin_hypercube"
        sample = Sample(section.sample.keys, section.sample.points, is_latin)
    return Axes({**section.grid, **grid}, (*section.zip, *zips), sample, section.only_if)


def _axis(text: str) -> tuple[str, list[Any] | str]:
    """`KEY=A,B,C` or `KEY=1..64 log 7`; commas inside of braces and brackets separate nothing."""
    key, equals, written = text.partition("=")
    source = f"--grid {key.strip()}"
    if not equals or not key.strip() or not written.strip():
        message = "is not KEY=A,B,C, such as engine.block_size=16,32"
        raise ConfigError([Problem(f"--grid {text}", "", message)])
    if ".." in written and "," not in written:
        return key.strip(), written.strip()
    document = parse_yaml(f"[{written}]", source, has_places=False)
    if document.problems:
        raise ConfigError(document.problems)
    return key.strip(), list(document.data)


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 1
    which, _, of = text.partition("/")
    if not (which.isdecimal() and of.isdecimal() and 1 <= int(which) <= int(of)):
        message = f"must be like 2/4, the second of four, not '{text}'"
        raise ConfigError([Problem("--shard", "", message)])
    return int(which), int(of)


@contextmanager
def _live_line(shown: bool) -> Iterator[OnRow | None]:
    """Runs done, failed, left, and the time that is left."""
    if not shown:
        yield None
        return
    columns = (
        TextColumn("{task.fields[state]}", markup=False),
        BarColumn(bar_width=None),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task("sweep", total=None, state="preparing")

        def on_row(num_done: int, num_failed: int, num_all: int) -> None:
            left = num_all - num_done - num_failed
            state = f"{num_done:,} done, {num_failed:,} failed, {left:,} left"
            bar.update(task, completed=num_done + num_failed, total=num_all, state=state)

        yield on_row


def _print(swept: Swept, keys: Sequence[str]) -> None:
    Console().print(_table(swept, keys))
    num_left_out = len(swept.points) - SHOWN
    if num_left_out > 0:
        sys.stdout.write(f"... and {num_left_out:,} points more, in the tables\n")
    num_done = len(swept.rows) - len(swept.failed)
    sys.stdout.write(f"Runs        {num_done:,} of {len(swept.rows):,} have numbers\n")
    for error in list(dict.fromkeys(row.error for _, row in swept.failed))[:5]:
        sys.stdout.write(f"Failed      {error.splitlines()[0]}\n")
    for path in swept.files:
        sys.stdout.write(f"Table       {path}\n")


def _table(swept: Swept, keys: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold cyan", padding=(0, 1, 0, 0))
    for key in keys:
        table.add_column(key.replace(".", ".\n"), overflow="fold")
    for _, title in COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    for number, point in enumerate(swept.points[:SHOWN]):
        good = [row for task, row in swept.rows if task.point == number and not row.error]
        numbers = [_mean([row.values.get(key) for row in good]) for key, _ in COLUMNS]
        shown = [_text(key, value) for (key, _), value in zip(COLUMNS, numbers, strict=True)]
        table.add_row(*(str(point.get(key, "-")) for key in keys), *(shown if good else ["failed"]))
    return table


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _text(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if key == "sim_slo_attainment" else f"{value:,.4g}"
