"""Tables for a terminal: one run with every number's definition beside it, or several runs side by side.

What is left out is what says nothing: failures that did not happen, a step gap that equals the ITL, the
parts of a recomputation where nobody was preempted. `summary.json` has them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from sim.metrics.definitions import LATENCIES, Group, Metric
from sim.metrics.keys import GOALS, definition_of, statistic_key
from sim.metrics.summary import Number, Summary
from sim.report.basis import basis_tables
from sim.report.numbers import number_text, share_text
from sim.results.compare import Comparison, Row

STATISTICS = ("mean", "median", "p90", "p99")
COLUMNS = (
    ("request_throughput", "req\nper s"),
    ("output_throughput", "tokens\nper s"),
    ("sim_slo_attainment", "goals\nmet"),
    ("median_ttft_ms", "TTFT ms\nmedian"),
    ("p99_ttft_ms", "\np99"),
    ("median_tpot_ms", "TPOT ms\nmedian"),
    ("p99_e2el_ms", "E2E ms\np99"),
    ("sim_mean_kv_usage_fraction", "KV\nmean"),
)
"""What is worth a column when each run is one row."""
ROWS = (
    "completed",
    "failed",
    "duration",
    "request_throughput",
    "request_goodput",
    "sim_slo_attainment",
    "output_throughput",
    "total_token_throughput",
    "mean_ttft_ms",
    "median_ttft_ms",
    "p99_ttft_ms",
    "mean_tpot_ms",
    "median_tpot_ms",
    "p99_tpot_ms",
    "p99_itl_ms",
    "mean_e2el_ms",
    "median_e2el_ms",
    "p99_e2el_ms",
    "sim_mean_queue_time_ms",
    "sim_mean_running",
    "sim_mean_waiting",
    "sim_mean_batch_size",
    "sim_mean_kv_usage_fraction",
    "sim_peak_kv_usage_fraction",
    "sim_prefix_hit_rate",
    "sim_preemptions",
    "sim_acceptance_rate",
    "sim_mean_acceptance_length",
    "sim_drafting_fraction",
    "sim_steps",
)
"""What is worth a row when two runs are compared; the rest is in the runs' own summaries."""
_ABSENT = "-"
_ONLY_IF_ANY = (
    "sim_rejected",
    "sim_aborted",
    "sim_unfinished",
    "sim_length_capped",
    "sim_requests_preempted",
    "sim_recomputed_tokens",
    "sim_reserved_slot_fraction",
    "sim_sharing_saved_fraction",
    "sim_blocks_copied",
    "sim_blocks_swapped_out",
    "sim_blocks_swapped_in",
    "sim_host_hit_tokens",
    "sim_swap_fallbacks",
)
_LEGEND = "a arrival, f first token, l last token, e end of the request, n its tokens, T duration"


def summary_table(run_name: str, summary: Summary) -> RenderableType:
    """The numbers of a run, grouped, with their definitions."""
    parts: list[RenderableType] = [Text.assemble((summary.identity.experiment, "bold"), f"  {run_name}")]
    for group in Group:
        match group:
            case Group.LATENCY:
                tables = [_latencies(summary), _latency_definitions(summary)]
            case Group.GOALS:
                tables = [_goals(summary)]
            case _:
                tables = [_scalars(summary, group)]
        if tables[0].row_count:
            parts += [Text(), *tables]
    if summary.basis is not None:
        parts += basis_tables(summary.basis)
    return Stack(*parts, *_notes(summary.notes))


def _notes(notes: Sequence[str]) -> Iterator[RenderableType]:
    if notes:
        yield Text()
    for note in notes:
        yield Text(f"Note: {note}", style="yellow")


def _table(*, show_header: bool = True) -> Table:
    return Table(
        box=None,
        pad_edge=False,
        expand=True,
        padding=(0, 2, 0, 0),
        header_style="bold cyan",
        show_header=show_header,
    )


def _scalars(summary: Summary, group: Group) -> Table:
    table = _definition_table(group)
    for key, value in summary.values.items():
        metric = definition_of(key)
        if metric is None or metric.group is not group or value is None:
            continue
        if value or key not in _ONLY_IF_ANY:
            table.add_row(f"  {metric.title}", _with_unit(value, metric), metric.formula)
    return table


def _definition_table(group: Group) -> Table:
    table = _table()
    table.add_column(group.value, no_wrap=True, min_width=24)
    table.add_column("", justify="right", no_wrap=True, min_width=15)
    table.add_column("", ratio=1, style="dim")
    return table


def _goals(summary: Summary) -> Table:
    """One row a goal: which share of the requests met it, and how many."""
    table = _definition_table(Group.GOALS)
    values = summary.values
    if not values.get("sim_slo_requests"):
        return table
    for name in GOALS:
        if f"sim_slo_{name}_ms" in values:
            goal = f"{_title(name)} <= {_of(values, f'sim_slo_{name}_ms'):,.4g} ms"
            rule = "; a request of one token meets it" if name == "tpot" else ""
            table.add_row(f"  {goal}", *_met(values, f"sim_slo_{name}", rule))
    table.add_row("  all goals", *_met(values, "sim_slo", "; a failed request meets none"))
    return table


def _met(values: Mapping[str, Number], key: str, rule: str) -> tuple[str, str]:
    num_met, num_judged = _of(values, f"{key}_met"), _of(values, "sim_slo_requests")
    return share_text(num_met, num_judged), f"{num_met:,} of {num_judged:,} requests that arrived{rule}"


