"""Plans of the core, carried out on real tensors: however memory is managed, the tokens are the same.

The smallest engine there is: batch, storage and model, driven by hand. Chosen tokens are the target's most
likely ones, so that every way has to end in the same text.
"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

import torch

from gpu_backend.batch import build_batch
from gpu_backend.kv_storage import KVStorage, StorageShape
from gpu_backend.llama import LlamaModel
from gpu_backend.training.acceptance import decode_plainly
from gpu_backend.training.network import random_weights
from gpu_backend.training.pair import DRAFT
from gpu_backend.weights import pack
from sim.core.engine import EngineConfig, EngineCore, PlanDetail
from sim.core.group import GroupSchedulerConfig, PreemptionMode
from sim.core.kv_cache import CacheConfig
from sim.core.request import Request, SeqId
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import ScheduledSequence, StepPlan, StepResult

CPU = torch.device("cpu")
BLOCK_SIZE = 4
NUM_HOST_BLOCKS = 40
NUM_TOKENS = 20
MAX_MODEL_LEN = 64
PROMPT_LENGTHS = (9, 1, 30, 4, 17)


class HandDriven:
    """A core, a storage and a model; `texts` holds every sequence's tokens as they become known."""

    def __init__(self, model: LlamaModel, core: EngineCore) -> None:
        self.model, self.core = model, core
        shape = StorageShape(core.num_blocks + 1, NUM_HOST_BLOCKS, BLOCK_SIZE)
        self.storage = KVStorage(model.config, shape, torch.float32, CPU)
        for cache in self.storage.caches:
            cache.key.fill_(torch.nan)
            cache.value.fill_(torch.nan)
        self.texts: dict[SeqId, list[int]] = {}
        self.prompts: dict[SeqId, list[int]] = {}
        self.firsts: dict[int, SeqId] = {}
        self.num_swaps = self.num_copies = self.num_preemptions = self.num_accepted = 0

    def run(self, prompts: list[list[int]], num_drafts: int = 0, num_samples: int = 1) -> list[list[int]]:
        for number, prompt in enumerate(prompts):
            self.core.submit(Request(number, 0, len(prompt), NUM_TOKENS, num_samples))
        while (plan := self.core.begin_step(0)) is not None:
            self._meet_newcomers(plan, prompts)
            self.core.finish_step(plan, self._execute(plan, num_drafts))
        assert not self.core.has_unfinished
        return [self._output(seq_id) for seq_id in sorted(self.texts)]

    def _output(self, seq_id: SeqId) -> list[int]:
        """What follows the prompt; the last round may have accepted more drafts than there was room for."""
        return self.texts[seq_id][len(self.prompts[seq_id]) :][:NUM_TOKENS]

    def _meet_newcomers(self, plan: StepPlan, prompts: list[list[int]]) -> None:
        """The first sample begins with the prompt; the others are forked when it has one token more."""
        for row in plan.rows:
            seq, number = row.seq, row.seq.request.request_id
            first = self.firsts.setdefault(number, seq.seq_id)
            if seq.seq_id not in self.texts:
                self.prompts[seq.seq_id] = prompts[number]
                is_first = seq.seq_id == first
                self.texts[seq.seq_id] = list(prompts[number] if is_first else self.texts[first])

    def _execute(self, plan: StepPlan, num_drafts: int) -> StepResult:
        self.num_swaps += len(plan.blocks_to_swap_in)
        self.num_copies += len(plan.blocks_to_copy)
        self.num_preemptions += len(plan.preempted)
        self.storage.apply(plan)
        batch = build_batch(plan, self._tokens_of, BLOCK_SIZE, CPU)
        chosen = self.model.forward(batch.tensors, self.storage.caches).argmax(-1).tolist()
        accepted = {}
        starts = batch.logits_starts.tolist()
        for row, begin, end in zip(batch.rows, starts[:-1], starts[1:], strict=True):
            if row.yields_token:
                count = self._extend(row, chosen[begin:end])
                if row.num_draft_tokens:
                    accepted[row.seq.seq_id] = count
        wanted = {row.seq.seq_id: num_drafts for row in plan.rows if row.yields_token and num_drafts}
        return StepResult([1], accepted, wanted)

    def _tokens_of(self, row: ScheduledSequence) -> list[int]:
        known = self.texts[row.seq.seq_id] + self._drafts_of(row)
        return known[row.num_computed_tokens :][: row.num_tokens]

    def _drafts_of(self, row: ScheduledSequence) -> list[int]:
        """Guesses, right now and then: the last token over and over."""
        return [self.texts[row.seq.seq_id][-1]] * row.num_draft_tokens

    def _extend(self, row: ScheduledSequence, chosen: list[int]) -> int:
        """Keep the drafts that the model would have chosen, and its next token; returns how many drafts."""
        count = 0
        for draft, token in zip(self._drafts_of(row), chosen, strict=False):
            if draft != token:
                break
            count += 1
        self.texts[row.seq.seq_id] += chosen[: count + 1]
        self.num_accepted += count
        return count


