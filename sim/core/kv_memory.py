"""`KVMemory`: the memories that V1's scheduler runs on; picked by the configuration.

Paged, contiguous, or behind an allocator of one's own.
"""

from __future__ import annotations

from sim.core.kv_cache import CacheConfig, KVCacheManager
from sim.core.own_memory import OwnKVManager, OwnMemoryConfig
from sim.core.reservation import ContiguousConfig, ContiguousKVManager

KVMemory = KVCacheManager | ContiguousKVManager | OwnKVManager
MemoryConfig = CacheConfig | ContiguousConfig | OwnMemoryConfig


def make_kv_memory(config: MemoryConfig, *, max_model_len: int, num_lookahead_slots: int) -> KVMemory:
    """The memory that a configuration asks for."""
    match config:
        case CacheConfig():
            return KVCacheManager(
                config, max_model_len=max_model_len, num_lookahead_slots=num_lookahead_slots
            )
        case ContiguousConfig():
            return ContiguousKVManager(config, max_model_len=max_model_len)
        case OwnMemoryConfig():
            return OwnKVManager(config, max_model_len=max_model_len, num_lookahead_slots=num_lookahead_slots)
