"""Memory policy never changes tokens: random experiments, each compared with the model alone.

In float64, so that a sum taken in another order cannot tip a choice between two tokens.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

import numpy as np
import torch
from hypothesis import given, note
from hypothesis import strategies as st

from gpu_backend.model.llama import LlamaModel
from gpu_backend.model.weights import pack
from gpu_backend.training.acceptance import decode_plainly
from gpu_backend.training.network import random_weights
from gpu_backend.training.pair import DRAFT
from sim.core.engine import EngineConfig, PlanDetail
from sim.core.group import GroupSchedulerConfig, PreemptionMode
from sim.core.kv_cache import CacheConfig
from sim.core.scheduler_config import SchedulerConfig
from tests.gpu_backend.test_executor import Replay
from workloads.spec import Workload

TINY = replace(
    DRAFT,
    vocab_size=48,
    hidden_size=32,
    intermediate_size=48,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
)
MAX_MODEL_LEN = 40


def model(seed: int) -> LlamaModel:
    weights = random_weights(TINY, torch.Generator().manual_seed(seed))
    return LlamaModel(TINY, pack(TINY, {name: tensor.double() for name, tensor in weights.items()}))


TARGET, OTHER = model(1), model(2)


@st.composite
def engines(draw: st.DrawFn) -> EngineConfig:
    block_size = draw(st.sampled_from([1, 2, 4, 7]))
    fewest = -(-(MAX_MODEL_LEN + 6) // block_size)
    if draw(st.booleans()):
        num_blocks = draw(st.integers(3 * fewest, 6 * fewest))  # a group of three has to fit
        mode = draw(st.sampled_from([PreemptionMode.RECOMPUTE, PreemptionMode.SWAP, PreemptionMode.BY_WIDTH]))
        scheduler = GroupSchedulerConfig(
            MAX_MODEL_LEN,
            num_host_blocks=draw(st.integers(0, 3 * fewest)),
            preemption=mode,
            watermark_fraction=0.0,
        )
        cache = CacheConfig(num_blocks, block_size, enable_prefix_caching=False)
        return EngineConfig(cache, scheduler, 1, PlanDetail.SEQUENCES)
    num_blocks = draw(st.integers(fewest, 4 * fewest))
    num_drafts = draw(st.integers(0, 5))
    caches = draw(st.booleans())
    offload = draw(st.integers(0, fewest)) if caches else 0
    cache = CacheConfig(num_blocks, block_size, caches, num_offload_blocks=offload)
    v1 = SchedulerConfig(
        MAX_MODEL_LEN,
        max_num_seqs=draw(st.integers(1, 8)),
        max_num_batched_tokens=draw(st.integers(8, 64)),
        async_scheduling=not num_drafts and draw(st.booleans()),
        num_speculative_tokens=num_drafts,
        num_lookahead_slots=num_drafts,
        num_draft_rows=int(num_drafts > 0),
    )
    return EngineConfig(cache, v1, 1, PlanDetail.SEQUENCES)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    sizes = draw(st.lists(st.tuples(st.integers(1, 18), st.integers(1, 16)), min_size=1, max_size=7))
    prompts, outputs = np.array(sizes).T
    shared = draw(st.sampled_from([0, 0, 3, 6]))
    return Workload(
        "random",
        np.zeros(len(sizes), dtype=np.int64),
        prompts + shared,
        outputs,
        num_samples=draw(st.integers(1, 3)),
        hash_ids=tuple((draw(st.integers(1, 2)),) for _ in sizes) if shared else None,
        hash_block_tokens=shared,
        concurrency=draw(st.sampled_from([None, 2])),
    )


@given(config=engines(), asked=workloads(), draft=st.sampled_from([TARGET, OTHER]))
def test_memory_policy_never_changes_tokens(config: EngineConfig, asked: Workload, draft: LlamaModel) -> None:
    num_drafts = (
        config.scheduler.num_speculative_tokens if isinstance(config.scheduler, SchedulerConfig) else 0
    )
    replay = Replay(asked, config, TARGET, draft=draft if num_drafts else None, num_drafts=num_drafts)
    note(f"{replay.core.num_preemptions} preemptions, {replay.core.num_copied_blocks} blocks copied")
    prompts = [replay.prompts.tokens(request) for request in range(len(asked))]
    most = int(asked.output_tokens.max())
    expected = decode_plainly(TARGET, prompts, most)
    assert set(replay.texts) == {
        (request, sample) for request in range(len(asked)) for sample in range(asked.num_samples)
    }
    for (request, _), text in replay.texts.items():
        count = int(asked.output_tokens[request])
        assert text[:count] == expected[request][:count]


def test_a_step_that_has_nothing_left_to_compute_is_one_too() -> None:
    """With asynchronous scheduling a step planned ahead can lose its only sequence."""
    cache = CacheConfig(9, 7, enable_prefix_caching=False)
    scheduler = SchedulerConfig(
        MAX_MODEL_LEN, max_num_seqs=2, max_num_batched_tokens=8, async_scheduling=True
    )
    asked = Workload("two", np.zeros(1, dtype=np.int64), np.array([15]), np.array([16]), num_samples=2)
    replay = Replay(asked, EngineConfig(cache, scheduler, 1, PlanDetail.SEQUENCES), TARGET)
    assert any(not plan["rows"] for plan in replay.body.plans)
    assert all(len(text) >= 16 for text in replay.texts.values())
