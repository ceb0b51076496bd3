"""A cross-check in the terminal: the verdict first, then what it rests on."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sim.crosscheck.attribution import DIVERGENCE
from sim.crosscheck.comparison import ErrorRow, Status
from sim.crosscheck.observed import METRICS, Observed, title_of
from sim.crosscheck.verdict import Crosscheck
from sim.report.numbers import number_text


def crosscheck_text(check: Crosscheck) -> Group:
    """Everything a cross-check found."""
    parts: list[RenderableType] = [
        verdict_text(check),
        decisions_text(check),
        errors_text(check.rows),
        attribution_table(check),
        closeness_table(check),
    ]
    if check.fusions:
        parts.append(fusion_table(check))
    if check.acceptance:
        parts.append(acceptance_table(check))
    return Group(*(line for part in parts for line in (part, Text())))


def verdict_text(check: Crosscheck) -> Text:
    """Whether it holds, in one line."""
    if check.holds:
        return Text(
            "The simulation holds: same decisions, every judged error within its tolerance.", "bold green"
        )
    faults = []
    if not check.decisions.are_equal:
        faults.append("decisions differ")
    if check.beyond:
        faults.append(", ".join(f"{row.title} {signed(row.error)}" for row in check.beyond))
    if not check.launches_agree:
        faults.append("launches differ from the kernel list")
    return Text(f"The simulation does not hold: {'; '.join(faults)}.", "bold red")


def decisions_text(check: Crosscheck) -> Text:
    """Whether both decided alike."""
    decisions = check.decisions
    if decisions.are_equal:
        shown = (
            "preemptions",
            "blocks_allocated",
            "blocks_copied",
            "blocks_swapped_in",
            "prefix_hits_tokens",
        )
        totals = ", ".join(
            f"{decisions.totals[name]:,} {name.replace('_', ' ')}"
            for name in shown
            if decisions.totals.get(name)
        )
        return Text(f"Decisions   {decisions.num_steps:,} steps, equal to the last block ({totals})")
    if decisions.difference is not None:
        return Text(f"Decisions   first difference: {decisions.difference}", "red")
    pairs = "; ".join(
        f"{name}: {ours} simulated, {theirs} replayed" for name, (ours, theirs) in decisions.counters.items()
    )
    return Text(f"Decisions   plans are equal, counters are not: {pairs}", "red")


def errors_text(rows: Sequence[ErrorRow], measured: str = "replayed") -> Group:
    """Figures, their errors, how sure these are, whether they are accepted, and what the columns say."""
    return Group(_errors_table(rows, measured), _errors_legend(rows, measured))


def _errors_table(rows: Sequence[ErrorRow], measured: str) -> Table:
    table = _table("Time", "simulated", measured, "error", "± 95 %", "spread", "accepted")
    for row in rows:
        style = {Status.WITHIN: "green", Status.BEYOND: "red"}.get(row.status, "")
        interval = "" if row.half_width is None else f"{100 * row.half_width:.1f} %"
        spread = "" if row.spread is None else f"{100 * row.spread:.1f} %{_mark(row)}"
        figures = (figure(row.metric, row.simulated), figure(row.metric, row.replayed), signed(row.error))
        table.add_row(row.title, *figures, interval, spread, _accepted(row), style=style)
    return table


def measured_table(run: Observed) -> Table:
    """The figures of one run that is not compared."""
    table = _table("Time", run.name)
    for metric in METRICS:
        value = run.metric(metric)
        if value is not None:
            table.add_row(title_of(metric), figure(metric, value))
    return table


def _errors_legend(rows: Sequence[ErrorRow], measured: str) -> Text:
    lines = ["error       simulated / " + measured + " - 1"]
    if any(row.spread is not None for row in rows):
        lines += [
            "± 95 %      half the 95 % confidence interval of the error, over the repeats",
            f"spread      how much the {measured} figure itself varies from repeat to repeat",
        ]
    if any(row.is_noise for row in rows):
        lines.append("*           the error is smaller than that: noise")
    return Text("\n".join(f"  {line}" for line in lines), "dim")


def _mark(row: ErrorRow) -> str:
    return " *" if row.is_noise else "  "


def _accepted(row: ErrorRow) -> str:
    if row.tolerance is None:
        return ""
    return f"{'yes' if row.status is Status.WITHIN else 'no'}, {100 * row.tolerance:g} %"


def attribution_table(check: Crosscheck) -> Table:
    """Where the error of busy time comes from."""
    found = check.attribution
    table = _table("Error of busy time", "of the time", "error", "")
    for share in found.shares:
        words = "other batches in time" if share.name == DIVERGENCE else ""
        table.add_row(share.name, percent(share.measured), signed(share.error), words)
    table.add_row("all", "", signed(found.total), "", style="bold")
    for share in found.causes:
        table.add_row(f"  model, {share.name}", percent(share.measured), signed(share.error), "")
    return table


def closeness_table(check: Crosscheck) -> Table:
    """How far single requests and steps are off."""
    table = _table("One by one", "of them", "half within", "nine of ten within")
    for row in check.differences.closeness():
        table.add_row(row.of_what, f"{row.count:,}", percent(row.half_within), percent(row.most_within))
    return table


def fusion_table(check: Crosscheck) -> Table:
    """Levels of fusion: the same decode steps simulated and replayed, and what one of them launches."""
    table = _table("Fusion", "decode step", "of the first", "launches listed / made", "MB listed / moved")
    first = check.fusions[0]
    for row in check.fusions:
        table.add_row(
            row.fusion,
            f"{row.predicted_us / 1e3:.2f} / {row.measured_us / 1e3:.2f} ms",
            f"{row.predicted_us / first.predicted_us:.3f} / {row.measured_us / first.measured_us:.3f}",
            f"{row.listed_launches:,} / {row.counted_launches:,}",
            f"{row.listed_bytes / 1e6:.1f} / {row.counted_bytes / 1e6:.1f}",
        )
    return table


def acceptance_table(check: Crosscheck) -> Table:
    """What independent draws at one rate cost."""
    rate = f"constant rate {check.acceptance_rate:.3f}" if check.acceptance_rate is not None else ""
    table = _table("Acceptance", rate, "recorded counts", "replayed", "rate costs")
    for row in check.acceptance:
        title = next(each.title for each in check.rows if each.metric == row.metric)
        cost = row.with_constant_rate / row.with_recorded_counts - 1
        figures = (row.with_constant_rate, row.with_recorded_counts, row.replayed)
        unit = "" if row.metric == "throughput" else " ms"
        table.add_row(title, *(f"{value:,.2f}{unit}" for value in figures), signed(cost))
    return table


def figure(metric: str, value: float) -> str:
    """A figure with its unit."""
    if metric == "throughput":
        return f"{value:,.1f} /s"
    if metric == "kv_usage":
        return f"{100 * value:.1f} %"
    return f"{number_text(value, digits=4)} ms"


def signed(fraction: float) -> str:
    """A signed percentage."""
    return f"{100 * fraction:+.1f} %"


def percent(fraction: float | None) -> str:
    """A percentage; nothing for what has none."""
    return "" if fraction is None else f"{100 * fraction:.1f} %"


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first, no_wrap=True)
    for title in others:
        table.add_column(
            title,
            justify="right" if title else "left",
            no_wrap=bool(title),
            overflow="fold",
        )
    return table
