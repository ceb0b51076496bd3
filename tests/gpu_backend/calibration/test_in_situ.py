"""What a calibration's own requests correct: steps by kind and number of sequences, deciding by a line."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

from gpu_backend.calibration.bench_steps import Measured
from gpu_backend.calibration.in_situ import (
    DECODE,
    DRAFT,
    PROMPTS,
    VERIFY,
    InSitu,
    line_through,
    ratios_by_seqs,
)
from sim.cost.calibration import COPY, SCHEDULE


def test_each_kind_of_step_has_its_ratios_and_deciding_a_line() -> None:
    found = InSitu(
        {DECODE: {2: 2.0, 6: 4.0}, PROMPTS: {1: 3.0}, VERIFY: {4: 5.0}, DRAFT: {}}, (1.5, 40.0), None
    )
    points = [
        ("target", 1, 0, 16),
        ("target", 4, 0, 16),
        ("target", 9, 0, 16),
        ("target", 4, 64, 16),
        ("verify", 4, 5, 16),
        ("draft", 4, 0, 16),
    ]
    corrected = found.corrected(dict.fromkeys(points, Measured(100.0, 1.0)))
    assert [corrected[point].time_us for point in points] == [200, 300, 400, 300, 500, 100]
    others = {(SCHEDULE, 8): Measured(30.0, 1.0), (COPY, 8): Measured(30.0, 1.0)}
    assert [each.time_us for each in found.corrected_others(others).values()] == [85, 30]
    assert found.to_json()[DECODE] == {"2": 2.0, "6": 4.0}


def test_ratios_are_of_sums_and_need_steps_enough() -> None:
    steps = (
        [(1, 100.0, 110.0)] * 16 + [(2, 100.0, 100.0)] * 16 + [(2, 300.0, 380.0)] * 16 + [(3, 1.0, 9.0)] * 15
    )
    assert ratios_by_seqs(steps) == {1: 1.1, 2: 1.2}
    assert ratios_by_seqs(steps[:32], tells_apart=False) == {1: 1.05}
    assert ratios_by_seqs([(1, 0.0, 5.0)] * 20) == {}, "nothing was predicted"


def test_a_line_is_found_and_one_that_no_cost_could_have_is_only_a_ratio() -> None:
    ns = 1_000
    pairs = [(each * ns, (45 + 3 * each) * ns) for each in (5.0, 8.0, 12.0, 30.0)] * 4
    assert line_through(pairs) == pytest.approx((3.0, 45.0), abs=1e-2)
    falling = [(each * ns, (90 - each) * ns) for each in (5.0, 8.0, 12.0, 30.0)] * 4
    assert line_through(falling) == pytest.approx(((4 * 90 - 55) / 55, 0.0), abs=1e-3)
    alike = [(10.0 * ns, 25.0 * ns)] * 16
    assert line_through(alike) == (2.5, 0.0)
    assert line_through(pairs[:15]) == (1.0, 0.0), "too few to say"
