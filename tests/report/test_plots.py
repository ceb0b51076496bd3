"""Pictures: drawn for any run, small, the same bytes each time, and matplotlib left as it was."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest

from sim.metrics.summary import Slo
from sim.record.run_record import RunRecord
from sim.report.plots import draw_latency, draw_throughput, draw_timeline, write_plots
from tests.records import MS, S, Served, StepRow, make_record, toy_run

SLO = Slo(ttft_ns=60 * MS, tpot_ns=20 * MS, e2el_ns=2 * S)
NAMES = [f"{name}.{suffix}" for name in ("latency", "timeline", "throughput") for suffix in ("svg", "png")]


def rejected_only() -> RunRecord:
    return make_record([Served(0, None, (), reason="rejected", finished_ms=0)])


def one_request_of_one_token() -> RunRecord:
    return make_record([Served(0, 0, ((10,),))], [StepRow(0, 10, 0, 1, 5, used_blocks=2, filled_slots=5)])


def preempted() -> RunRecord:
    steps = [
        StepRow(0, 10, used_blocks=100, filled_slots=390),
        StepRow(10, 20, used_blocks=99, num_preempted=3),
    ]
    return make_record([Served(0, 0, ((10, 20),), num_preemptions=3)], steps)


RUNS: list[Callable[[], RunRecord]] = [
    lambda: make_record([]),
    rejected_only,
    one_request_of_one_token,
    preempted,
    lambda: toy_run(5, 2.0),
    lambda: toy_run(400, 30.0),
]


def words_of(figure: object) -> str:
    texts = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]  # type: ignore[attr-defined]
    return " | ".join(text for text in texts if text)


@pytest.mark.parametrize("make", RUNS)
def test_every_picture_can_be_drawn_of_any_run(tmp_path: Path, make: Callable[[], RunRecord]) -> None:
    files = write_plots(tmp_path, make(), SLO, "an experiment")
    assert [file.name for file in files] == NAMES
    for file in files:
        if file.suffix == ".svg":
            assert ElementTree.parse(file).getroot().tag.endswith("svg")
            assert file.stat().st_size < 300_000


def test_a_picture_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    record = toy_run(30, 4.0)
    first, second = (write_plots(tmp_path / name, record, SLO, "toy") for name in ("first", "second"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert b"<dc:date>" not in first[0].read_bytes()


def test_settings_of_matplotlib_are_left_as_they_were(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    write_plots(tmp_path, toy_run(5, 2.0), SLO, "toy")
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.rcParams["svg.hashsalt"] != "pagecast"


def test_the_latency_picture_names_percentiles_goals_and_units() -> None:
    words = words_of(draw_latency(toy_run(100, 4.0), SLO, "toy"))
    for expected in (
        "toy: latency of 100 requests",
        "Time to first token (ms)",
        "median",
        "p99",
        "goal 60 ms",
    ):
        assert expected in words


def test_a_goal_counts_failed_requests_as_missed_and_one_token_as_met() -> None:
    requests = [
        Served(0, 0, ((10, 20),)),
        Served(0, 0, ((10,),)),
        Served(0, 0, ((10, 90),)),
        Served(0, None, (), reason="rejected", finished_ms=0),
    ]
    words = words_of(draw_latency(make_record(requests), Slo(tpot_ns=20 * MS), "toy"))
    assert "goal 20 ms: met by 50.0 %" in words


def test_the_timeline_tells_capacity_and_preemptions() -> None:
    words = words_of(draw_timeline(preempted(), "toy"))
    assert "all 100 blocks" in words
    assert "3 preemptions" in words
    assert "Simulated time (s)" in words


def test_far_away_capacity_is_told_in_words() -> None:
    words = words_of(draw_timeline(one_request_of_one_token(), "toy"))
    assert "there are 100 blocks: at most 2.0 % held" in words


def test_the_throughput_picture_names_its_curves() -> None:
    words = words_of(draw_throughput(toy_run(20, 4.0), "toy"))
    for expected in ("prompt", "output", "arrived", "completed", "Tokens per second", "bins of"):
        assert expected in words


def test_importing_the_module_does_not_load_matplotlib() -> None:
    modules = "sim.report.plots, sim.report.tables, sim.recording"
    code = f"import sys, {modules}; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
