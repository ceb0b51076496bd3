"""Calibrations: read from their folder, interpolated, slowed, and driving an experiment by its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.config import load_experiment
from sim.core.request import Request, Sequence
from sim.core.step import ScheduledSequence, ScheduleKind, StepPlan
from sim.cost.calibration import (
    COPY,
    SCHEDULE,
    SPLIT,
    STEP_COLUMNS,
    SWAP,
    CalibratedCost,
    CalibratedMoves,
    Curve,
    dump_table,
    guesses_of,
    read_device_calibration,
)
from sim.cost.fixed import FixedCost
from sim.cost.step_times import draft_cost
from sim.errors import ConfigError
from sim.recording import record_experiment
from sim.simulation import simulate
from tests.command_line import refused

ABOUT = {
    "device": "a formula",
    "date": "2026-11-24T10:00:00+00:00",
    "model": "shakespeare-4.7m",
    "draft": "shakespeare-0.5m",
    "fusions": ["fused"],
    "pads": {"fused": False},
    "spread_fraction": 0.02,
}
SEQS, NEW, CONTEXTS = (0, 1, 8, 16), (0, 16, 256), (16, 511)
EXPERIMENT = """
model: shakespeare-4.7m
hardware: generic-cpu
engine: {max_model_len: 512, max_num_seqs: 16, max_num_batched_tokens: 256, num_gpu_blocks_override: 400}
step_time: {calibration: calibration}
workload:
  kind: synthetic
  num_requests: 12
  arrivals: {kind: all_at_once}
  prompt_tokens: {kind: fixed, tokens: 16}
  output_tokens: {kind: fixed, tokens: 5}
