"""Tables as a reader sees them: text of a given width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from sim.metrics.keys import definition_of
from sim.metrics.summary import Identity, Slo, Summary, summarize
from sim.report.numbers import number_text, share_text
from sim.report.tables import COLUMNS, ROWS, comparison_table, summary_table
from sim.results.compare import compare_runs
from sim.results.run_folder import Run
from tests.records import MS, S, Served, make_record, toy_run

SLO = Slo(ttft_ns=60 * MS, tpot_ns=20 * MS)


def text_of(table: RenderableType, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def summary_of(num_requests: int = 300, rate_per_s: float = 4.0, slo: Slo = SLO) -> Summary:
    return summarize(toy_run(num_requests, rate_per_s), slo, Identity("toy", "llama-3-8b", 7))


def run_of(rate_per_s: float) -> Run:
    record = toy_run(200, rate_per_s)
    return Run(
        {"workload": {"rate": rate_per_s}},
        record,
        summarize(record, SLO, Identity("toy", "llama-3-8b", 7)),
        {},
    )


def test_every_number_stands_beside_its_definition() -> None:
    text = text_of(summary_table("run-1", summary_of()), width=200)
    for key in ("request_throughput", "sim_mean_kv_usage_fraction", "sim_preemptions", "mean_tpot_ms"):
        metric = definition_of(key)
        assert metric is not None
        assert metric.title in text
        assert metric.formula in text


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(width: int) -> None:
    summary = summary_of(rate_per_s=40.0)
    text = text_of(summary_table("run-1", summary), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    runs = [
        (f"20260102T030405Z-1a2b3c4{place}", run_of(rate)) for place, rate in enumerate((2.0, 30.0, 60.0))
    ]
    rows = [
        line for line in text_of(comparison_table(compare_runs(runs)), width).splitlines() if "p99" in line
    ]
    assert rows


def test_goals_tell_share_and_counts() -> None:
    requests = [Served(0, 0, ((ms, ms + 10),)) for ms in (50, 60, 61, 70)]
    summary = summarize(make_record(requests), SLO, Identity("toy", "m", 0))
    text = text_of(summary_table("run", summary))
    assert "TTFT <= 60 ms" in text
    assert "50.0 %  2 of 4 requests" in text


def test_without_goals_there_is_no_table_of_goals() -> None:
    assert "Goals" not in text_of(summary_table("run", summary_of(slo=Slo())))


def test_percentiles_of_too_few_requests_bear_a_star_that_is_explained() -> None:
    few, many = (text_of(summary_table("run", summary_of(count))) for count in (50, 1500))
    assert "*" in few
    assert "rests on fewer than ten observations" in few
    assert "rests on fewer than ten observations" not in many


def test_what_did_not_happen_takes_no_row() -> None:
    text = text_of(summary_table("run", summary_of()))
    for word in ("rejected because", "length capped", "requeue", "step gap", "recomputed tokens"):
        assert word not in text


def test_caveats_are_printed_below() -> None:
    assert "Note: The queue grew all through the run" in text_of(
        summary_table("r", summary_of(600, 40.0)), 200
    )


def test_two_runs_are_compared_number_by_number() -> None:
    text = text_of(comparison_table(compare_runs([("slow", run_of(2.0)), ("fast", run_of(4.0))])))
    assert "[1] slow" in text
    assert "workload.rate" in text
    assert "[2] - [1]" in text
    line = next(line for line in text.splitlines() if line.startswith("completed"))
    assert line.split() == ["completed", "200", "200", "0", "1.00x"]


def test_three_runs_take_one_row_each() -> None:
    runs = [(name, run_of(rate)) for name, rate in (("continuous", 2.0), ("static", 4.0), ("dynamic", 8.0))]
    lines = text_of(comparison_table(compare_runs(runs)), 80).splitlines()
    rows = [line.split() for line in lines if line.startswith("[") and len(line.split()) > 2]
    assert [row[:2] for row in rows] == [["[1]", "continuous"], ["[2]", "static"], ["[3]", "dynamic"]]
    assert all(len(row) >= 2 + len(COLUMNS) for row in rows)


def test_numbers_in_a_row_of_runs_are_never_cut() -> None:
    runs = [
        (f"20260102T030405Z-1a2b3c4{place}", run_of(rate)) for place, rate in enumerate((2.0, 30.0, 60.0))
    ]
    lines = text_of(comparison_table(compare_runs(runs)), 80).splitlines()
    rows = [line for line in lines if line.startswith("[") and " %" in line]
    assert len(rows) == 3
    assert all("…" not in row[18:] for row in rows)


def test_every_number_worth_a_row_or_column_is_defined() -> None:
    assert [key for key in (*ROWS, *(key for key, _ in COLUMNS)) if definition_of(key) is None] == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12_345.6, "12,346"), (123.4, "123"), (1.234, "1.23"), (0.01234, "0.0123"), (-5.678, "-5.68")],
)
def test_numbers_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 9, "0.0 %"),
        (9, 9, "100.0 %"),
        (1, 2, "50.0 %"),
        (9999, 10_000, "> 99.9 %"),
        (1, 10_000, "< 0.1 %"),
    ],
)
def test_shares_say_all_and_none_only_of_all_and_none(part: int, whole: int, text: str) -> None:
    assert share_text(part, whole) == text


def test_a_run_without_steps_or_tokens_can_be_shown() -> None:
    rejected = make_record([Served(0, None, (), reason="rejected", finished_ms=0)])
    summary = summarize(rejected, Slo(e2el_ns=S), Identity("toy", "m", 0))
    text = text_of(summary_table("run", summary))
    assert "No request completed" in text
    assert "0.0 %  0 of 1 requests" in text
