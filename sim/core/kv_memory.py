"""`KVMemory`: the memories that V1's scheduler runs on, paged or contiguous; picked by the configuration."""

from __future__ import annotations

from sim.core.kv_cache import CacheConfig, KVCacheManager
from sim.core.reservation import ContiguousConfig, ContiguousKVManager

KVMemory = KVCacheManager | ContiguousKVManager
MemoryConfig = CacheConfig | ContiguousConfig


def make_kv_memory(config: MemoryConfig, *, max_model_len: int, num_lookahead_slots: int) -> KVMemory:
    """The memory that a configuration asks for."""
    match config:
        case CacheConfig():
            return KVCacheManager(
                config, max_model_len=max_model_len, num_lookahead_slots=num_lookahead_slots
            )
        case ContiguousConfig():
            return ContiguousKVManager(config, max_model_len=max_model_len)
