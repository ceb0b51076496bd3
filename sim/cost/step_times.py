"""`StepTimes`: step times that an experiment knows instead of asking a cost model.

Always the same (`FixedCost`), or as a device took them (`sim.cost.calibration`). A calibration of a
device whose attention pads its batch knows times by the longest sequence, so the engine then plans step
by step and names every sequence. Refuses to measure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sim.core.engine import EngineConfig, PlanDetail
from sim.cost.calibration import (
    ABOUT,
    SWAP,
    CalibratedCost,
    CalibratedMoves,
    DeviceCalibration,
    read_about,
    read_device_calibration,
)
from sim.cost.cost_model import CostModel
from sim.cost.fixed import FixedCost
from sim.cost.host_traffic import HostTraffic
from sim.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True)
class OwnCost:
    """A cost model of a user's own, made once for each run.

    Attributes:
        name: What reports call it.
        predicts_horizons: Whether it keeps `CostModel`'s rule for plans that stand for several steps; else
            every step is a plan of its own and names every sequence.
    """

    make: Callable[[], CostModel]
    name: str
    predicts_horizons: bool = False


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Step times of the model, and of its draft model if it has one.

    Attributes:
        target: Always so long, a calibration (`draft` is then part of it), or a model of one's own.
    """

    target: FixedCost | DeviceCalibration | OwnCost
    draft: FixedCost | None = None

    @property
    def origin(self) -> str:
        """Where they come from, for reports."""
        if isinstance(self.target, FixedCost):
            return "given in the experiment file (step_time)"
        if isinstance(self.target, OwnCost):
            return f"predicted by {self.target.name}, a cost model of the user's own (step_time.cost)"
        spread = 100 * self.target.about.get("spread_fraction", 0.0)
        return (
            f"measured on {self.target.name}, fusion {self.target.fusion}; single steps repeated within "
            f"{spread:.1f} % there"
        )

    def warnings(self) -> Iterator[str]:
        """What they cost a simulation."""
        if isinstance(self.target, OwnCost) and not self.target.predicts_horizons:
            yield (
                f"step_time.cost {self.target.name}: each step is a plan of its own and names its sequences, "
                "as it does not say `predicts_horizons = True`; the simulation takes longer"
            )

    def target_cost(self) -> CostModel:
        """Of the model; one of its own for each run, since it remembers what lay outside."""
        match self.target:
            case FixedCost():
                return self.target
            case OwnCost():
                return self.target.make()
            case DeviceCalibration():
                return CalibratedCost(self.target)

    def draft_cost(self) -> CostModel | None:
        """Of the draft model."""
        return draft_cost(self.target) if isinstance(self.target, DeviceCalibration) else self.draft

    def engine(self, config: EngineConfig) -> EngineConfig:
        """The engine, planning as finely as these times need it."""
        match self.target:
            case FixedCost() | DeviceCalibration(pads=False) | OwnCost(predicts_horizons=True):
                return config
        return replace(config, max_horizon=1, detail=PlanDetail.SEQUENCES)

    def traffic(self, traffic: HostTraffic | None) -> HostTraffic | None:
        """How blocks travel, with measured times where there are any."""
        if (
            traffic is None
            or not isinstance(self.target, DeviceCalibration)
            or SWAP not in self.target.others
        ):
            return traffic
        return replace(traffic, moves=CalibratedMoves(self.target.others))


def draft_cost(calibration: DeviceCalibration, factor: float = 1.0) -> CalibratedCost | None:
    """Step times of a calibration's draft model; None where it has none."""
    if calibration.draft is None:
        return None
    alone = replace(calibration, target=calibration.draft, verify=None, draft=None, others={})
    return CalibratedCost(alone, factor)


def calibrated_step_times(folder: Path, fusion: str, model: Any, needs_draft: bool) -> StepTimes:
    """Of a calibration's folder, at the level of fusion that was asked for, or the only one there is.

    Args:
        folder: The calibration.
        fusion: The experiment's level.
        model: The experiment's, as its file names it.
        needs_draft: Whether a draft model's times are needed.

    Raises:
        ConfigError: It is no calibration, is of another model, or lacks that level, or the draft model.
    """
    about = read_about(folder / ABOUT)
    if about["model"] != model:
        message = f"was made of {about['model']}, and the experiment's model is {model}: calibrate that"
        raise ConfigError([Problem(str(folder / ABOUT), "model", message)])
    levels = about["fusions"]
    calibration = read_device_calibration(folder, levels[0] if len(levels) == 1 else fusion)
    if needs_draft and calibration.draft is None:
        message = "was made without a draft model: calibrate this experiment"
        raise ConfigError([Problem(str(folder / ABOUT), "draft", message)])
    return StepTimes(calibration)
