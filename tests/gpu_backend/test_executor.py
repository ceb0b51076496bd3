"""The executor behind the real brain: however memory is managed, the tokens are the same.

Whatever a preemption, a prefix found again, a chunk, a draft or a copy does to the blocks, each request ends
in the text that the model alone gives. Storage begins poisoned: what is read before it is written shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

import numpy as np
import torch

from gpu_backend.devices import DeviceKind, find_place
from gpu_backend.engine import DeviceBody, Models, Speculating
from gpu_backend.model.llama import LlamaModel
from gpu_backend.model.texts import Prompts
from gpu_backend.model.weights import pack
from gpu_backend.training.acceptance import decode_plainly
from gpu_backend.training.network import random_weights
from gpu_backend.training.pair import DRAFT
from sim.config.catalog import load_model
from sim.core.engine import EngineConfig, PlanDetail
from sim.core.group import GroupSchedulerConfig, PreemptionMode
from sim.core.kv_cache import CacheConfig
from sim.core.scheduler_config import SchedulerConfig
from sim.cost.fixed import FixedCost
from sim.fleet.cluster import Cluster
from sim.replay_settings import SamplingSettings
from sim.speculation.acceptance import Constant
from sim.speculation.speculator import Fixed, Proposer, Speculation, SpeculationCost
from workloads.spec import Workload

BLOCK_SIZE = 4
NUM_HOST_BLOCKS = 60
MAX_MODEL_LEN = 64
NUM_TOKENS = 20
PROMPT_LENGTHS = (9, 1, 30, 4, 17, 12, 8)
DRAFT_SHAPE = load_model("shakespeare-0.5m")
GREEDY = SamplingSettings(temperature=0.0)
SAMPLING = SamplingSettings(temperature=1.0)


@pytest.fixture(scope="module")
def model() -> LlamaModel:
    return LlamaModel(DRAFT, pack(DRAFT, random_weights(DRAFT, torch.Generator().manual_seed(5))))


@pytest.fixture(scope="module")
def other_model() -> LlamaModel:
    """Sharper than the draft model of the pair, and seldom of the same mind as `model`."""
    return LlamaModel(DRAFT, pack(DRAFT, random_weights(DRAFT, torch.Generator().manual_seed(6))))


def workload(num_samples: int = 1, *, prefix_tokens: int = 0, **settings: Any) -> Workload:
    count = len(PROMPT_LENGTHS)
    return Workload(
        "seven",
        np.zeros(count, dtype=np.int64),
        np.array(PROMPT_LENGTHS) + prefix_tokens,
        np.full(count, NUM_TOKENS),
        num_samples=num_samples,
        hash_ids=((1,),) * count if prefix_tokens else None,
        hash_block_tokens=prefix_tokens,
        **settings,
    )


def v1(num_blocks: int, *, prefix_caching: bool = False, offload: int = 0, **settings: Any) -> EngineConfig:
    cache = CacheConfig(num_blocks, BLOCK_SIZE, prefix_caching, num_offload_blocks=offload)
    scheduler = SchedulerConfig(**{"max_model_len": MAX_MODEL_LEN, "max_num_batched_tokens": 256} | settings)
    return EngineConfig(cache, scheduler, 1, PlanDetail.SEQUENCES)


def paper(num_blocks: int, preemption: PreemptionMode = PreemptionMode.SWAP) -> EngineConfig:
    cache = CacheConfig(num_blocks, BLOCK_SIZE, enable_prefix_caching=False)
    scheduler = GroupSchedulerConfig(
        MAX_MODEL_LEN, num_host_blocks=NUM_HOST_BLOCKS, preemption=preemption, watermark_fraction=0.0
    )
    return EngineConfig(cache, scheduler, 1, PlanDetail.SEQUENCES)


class Replay:
    """A workload served by a body on the CPU; what was said, and what happened."""

    def __init__(
        self,
        asked: Workload,
        config: EngineConfig,
        model: LlamaModel,
        *,
        draft: LlamaModel | None = None,
        num_drafts: int = 0,
        settings: SamplingSettings = GREEDY,
        seed: int = 3,
    ) -> None:
        self.prompts = Prompts(
            asked.requests(), np.random.default_rng(1).integers(model.config.vocab_size, size=500), seed
        )
        speculating = None
        if draft is not None:
            law = Speculation(Proposer.DRAFT_MODEL, Fixed(num_drafts), Constant(0.5), draft=DRAFT_SHAPE)
            speculating = Speculating(law, SpeculationCost(law, FixedCost(9), FixedCost(1)))
        self.body = DeviceBody(
            find_place(DeviceKind.CPU, None),
            Models(model, draft),
            config,
            self.prompts,
            settings,
            seed,
            speculating=speculating,
        )
        cluster = Cluster(asked, config, self.body)
        self.core, self.executor = cluster.cores[0], self.body.executors[0]
        poison(self.executor)
        cluster.run()
        cluster.check_ended()
        self.texts = self.executor.texts.outputs()
        self.outputs = {name: text[:NUM_TOKENS] for name, text in self.texts.items()}


def poison(executor: Any) -> None:
    storages = [executor.target.storage] + ([executor.drafter.runner.storage] if executor.drafter else [])
    for storage in storages:
        for cache in storage.caches:
            cache.key.fill_(torch.nan)
            cache.value.fill_(torch.nan)


def alone(model: LlamaModel, replay: Replay) -> dict[tuple[int, int], list[int]]:
    """What the model says to each prompt without any scheduler."""
    prompts = [replay.prompts.tokens(request) for request in range(len(PROMPT_LENGTHS))]
    lines = decode_plainly(model, prompts, NUM_TOKENS)
    return {(request, sample): lines[request] for request, sample in replay.outputs}


@pytest.mark.parametrize("token_budget", [256, 16, 5, 1])
def test_chunks_of_any_size_give_the_same_text(model: LlamaModel, token_budget: int) -> None:
    replay = Replay(workload(), v1(90, max_num_batched_tokens=token_budget), model)
    assert replay.outputs == alone(model, replay)


def test_preemption_by_recompute_gives_the_same_text(model: LlamaModel) -> None:
    replay = Replay(workload(), v1(20), model)
    assert replay.core.num_preemptions > 0
    assert replay.outputs == alone(model, replay)


@pytest.mark.parametrize(
    "preemption", [PreemptionMode.RECOMPUTE, PreemptionMode.SWAP, PreemptionMode.BY_WIDTH]
)
def test_the_papers_scheduler_gives_the_same_text(model: LlamaModel, preemption: PreemptionMode) -> None:
    replay = Replay(workload(), paper(20, preemption), model)
    assert replay.core.num_preemptions > 0
    assert (replay.core.num_swapped_in_blocks > 0) == (preemption is PreemptionMode.SWAP)
    assert replay.outputs == alone(model, replay)


@pytest.mark.parametrize("num_blocks", [90, 24])
def test_a_prefix_found_again_gives_the_same_text(model: LlamaModel, num_blocks: int) -> None:
    replay = Replay(workload(prefix_tokens=14), v1(num_blocks, prefix_caching=True), model)
    assert replay.core.prefix_stats.hits > 0
    assert replay.outputs == alone(model, replay)


def test_blocks_that_come_back_from_the_host_give_the_same_text(model: LlamaModel) -> None:
    asked = workload(prefix_tokens=14, concurrency=2)
    replay = Replay(asked, v1(20, prefix_caching=True, offload=40), model)
    assert replay.core.num_swapped_in_blocks > 0
    assert replay.outputs == alone(model, replay)


@pytest.mark.parametrize("num_drafts", [1, 3, 6])
@pytest.mark.parametrize("num_blocks", [90, 24])
@pytest.mark.parametrize("is_shared", [False, True])
def test_drafts_give_the_same_text(
    model: LlamaModel, other_model: LlamaModel, num_drafts: int, num_blocks: int, *, is_shared: bool
) -> None:
    config = v1(
        num_blocks,
        prefix_caching=is_shared,
        num_speculative_tokens=num_drafts,
        num_lookahead_slots=num_drafts,
        num_draft_rows=1,
    )
    asked = workload(prefix_tokens=14 if is_shared else 0)
    replay = Replay(asked, config, model, draft=other_model, num_drafts=num_drafts)
    assert replay.outputs == alone(model, replay)
    assert sum(map(len, replay.executor.accepted.values())) > 0


def test_a_draft_model_that_is_the_target_is_always_right(model: LlamaModel) -> None:
    """Which it is only if it has read every token, at every place, whatever happened to the blocks."""
    config = v1(24, num_speculative_tokens=3, num_lookahead_slots=3, num_draft_rows=1)
    replay = Replay(workload(), config, model, draft=model, num_drafts=3)
    assert replay.core.num_preemptions > 0
    assert replay.outputs == alone(model, replay)
    assert {count for counts in replay.executor.accepted.values() for count in counts[:-1]} == {3}


@pytest.mark.parametrize("num_blocks", [120, 26])
def test_samples_share_their_prompt_and_copy_on_write(model: LlamaModel, num_blocks: int) -> None:
    replay = Replay(workload(2), paper(num_blocks), model)
    assert replay.core.num_copied_blocks > 0
    assert replay.outputs == alone(model, replay)


def test_a_sample_is_the_same_however_its_blocks_were_shared(model: LlamaModel) -> None:
    runs = [
        Replay(workload(3), config, model, settings=SAMPLING)
        for config in (paper(200), paper(36), v1(200), v1(40), v1(40, prefix_caching=True))
    ]
    assert len({tuple(text) for text in runs[0].outputs.values()}) == 3 * len(PROMPT_LENGTHS)
    assert all(run.outputs == runs[0].outputs for run in runs)


def best_continuations(model: LlamaModel, prompt: Sequence[int], width: int) -> list[list[int]]:
    """Beam search with whole forward passes and nothing kept."""
    beams: list[tuple[float, list[int]]] = [(0.0, list(prompt))]
    for _ in range(NUM_TOKENS):
        found = []
        for score, text in beams:
            gains = last_logits(model, text).float().log_softmax(-1).double()
            best = gains.topk(width)
            found += [
                (score + gain, [*text, token])
                for gain, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
        beams = sorted(found, key=lambda each: -each[0])[:width]
    return sorted(text[len(prompt) :] for _, text in beams)


def last_logits(model: LlamaModel, text: list[int]) -> torch.Tensor:
    from gpu_backend.memory.fixed_blocks import FixedBlocks

    return FixedBlocks(model, 1, len(text)).forward([text])[0][-1]


@pytest.mark.parametrize("num_blocks", [200, 40])
def test_a_beam_search_finds_what_a_search_without_a_cache_finds(model: LlamaModel, num_blocks: int) -> None:
    replay = Replay(workload(beam_width=3), paper(num_blocks), model)
    assert replay.core.num_copied_blocks > 0
    for request in range(len(PROMPT_LENGTHS)):
        found = sorted(replay.outputs[request, beam] for beam in range(3))
        assert found == best_continuations(model, replay.prompts.tokens(request), 3)
