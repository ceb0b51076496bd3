"""What a run rests on, as tables: how far step times may be off, what that does, where figures come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sim.cost.hardware import Figure, Source
from sim.metrics.basis import Basis, Number, Part
from sim.metrics.definitions import Group
from sim.metrics.keys import definition_of
from sim.report.numbers import number_text, share_text

UNKNOWN = "unknown"
NOT_ASKED = "With --confidence the run is simulated twice more, for what this does to the numbers above."
NOTHING_KNOWN = "Nothing was fitted to measured times, so how far step times are off is unknown, not zero."
BAND = (
    "All fitted parts are off that far, the same way, for the whole run; errors of different kernels partly "
    "cancel, so these parts alone do less."
)
NOT_MOVED = "Parts that say unknown are as predicted in all three columns: they may move the answer further."


def basis_tables(basis: Basis) -> Iterator[RenderableType]:
    """Everything, with an empty line before each table."""
    yield from (Text(), _parts(basis.parts))
    if basis.band is not None:
        yield from (Text(), _band(basis.band), _remark(_caveat(basis.parts)))
    else:
        yield _remark(NOT_ASKED if basis.is_known else NOTHING_KNOWN)
    yield from (Text(), _figures(basis.figures))


def _caveat(parts: tuple[Part, ...]) -> str:
    has_unknown = any(part.longer_fraction is None for part in parts)
    return f"{BAND} {NOT_MOVED}" if has_unknown else BAND


def _remark(words: str) -> RenderableType:
    return Padding(Text(words, style="dim"), (0, 0, 0, 2))


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, expand=True, padding=(0, 2, 0, 0), header_style="bold cyan")
    table.add_column(headings[0], no_wrap=True, min_width=27)
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _parts(parts: tuple[Part, ...]) -> Table:
    table = _table("Step times may be", "shorter", "longer")
    table.add_column("", ratio=1, style="dim", overflow="fold")
    for part in parts:
        shorter, longer = part.shorter_fraction, part.longer_fraction
        table.add_row(
            f"  {part.name}",
            UNKNOWN if shorter is None else f"-{share_text(shorter, 1)}",
            UNKNOWN if longer is None else f"+{share_text(longer, 1)}",
            part.rests_on,
        )
    return table


def _band(band: Mapping[str, tuple[Number, Number, Number]]) -> Table:
    table = _table("If they are, the answer is", "shorter", "predicted", "longer")
    table.add_column("", ratio=1)
    for key, row in band.items():
        metric = definition_of(key)
        assert metric is not None, f"{key} has a definition"
        is_share = metric.unit == "fraction"
        statistic = f" {key.partition('_')[0]}" if metric.group is Group.LATENCY else ""
        unit = "" if metric.unit in ("", "fraction") else f" ({metric.unit})"
        cells = ("-" if v is None else share_text(v, 1) if is_share else number_text(v, 4) for v in row)
        table.add_row(f"  {metric.title}{statistic}{unit}", *cells)
    return table


def _figures(figures: tuple[Figure, ...]) -> Table:
    """By source, the surest first; curves stand among the parts of a step, if it is made of them."""
    table = _table("What it rests on")
    table.add_column("", ratio=1, style="dim")
    for source in (Source.DATASHEET, Source.MEASURED, Source.PAPER, Source.ASSUMED):
        found = [f"{figure.name} {figure.quantity}" for figure in figures
                 if figure.source is source and not figure.name.startswith("curves.")]  # fmt: skip
        if found:
            table.add_row(f"  {source.value}", ", ".join(found))
    return table
