"""Tables for a terminal: one run with every number's definition beside it, or several runs side by side."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from sim.compare import Comparison, Row, title_of
from sim.metric_keys import definition_of, statistic_key
from sim.metrics import Number, Summary
from sim.metrics_definitions import LATENCIES, Group, Metric

COMPACT = (
    "request_throughput",
    "request_goodput",
    "median_ttft_ms",
    "p99_ttft_ms",
    "median_tpot_ms",
    "p99_tpot_ms",
    "sim_mean_batch_size",
)
"""Columns of the short table, one row a run."""
STATISTICS = ("mean", "median", "p90", "p99")
_ABSENT = "-"


def summary_table(run_name: str, summary: Summary) -> RenderableType:
    """All numbers of a run, grouped, with their definitions."""
    parts: list[RenderableType] = [Text(f"{summary.identity.experiment}  {run_name}", style="bold")]
    for group in Group:
        table = _latencies(summary) if group is Group.LATENCY else _scalars(summary, group)
        if table.row_count:
            parts += [Text(), table]
        if group is Group.LATENCY and table.row_count:
            parts.append(_latency_definitions(summary))
    if summary.notes:
        parts.append(Text())
        parts += [Text(f"Note: {note}", style="yellow") for note in summary.notes]
    return Stack(*parts)


def _scalars(summary: Summary, group: Group) -> Table:
    table = _table()
    table.add_column(group.value, no_wrap=True, min_width=24)
    table.add_column("", justify="right", no_wrap=True, min_width=16)
    table.add_column("definition", ratio=1, style="dim", header_style="dim")
    for key, value in summary.values.items():
        metric = definition_of(key)
        if metric is not None and metric.group is group and value is not None:
            table.add_row(f"  {metric.title}", _with_unit(value, metric), metric.formula)
    return table


def _latencies(summary: Summary) -> Table:
    table = _table()
    table.add_column(Group.LATENCY.value, no_wrap=True, min_width=24)
    for statistic in STATISTICS:
        table.add_column(statistic, justify="right", no_wrap=True, min_width=9)
    for metric, values in _measured_latencies(summary):
        table.add_row(f"  {metric.title} ({metric.unit})", *map(_number, values))
    return table


def _latency_definitions(summary: Summary) -> Table:
    table = _table(show_header=False)
    table.add_column(no_wrap=True, min_width=24, style="dim")
    table.add_column(ratio=1, style="dim")
    for metric, _ in _measured_latencies(summary):
        table.add_row(f"    {metric.title}", metric.formula)
    return table


def _measured_latencies(summary: Summary) -> Iterator[tuple[Metric, list[Number]]]:
    for metric in LATENCIES:
        values = [summary.values.get(statistic_key(name, metric.name)) for name in STATISTICS]
        if any(value is not None for value in values):
            yield metric, values


def _table(*, show_header: bool = True) -> Table:
    return Table(
        box=None,
        pad_edge=False,
        expand=True,
        padding=(0, 3, 0, 0),
        header_style="bold cyan",
        show_header=show_header,
    )


def comparison_table(comparison: Comparison) -> RenderableType:
    """One row a run, then the settings in which they differ."""
    rows = [row for row in comparison.rows if len(set(row.values)) > 1 or row.key == "completed"]
    numbers = Table(header_style="bold cyan", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    numbers.add_column("number", no_wrap=True)
    for place in range(len(comparison.names)):
        numbers.add_column(f"[{place + 1}]", justify="right", no_wrap=True)
        if place:
            numbers.add_column(f"[{place + 1}]/[1]", justify="right", no_wrap=True, style="dim")
    for row in rows:
        numbers.add_row(title_of(row.key), *_comparison_cells(row))
    compact = Table(header_style="bold cyan", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    compact.add_column("run", no_wrap=True)
    shown = [row for row in comparison.rows if row.key in COMPACT]
    for row in shown:
        compact.add_column(title_of(row.key), justify="right")
    for place in range(len(comparison.names)):
        compact.add_row(Text(f"[{place + 1}]"), *(_number(row.values[place]) for row in shown))
    settings = Table(header_style="bold cyan", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    settings.add_column("setting that differs", no_wrap=True)
    for place in range(len(comparison.names)):
        settings.add_column(f"[{place + 1}]")
    for setting in comparison.settings:
        settings.add_row(setting.key, *setting.values)
    names = [Text(f"[{place}] {name}") for place, name in enumerate(comparison.names, 1)]
    return Stack(*names, Text(), compact, Text(), numbers, Text(), settings)


def _comparison_cells(row: Row) -> Iterator[str]:
    for place, value in enumerate(row.values):
        yield _number(value)
        if place:
            ratio = row.ratio(place)
            yield f"{ratio:.2f}x" if ratio is not None else _ABSENT


def _with_unit(value: Number, metric: Metric) -> str:
    if metric.unit == "fraction" and value is not None:
        return f"{value:.1%}"
    return f"{_number(value)} {metric.unit}".rstrip()


def _number(value: Number) -> str:
    """Four significant digits, thousands apart; whole numbers in full."""
    if value is None:
        return _ABSENT
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
