from pathlib import Path

import pytest

from sim.core.request import Request, Sequence
from sim.core.step import ScheduledSequence, ScheduleKind, StepPlan
from sim.cost.measured import MeasuredCost, read_calibration
from sim.errors import ConfigError

HEADER = "model_role,fusion,num_decode_seqs,num_new_tokens,context_tokens,step_us\n"


def plan(seqs: int, context: int, horizon: int = 1) -> StepPlan:
    return StepPlan(0, horizon, seqs, context, (), (), seqs, (), seqs)


def step_us(seqs: int, new: int, decode_context: int, chunk_context: int) -> float:
    return 100 + seqs + 2 * new + 0.01 * seqs * decode_context + 0.001 * new * chunk_context


def chunk(num_tokens: int, num_computed: int) -> ScheduledSequence:
    seq = Sequence(0, Request(0, 0, num_computed + num_tokens, 1), 0, 1)
    return ScheduledSequence(seq, num_tokens, num_computed, [], 0, ScheduleKind.RUNNING, False)


def cost(tmp_path: Path) -> MeasuredCost:
    rows = [
        f"target,graph,{seqs},{new},{context},{step_us(seqs, new, context, context)}"
        for seqs in (0, 4, 16)
        for new in (0, 512)
        for context in (0, 1000, 4000)
    ]
    path = tmp_path / "c.csv"
    path.write_text(HEADER + "\n".join(rows))
    return MeasuredCost(read_calibration(path, model_role="target", fusion="graph"))


def test_between_points_it_is_linear_and_silent(tmp_path: Path) -> None:
    measured = cost(tmp_path)
    assert measured.step_ends_ns(plan(8, 8 * 2000)) == [100_000 + 8_000 + 160_000]
    assert measured.warnings == ()


def test_a_horizon_is_its_steps_one_by_one(tmp_path: Path) -> None:
    measured = cost(tmp_path)
    ends = measured.step_ends_ns(plan(7, 6_001, 3_000))
    steps = [measured.step_ends_ns(plan(7, 6_001 + 7 * i))[0] for i in range(3_000)]
    assert [b - a for a, b in zip([0, *ends], ends, strict=False)] == steps


def test_chunks_and_decoding_sequences_are_each_behind_their_own_context(tmp_path: Path) -> None:
    """One chunk beside decoding sequences; two, weighted by their tokens; one alone."""
    one = plan(8, 8 * 500)._replace(chunks=(chunk(64, 3000),))
    assert cost(tmp_path).step_ends_ns(one) == [round(1e3 * step_us(8, 64, 500, 3000))]
    two = plan(8, 8 * 500)._replace(chunks=(chunk(48, 0), chunk(16, 2000)))
    assert cost(tmp_path).step_ends_ns(two) == [round(1e3 * step_us(8, 64, 500, 500))]
    alone = plan(0, 0)._replace(chunks=(chunk(64, 3000),))
    assert cost(tmp_path).step_ends_ns(alone) == [round(1e3 * step_us(0, 64, 0, 3000))]


def test_outside_it_continues_and_says_so(tmp_path: Path) -> None:
    measured = cost(tmp_path)
    assert measured.step_ends_ns(plan(16, 16 * 8000)) == [100_000 + 16_000 + 1_280_000]
    (warning,) = measured.warnings
    assert "1 steps lay outside the measured context_tokens (0 to 4000), up to 8000" in warning


def test_holes_and_wrong_values_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text(HEADER + "target,graph,1,0,0,5\ntarget,graph,2,0,10,5\n")
    with pytest.raises(ConfigError, match="no full grid"):
        read_calibration(path, model_role="target", fusion="graph")
    path.write_text(HEADER + "target,graph,1,0,0,zero\n")
    with pytest.raises(ConfigError, match=r"c.csv:2: step_us: must be a number"):
        read_calibration(path, model_role="target", fusion="graph")
