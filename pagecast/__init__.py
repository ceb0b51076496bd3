"""What a notebook or a plug-in needs of pagecast, under one name; nothing here is its own.

    import pagecast

    experiment = pagecast.load("configs/quickstart.yaml", ["engine.block_size=32"])
    run = pagecast.simulate(experiment)
    run.summary["median_ttft_ms"], run.requests["arrival"], run.steps.to_pandas()

Experiments: `load`, `Experiment`, `simulate`, `open_run`, `Run`, `Table`, `ConfigError`, `WorkloadError`.

Protocols that a class of your own may implement, to be named in an experiment file as `my_module:MyClass`:
`Router`, `VictimChoice`, `WaitingOrder`, `StepScheduler` (or a subclass of `Scheduler`), `CostModel`,
`DraftTimes`, `AcceptanceModel`, `KVAllocator` (whose answers are made of `Grant`, `LATER`, `AllocStatus` and
`BlockCopy`). See README.md beside this file.

Importing it loads nothing else; each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pagecast.run import Run, Table, load, open_run, simulate
    from sim.core.allocator import LATER, Grant, KVAllocator
    from sim.core.kv_cache import AllocStatus
    from sim.core.policy import VictimChoice, WaitingOrder
    from sim.core.scheduler import Scheduler
    from sim.core.step import BlockCopy
    from sim.core.step_scheduler import StepScheduler
    from sim.cost.cost_model import CostModel
    from sim.errors import ConfigError
    from sim.experiment import Experiment
    from sim.fleet.router import Router
    from sim.speculation.acceptance import AcceptanceModel
    from sim.speculation.speculator import DraftTimes
    from workloads.errors import WorkloadError

_HOMES = {
    "LATER": "sim.core.allocator",
    "AcceptanceModel": "sim.speculation.acceptance",
    "AllocStatus": "sim.core.kv_cache",
    "BlockCopy": "sim.core.step",
    "ConfigError": "sim.errors",
    "CostModel": "sim.cost.cost_model",
    "DraftTimes": "sim.speculation.speculator",
    "Experiment": "sim.experiment",
    "Grant": "sim.core.allocator",
    "KVAllocator": "sim.core.allocator",
    "Router": "sim.fleet.router",
    "Run": "pagecast.run",
    "Scheduler": "sim.core.scheduler",
    "StepScheduler": "sim.core.step_scheduler",
    "Table": "pagecast.run",
    "VictimChoice": "sim.core.policy",
    "WaitingOrder": "sim.core.policy",
    "WorkloadError": "workloads.errors",
    "load": "pagecast.run",
    "open_run": "pagecast.run",
    "simulate": "pagecast.run",
}
"""Where each public name lives."""

__all__ = [
    "LATER",
    "AcceptanceModel",
    "AllocStatus",
    "BlockCopy",
    "ConfigError",
    "CostModel",
    "DraftTimes",
    "Experiment",
    "Grant",
    "KVAllocator",
    "Router",
    "Run",
    "Scheduler",
    "StepScheduler",
    "Table",
    "VictimChoice",
    "WaitingOrder",
    "WorkloadError",
    "load",
    "open_run",
    "simulate",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'pagecast' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
