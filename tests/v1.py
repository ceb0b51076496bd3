"""Settings of vLLM's V1 from configurations that could hold those of another scheduler or memory."""

from __future__ import annotations

from sim.core.engine import EngineConfig
from sim.core.kv_cache import CacheConfig
from sim.core.scheduler_config import SchedulerConfig


def v1_scheduler(engine: EngineConfig) -> SchedulerConfig:
    """The scheduler's settings, which must be V1's."""
    assert isinstance(engine.scheduler, SchedulerConfig), "these are the paper's settings"
    return engine.scheduler


def paged(engine: EngineConfig) -> CacheConfig:
    """The memory's settings, which must be paged."""
    assert isinstance(engine.cache, CacheConfig), "this memory is contiguous"
    return engine.cache
