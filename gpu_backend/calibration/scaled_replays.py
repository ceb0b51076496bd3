"""`DeviceEngine`: a replayer as `sim.crosscheck` wants it, with a calibration beside it.

Owns how fast the machine was during each replay: what a simulation of that replay goes by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpu_backend.replay import Replayer, ReplayRun
from sim.cost.calibration import SWAP, CalibratedCost, CalibratedMoves, DeviceCalibration
from sim.cost.step_times import draft_cost
from sim.crosscheck.parts import StepParts
from sim.crosscheck.run import Replayed, Times
from sim.errors import ConfigError, Problem
from sim.fleet.cluster import Progress
from workloads.spec import Workload


class DeviceEngine:
    """Replays on a device; a `sim.crosscheck.run.Engine`."""

    def __init__(
        self, replayer: Replayer, calibration: DeviceCalibration, on_progress: Progress | None = None
    ) -> None:
        self._replayer = replayer
        self._calibration = calibration
        self._on_progress = on_progress
        self.runs: list[ReplayRun] = []

    def __call__(self, workload: Workload) -> Replayed:
        """Replay a workload once.

        Raises:
            ConfigError: The device ran out of memory.
        """
        done = self._replayer.run(workload, self._on_progress)
        if done.cut_short is not None:
            raise ConfigError([Problem("replay", "", f"the run is incomplete: {done.cut_short}")])
        self.runs.append(done)
        facts = self._replayer.facts(done)
        factor = slowdown(facts, self._calibration)
        return Replayed(
            done.record,
            done.body.plans,
            parts_of(done),
            {name: tuple(kept) for each in done.body.executors for name, kept in each.accepted.items()},
            times_of(self._calibration, factor),
            {
                "replay": facts,
                "calibration": dict(self._calibration.about),
                "machine_slowdown": factor,
            },
        )


def slowdown(facts: Mapping[str, Any], calibration: DeviceCalibration) -> float:
    """How many times as long the yardstick took as during the calibration; 1 where there is none."""
    now, then = facts["yardstick_us"], calibration.about.get("yardstick_us", {}).get(facts["fusion"])
    return float(now / then) if now and then else 1.0


def times_of(calibration: DeviceCalibration, factor: float = 1.0) -> Times:
    """What simulations go by."""
    target = CalibratedCost(calibration, factor)
    slowed = calibration.slowed(factor)
    moves = CalibratedMoves(slowed.others) if SWAP in slowed.others else None
    return Times(target, draft_cost(calibration, factor), moves)


def parts_of(done: ReplayRun) -> list[StepParts]:
    """The parts of each step, in the order of the plans."""
    by_replica = [iter(executor.parts) for executor in done.body.executors]
    return [next(by_replica[plan["replica"]]) for plan in done.body.plans]
