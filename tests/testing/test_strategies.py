"""The public strategies: what they make can be used for what it is made for."""

from __future__ import annotations

from hypothesis import given

from sim.config.catalog import load_gpu, load_model
from sim.core.engine import EngineConfig
from sim.core.step import StepPlan
from sim.cost.roofline import RooflineCost
from sim.experiment import Experiment
from sim.simulation import run, simulate
from sim.testing.strategies import (
    BlockOperation,
    block_operations,
    clusters,
    engines,
    experiments,
    step_plans,
    workloads,
)
from tests.strategies import CoarseCost, examples
from workloads.spec import Workload

COST = RooflineCost(load_model("llama-3-8b"), load_gpu("h100-sxm"))


@examples(25)
@given(experiments())
def test_an_experiment_can_be_simulated(experiment: Experiment) -> None:
    record = simulate(experiment)
    assert record.num_requests == record.requests["finish_reason"].size
    assert not (record.requests["finish_reason"] == "").any()


@examples(30)
@given(workloads(max_requests=6), engines(), clusters())
def test_a_workload_an_engine_and_a_fleet_make_a_run(
    workload: Workload, engine: EngineConfig, fleet: object
) -> None:
    record = run(workload, engine, CoarseCost(3, 30), fleet)  # type: ignore[arg-type]
    assert record.num_requests == len(workload)


@examples(100)
@given(step_plans())
def test_a_step_plan_has_a_cost(plan: StepPlan) -> None:
    ends_ns = COST.step_ends_ns(plan)
    assert len(ends_ns) == plan.horizon
    assert all(end > 0 for end in ends_ns)


@given(block_operations())
def test_block_operations_are_named_as_the_machine_s_rules(story: list[BlockOperation]) -> None:
    rules = {"admit", "append", "fork", "end", "preempt", "resume", "swap_out", "swap_in"}
    assert {operation.name for operation in story} <= rules
