"""What a cross-check says in a terminal of 80 columns."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console

from sim.crosscheck.comparison import ErrorRow
from sim.crosscheck.observed import METRICS
from sim.crosscheck.text import errors_text


def shown(rows: Sequence[ErrorRow]) -> list[str]:
    out = io.StringIO()
    Console(width=80, file=out).print(errors_text(rows))
    return out.getvalue().splitlines()


def row(metric: str, *, error: float = 0.02, spread: float | None = 0.05) -> ErrorRow:
    half_width = None if spread is None else 1.234
    return ErrorRow(metric, 123_456.7, 121_036.0, error, half_width, spread, 0.15)


def test_every_figure_has_one_line_and_none_is_cut() -> None:
    lines = shown([row(metric, error=-0.987) for metric in METRICS])
    assert all(len(line) <= 80 for line in lines)
    assert sum("yes, 15 %" in line or "no, 15 %" in line for line in lines) == len(METRICS)
    assert not [line for line in lines if "…" in line]


def test_an_error_below_the_spread_is_marked_and_the_mark_is_explained() -> None:
    noise, certain = shown([row("tpot_p50"), row("ttft_p99", error=0.06)])[1:3]
    assert "5.0 % *" in noise
    assert "*" not in certain
    assert any("noise" in line for line in shown([row("tpot_p50")]))
    assert not any("noise" in line for line in shown([row("tpot_p50", error=0.06)]))


def test_a_single_repeat_has_no_interval_and_explains_none() -> None:
    lines = shown([row("tpot_p50", spread=None)])
    assert "+2.0 %" in lines[1]
    assert not any("interval" in line for line in lines)
