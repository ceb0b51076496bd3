"""From an experiment file to the record of its run."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from sim.config import load_experiment
from sim.core.request import Request, Sequence
from sim.core.step import StepPlan
from sim.experiment import Experiment
from sim.fleet.driver import SimulationError
from sim.simulation import simulate

FILE = """
name: tiny
seed: {seed}
model: llama-3-8b
hardware: a100-80gb-sxm
engine: {{num_gpu_blocks_override: 2000, max_model_len: 4096}}
workload:
  kind: synthetic
  num_requests: 60
  arrivals: {{kind: poisson, rate: 20 /s}}
  prompt_tokens: {{kind: uniform, low: 10, high: 900}}
  output_tokens: {{kind: uniform, low: 1, high: 60}}
"""


def experiment(folder: Path, seed: int = 0) -> Experiment:
    path = folder / "tiny.yaml"
    path.write_text(FILE.format(seed=seed))
    return load_experiment(path)


class Frozen:
    """A cost model of steps that take no time."""

    def step_ends_ns(self, plan: StepPlan) -> list[int]:
        return [0] * plan.horizon


class Slow:
    """A cost model of steps that all take a second."""

    def step_ends_ns(self, plan: StepPlan) -> list[int]:
        return [1_000_000_000 * (step + 1) for step in range(plan.horizon)]


def test_an_experiment_runs_with_the_step_times_of_its_model_and_hardware(tmp_path: Path) -> None:
    record = simulate(experiment(tmp_path))
    assert record.num_requests == 60
    assert set(record.requests["finish_reason"].tolist()) == {"length"}
    durations = (record.steps["end"] - record.steps["start"]).astype(np.int64)
    assert (durations > 5_000_000).all(), "an A100 needs 8 ms to read these weights"
    assert record.cpu_s > 0


def test_another_cost_model_may_be_given(tmp_path: Path) -> None:
    record = simulate(experiment(tmp_path), cost=Slow())
    durations = (record.steps["end"] - record.steps["start"]).astype(np.int64)
    assert set(durations.tolist()) == {1_000_000_000}


def test_a_seed_decides_the_run(tmp_path: Path) -> None:
    one, same = simulate(experiment(tmp_path, 1)), simulate(experiment(tmp_path, 1))
    other = simulate(experiment(tmp_path, 2))
    assert one.token_times.tobytes() == same.token_times.tobytes()
    assert one.token_times.tobytes() != other.token_times.tobytes()


def test_steps_that_take_no_time_are_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="positive, ascending"):
        simulate(experiment(tmp_path), cost=Frozen())


def test_garbage_collection_is_as_before_whatever_happens(tmp_path: Path) -> None:
    assert gc.isenabled()
    simulate(experiment(tmp_path))
    assert gc.isenabled()
    with pytest.raises(SimulationError):
        simulate(experiment(tmp_path), cost=Frozen())
    assert gc.isenabled()


def test_no_request_outlives_its_end_though_garbage_collection_is_off(tmp_path: Path) -> None:
    tiny = experiment(tmp_path)
    gc.collect()
    others = {id(thing) for thing in gc.get_objects()}  # what other tests of this process left behind
    gc.disable()
    try:
        simulate(tiny)
        kept = [thing for thing in gc.get_objects() if type(thing) in (Request, Sequence, StepPlan)]
    finally:
        gc.enable()
    survivors = [thing for thing in kept if id(thing) not in others]
    assert len(survivors) <= 3, "requests, sequences or plans are in reference cycles"