def _of(values: Mapping[str, Number], key: str) -> float:
    value = values[key]
    assert value is not None, f"{key} is written wherever there are goals"
    return value


def _title(latency: str) -> str:
    return next(metric.title for metric in LATENCIES if metric.name == latency)


def _latencies(summary: Summary) -> Table:
    table = _table()
    table.add_column(Group.LATENCY.value, no_wrap=True, min_width=24)
    for statistic in STATISTICS:
        table.add_column(statistic, justify="right", no_wrap=True, min_width=9)
    for metric in _shown_latencies(summary):
        keys = [statistic_key(statistic, metric.name) for statistic in STATISTICS]
        cells = [_number(summary.values[key]) + ("*" if key in summary.weak else " ") for key in keys]
        table.add_row(f"  {metric.title} ({metric.unit})", *cells)
    return table


def _latency_definitions(summary: Summary) -> Table:
    table = _table(show_header=False)
    table.add_column(no_wrap=True, min_width=10, style="dim")
    table.add_column(ratio=1, style="dim")
    for metric in _shown_latencies(summary):
        table.add_row(f"  {metric.title}", metric.formula)
    table.add_row("", _LEGEND)
    shown = {statistic_key(statistic, metric.name) for metric in LATENCIES for statistic in STATISTICS}
    if shown & set(summary.weak):
        table.add_row("  *", "rests on fewer than ten observations beyond it: an anecdote, not an estimate")
    return table


def _shown_latencies(summary: Summary) -> list[Metric]:
    return [metric for metric in LATENCIES if _says_something(metric.name, summary.values)]


def _says_something(latency: str, values: Mapping[str, Number]) -> bool:
    """Whether it was measured and says more than the others."""
    mean = values[statistic_key("mean", latency)]
    match latency:
        case "step_gap":
            return mean is not None and mean != values["mean_itl_ms"]
        case "requeue_time":
            return bool(mean)
        case _:
            return mean is not None


def comparison_table(comparison: Comparison) -> RenderableType:
    """What differs between the settings, then the numbers: two runs in columns, more runs one row each."""
    names = [Text.assemble((f"[{place}]", "bold cyan"), f" {name}") for place, name in _numbered(comparison)]
    numbers = _two_runs(comparison) if len(comparison.names) == 2 else _one_row_a_run(comparison)
    return Stack(*names, Text(), _settings(comparison), Text(), numbers, *_notes(comparison.notes))


def _numbered(comparison: Comparison) -> Iterator[tuple[int, str]]:
    return enumerate(comparison.names, 1)


def _compact(first: str) -> Table:
    table = Table(header_style="bold cyan", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first)
    return table


def _settings(comparison: Comparison) -> RenderableType:
    if not comparison.settings:
        return Text("no setting differs", style="dim")
    table = _compact("setting that differs")
    for place, _ in _numbered(comparison):
        table.add_column(f"[{place}]")
    for setting in comparison.settings:
        table.add_row(setting.key, *setting.values)
    return table


def _two_runs(comparison: Comparison) -> Table:
    table = _compact("number")
    for heading in ("[1]", "[2]", "[2] - [1]", "[2] / [1]"):
        table.add_column(heading, justify="right", no_wrap=True)
    for key in ROWS:
        row = comparison.row(key)
        if row is not None and any(row.values):
            table.add_row(_name(key), *_two_cells(row))
    return table


def _two_cells(row: Row) -> Iterator[str]:
    metric = definition_of(row.key)
    fraction = metric is not None and metric.unit == "fraction"
    for value in row.values:
        yield _share(value) if fraction else _number(value)
    difference, ratio = row.difference(1), row.ratio(1)
    if difference is None:
        yield _ABSENT
    elif fraction:
        yield f"{difference * 100:+.1f} points"
    else:
        yield ("+" if difference > 0 else "") + _number(difference)
    yield _ABSENT if ratio is None else f"{number_text(ratio)}x"


def _name(key: str) -> str:
    """A number's title with its statistic and unit."""
    metric = definition_of(key)
    assert metric is not None, f"{key} has a definition"
    unit = "" if metric.unit in ("", "fraction") else f" ({metric.unit})"
    statistic = key.removeprefix("sim_").partition("_")[0] if metric.group is Group.LATENCY else ""
    return " ".join(word for word in (metric.title, statistic) if word) + unit


def _one_row_a_run(comparison: Comparison) -> Table:
    table = Table(header_style="bold cyan", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("\nrun", no_wrap=True, overflow="ellipsis", min_width=14, max_width=18)
    columns = [(comparison.row(key), heading) for key, heading in COLUMNS]
    shown = [(row, heading) for row, heading in columns if row is not None]
    for _, heading in shown:
        table.add_column(heading, justify="right", no_wrap=True)
    for place, name in _numbered(comparison):
        table.add_row(f"[{place}] {name}", *(_cell(row, place - 1) for row, _ in shown))
    return table


def _cell(row: Row, place: int) -> str:
    metric = definition_of(row.key)
    value = row.values[place]
    return _share(value) if metric is not None and metric.unit == "fraction" else _number(value)


def _with_unit(value: Number, metric: Metric) -> str:
    if metric.unit == "fraction":
        return _share(value)
    unit = "" if metric.unit in ("", "tokens", "blocks") else f" {metric.unit}"
    return _number(value) + unit


def _share(value: Number) -> str:
    return _ABSENT if value is None else share_text(value, 1)


def _number(value: Number) -> str:
    """Whole numbers in full, others with four significant digits."""
    if value is None:
        return _ABSENT
    return f"{value:,}" if isinstance(value, int) else number_text(value, 4)