"""


def step_us(seqs: int, new: int, context: int) -> float:
    """A plane: linear interpolation is exact on it."""
    return 1000 + 10 * seqs + 5 * new + context


def write(folder: Path, splits: tuple[tuple[str, int, int], ...] = (), **about: Any) -> Path:
    calibration = folder / "calibration"
    calibration.mkdir()
    rows = [
        (role, "fused", seqs, new, context, scale * step_us(seqs, new, context), 1.0)
        for role, scale in (("target", 1.0), ("draft", 0.1))
        for seqs in SEQS
        for new in NEW
        for context in CONTEXTS
    ]
    rows += [
        ("verify", "fused", seqs, new, context, 2000 + 30 * seqs + 40 * new + context, 1.0)
        for seqs in SEQS[1:]
        for new in (2, 5)
        for context in CONTEXTS
    ]
    (calibration / "steps.csv").write_text(dump_table(STEP_COLUMNS, rows))
    others = [
        (SCHEDULE, 1, 10),
        (SCHEDULE, 16, 40),
        (COPY, 1, 100),
        (COPY, 11, 200),
        (SWAP, 1, 50),
        (SWAP, 3, 90),
        *splits,
    ]
    (calibration / "others.csv").write_text(dump_table(("what", "amount", "time_us"), list(others)))
    (calibration / "calibration.json").write_text(json.dumps(ABOUT | about))
    return calibration


def test_an_experiment_is_simulated_by_a_calibration(tmp_path: Path) -> None:
    """Twelve prompts of 16 tokens in one step, then four steps of twelve: every one a point of the plane."""
    write(tmp_path)
    (tmp_path / "calibrated.yaml").write_text(EXPERIMENT)
    record = simulate(load_experiment(tmp_path / "calibrated.yaml"))
    lasted_us = (record.steps["end"] - record.steps["start"]).astype(np.int64) / 1e3
    schedule_us = 10 + (40 - 10) * 11 / 15
    expected = [step_us(0, 192, 0) + schedule_us]
    expected += [step_us(12, 0, 17 + place) + schedule_us for place in range(4)]
    np.testing.assert_allclose(lasted_us, expected, atol=2e-3)


def test_steps_beyond_what_was_measured_are_told_in_the_report(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "calibrated.yaml").write_text(EXPERIMENT)
    experiment = load_experiment(tmp_path / "calibrated.yaml")
    recorded = record_experiment(experiment, folder=tmp_path / "run", with_plots=False)
    assert any("outside the measured context_tokens" in note for note in recorded.notes)
    assert any("outside the measured context_tokens" in note for note in recorded.run.summary.notes)


def test_a_device_that_pads_is_planned_for_step_by_step(tmp_path: Path) -> None:
    write(tmp_path, pads={"fused": True})
    (tmp_path / "calibrated.yaml").write_text(EXPERIMENT)
    experiment = load_experiment(tmp_path / "calibrated.yaml")
    assert experiment.engine.max_horizon == 1
    assert simulate(experiment).num_steps == 5


def test_a_slower_machine_takes_as_many_times_as_long(tmp_path: Path) -> None:
    calibration = read_device_calibration(write(tmp_path), "fused")
    slowed = calibration.slowed(1.5)
    assert slowed.target.times_ns == pytest.approx(1.5 * calibration.target.times_ns)
    assert CalibratedMoves(slowed.others).host_ns(2) == 1.5 * CalibratedMoves(calibration.others).host_ns(2)
    assert CalibratedCost(calibration, 2.0).model_ends_ns(_decodes(8)) == [
        2 * CalibratedCost(calibration).model_ends_ns(_decodes(8))[0]
    ]


def _decodes(count: int) -> StepPlan:
    return StepPlan(0, 1, count, 100 * count, (), (), count, (), count)


def test_several_chunks_of_a_step_take_longer_than_one_of_as_many_tokens(tmp_path: Path) -> None:
    calibration = read_device_calibration(write(tmp_path, ((SPLIT, 1, 0), (SPLIT, 2, 70))), "fused")
    cost = CalibratedCost(calibration, 2.0)
    one, two = _chunks(64), _chunks(24, 40)
    assert cost.model_ends_ns(two)[0] - cost.model_ends_ns(one)[0] == 2 * 70_000


def _chunks(*lengths: int) -> StepPlan:
    """Prompts that are computed whole."""
    rows = tuple(
        ScheduledSequence(
            Sequence(number, Request(number, 0, length, 1), 0, 1), length, 0, [], 0, ScheduleKind.NEW, False
        )
        for number, length in enumerate(lengths)
    )
    return StepPlan(0, 1, 0, 0, rows, (), len(rows), rows, 0)


def test_curves_are_linear_between_and_beyond_and_nothing_takes_nothing() -> None:
    curve = Curve(np.array([1.0, 3.0]), np.array([50.0, 90.0]))
    assert [curve.at_ns(amount) for amount in (0, 1, 2, 3, 5)] == [0, 50, 70, 90, 130]


def test_what_lies_beyond_a_curve_is_told_and_how_far(tmp_path: Path) -> None:
    calibration = read_device_calibration(write(tmp_path), "fused")
    cost, moves = CalibratedCost(calibration), CalibratedMoves(calibration.others)
    for count in (8, 16, 20, 30):
        cost.schedule_ns(_decodes(count))
    moves.host_ns(3)
    (warning,) = guesses_of(cost, None, moves)
    assert warning.startswith(
        "deciding: 2 times beyond the measured 16 sequences, up to 30: its times continue"
    )
    moves.host_ns(5)
    moves.device_ns(12)
    assert [warning.split(":")[0] for warning in guesses_of(cost, None, moves)] == [
        "deciding",
        "swapping",
        "copying",
    ]
    assert guesses_of(FixedCost(5)) == ()


def test_guesses_of_the_draft_model_are_told_as_its_own(tmp_path: Path) -> None:
    draft = draft_cost(read_device_calibration(write(tmp_path), "fused"))
    assert draft is not None
    draft.model_ends_ns(_decodes(40))
    (warning,) = guesses_of(FixedCost(5), draft)
    assert warning.startswith("draft model: 1 steps lay outside the measured num_decode_seqs")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fusion": "none"}, None),
        ({"missing": "calibration.json"}, "pagecast calibrate makes a calibration"),
        ({"missing": "others.csv"}, "is no table of a calibration"),
        ({"missing": "steps.csv"}, "cannot be read"),
        ({"about": {"fusions": ["none", "graph2"]}}, "not graph: calibrate again"),
        (
            {"about": {"model": "llama-3-8b"}},
            "was made of llama-3-8b, and the experiment",
        ),
        ({"target": "14 ms"}, "either target"),
    ],
)
def test_what_is_no_calibration_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path, **change.get("about", {}))
    if "missing" in change:
        (folder / change["missing"]).unlink()
    text = EXPERIMENT
    if "target" in change:
        text = text.replace("{calibration: calibration}", "{calibration: calibration, target: 14 ms}")
    path = tmp_path / "calibrated.yaml"
    path.write_text(text)
    if words is None:
        assert load_experiment(path, ["engine.fusion=none"]).step_times is not None, "the only level there is"
        return
    with pytest.raises(ConfigError, match=words):
        load_experiment(path)
    assert words in refused("check", str(path))
