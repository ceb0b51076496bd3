"""Figures of real traces that need no timing model, through the project's own classes.

The expected digits are listed in the README of the public traces; they were computed there by other code.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from sim.core.block_pool import BlockPool
from sim.core.engine import EngineConfig, EngineCore
from sim.core.kv_cache import CacheConfig
from sim.core.prefix_cache import PrefixCache
from sim.core.request import Request
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import StepResult

LONGEST_TOKENS = 16_384
AZURE_UTILISATION = {8: 0.99716, 16: 0.99393, 32: 0.98755, 64: 0.97497, 128: 0.95056, 256: 0.90785}
MOONCAKE_HIT_SHARE = {1_000: 0.0431, 10_000: 0.2060, 30_000: 0.3133, 50_000: 0.3364, 200_000: 0.3402}


def _azure_lengths(traces: Path) -> list[tuple[int, int]]:
    with (traces / "azure_llm_2023_conv.csv").open(newline="") as file:
        return [(int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in csv.DictReader(file)]


def _filled_and_allocated_slots(core: EngineCore, request: Request) -> tuple[int, int]:
    """Token states and slots, summed over the decode steps of a request that has the engine to itself."""
    core.submit(request)
    block_size = core.config.cache.block_size
    filled = allocated = 0
    while (plan := core.begin_step(0)) is not None:
        result = StepResult(list(range(1, plan.horizon + 1)))
        outcome = core.finish_step(plan, result, plan.horizon)
        if plan.num_decode_seqs:
            growth = outcome.filled_slots_per_step * plan.horizon * (plan.horizon - 1) // 2
            filled += outcome.filled_slots * plan.horizon + growth
            allocated += sum(outcome.used_blocks) * block_size
    return filled, allocated


@pytest.mark.parametrize("block_size", AZURE_UTILISATION)
def test_paged_utilisation_of_the_azure_trace_is_reproduced_to_the_digit(
    traces_dir: Path, block_size: int
) -> None:
    cache = CacheConfig(LONGEST_TOKENS // block_size, block_size, enable_prefix_caching=False)
    scheduler = SchedulerConfig(
        max_model_len=LONGEST_TOKENS, max_num_seqs=1, max_num_batched_tokens=LONGEST_TOKENS
    )
    core = EngineCore(EngineConfig(cache, scheduler))
    filled = allocated = 0
    for number, (prompt_tokens, output_tokens) in enumerate(_azure_lengths(traces_dir)):
        # The figure counts the last token's state too, which an engine stores only if one more is wanted.
        request = Request(number, 0, prompt_tokens, output_tokens + 1)
        used = _filled_and_allocated_slots(core, request)
        filled += used[0]
        allocated += used[1]
    assert round(filled / allocated, 5) == AZURE_UTILISATION[block_size]
    assert core.num_used_blocks == 0


def _lru_hit_share(rows: list[list[int]], capacity: int) -> float:
    """Share of blocks found as a leading run, with least recently used blocks evicted."""
    pool, cache = BlockPool(capacity), PrefixCache()
    pool_is_fresh_for = capacity
    num_hit = num_blocks = 0
    for hash_ids in rows:
        num_hit += len(cache.find(hash_ids))
        num_blocks += len(hash_ids)
        for hash_id in hash_ids:
            found = cache.find([hash_id])
            if found:
                pool.share(found[0])
                pool.give_back(found[0])
                continue
            taken, evicted = pool.take(1)
            assert bool(evicted) == (pool_is_fresh_for == 0)
            pool_is_fresh_for = max(pool_is_fresh_for - 1, 0)
            cache.forget(evicted)
            cache.register(taken, [hash_id])
            pool.give_back(taken[0])
    return num_hit / num_blocks


@pytest.mark.parametrize("capacity", MOONCAKE_HIT_SHARE)
def test_lru_prefix_hits_of_the_mooncake_trace_are_reproduced_to_the_digit(
    traces_dir: Path, capacity: int
) -> None:
    path = traces_dir / "mooncake_fast25_conversation_first_half.jsonl"
    rows = [json.loads(line)["hash_ids"] for line in path.read_text().splitlines()]
    assert round(_lru_hit_share(rows, capacity), 4) == MOONCAKE_HIT_SHARE[capacity]