@pytest.fixture(scope="module")
def model() -> LlamaModel:
    return LlamaModel(DRAFT, pack(DRAFT, random_weights(DRAFT, torch.Generator().manual_seed(5))))


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(6)
    return [torch.randint(1024, (length,), generator=generator).tolist() for length in PROMPT_LENGTHS]


@pytest.fixture(scope="module")
def expected(model: LlamaModel, prompts: list[list[int]]) -> list[list[int]]:
    return decode_plainly(model, prompts, NUM_TOKENS)


def _v1(num_blocks: int, **settings: Any) -> EngineCore:
    cache = CacheConfig(num_blocks, BLOCK_SIZE, enable_prefix_caching=False)
    scheduler = SchedulerConfig(**{"max_model_len": MAX_MODEL_LEN, "max_num_batched_tokens": 256} | settings)
    return EngineCore(EngineConfig(cache, scheduler, 1, PlanDetail.SEQUENCES))


def _paper(num_blocks: int, preemption: PreemptionMode) -> EngineCore:
    cache = CacheConfig(num_blocks, BLOCK_SIZE, enable_prefix_caching=False)
    scheduler = GroupSchedulerConfig(
        MAX_MODEL_LEN, num_host_blocks=NUM_HOST_BLOCKS, preemption=preemption, watermark_fraction=0.0
    )
    return EngineCore(EngineConfig(cache, scheduler, 1, PlanDetail.SEQUENCES))


@pytest.mark.parametrize("token_budget", [256, 16, 5, 1])
def test_chunks_of_any_size_give_the_same_text(
    token_budget: int, model: LlamaModel, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    assert HandDriven(model, _v1(80, max_num_batched_tokens=token_budget)).run(prompts) == expected


def test_preemption_by_recompute_gives_the_same_text(
    model: LlamaModel, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    run = HandDriven(model, _v1(20))
    assert run.run(prompts) == expected
    assert run.num_preemptions > 0


@pytest.mark.parametrize("preemption", [PreemptionMode.SWAP, PreemptionMode.RECOMPUTE])
def test_the_papers_scheduler_gives_the_same_text(
    preemption: PreemptionMode, model: LlamaModel, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    run = HandDriven(model, _paper(20, preemption))
    assert run.run(prompts) == expected
    assert (run.num_swaps > 0) == (preemption is PreemptionMode.SWAP)


@pytest.mark.parametrize("num_drafts", [1, 3, 6])
def test_drafts_right_or_wrong_give_the_same_text(
    num_drafts: int, model: LlamaModel, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    run = HandDriven(model, _v1(30, num_speculative_tokens=num_drafts))
    assert run.run(prompts, num_drafts) == expected
    assert run.num_accepted > 0


def test_samples_that_share_their_prompt_copy_on_write_and_give_the_same_text(
    model: LlamaModel, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    run = HandDriven(model, _paper(60, PreemptionMode.SWAP))
    assert sorted(run.run(prompts, num_samples=2)) == sorted([*expected, *expected])
    assert run.num_copies > 0
