"""The settings of vLLM's V1 scheduler, from configurations that could hold the paper's instead."""

from __future__ import annotations

from sim.core.engine import EngineConfig
from sim.core.scheduler_config import SchedulerConfig


def v1_scheduler(engine: EngineConfig) -> SchedulerConfig:
    """The scheduler's settings, which must be V1's."""
    assert isinstance(engine.scheduler, SchedulerConfig), "these are the paper's settings"
    return engine.scheduler
