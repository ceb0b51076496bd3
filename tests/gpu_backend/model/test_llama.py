"""The model computes what transformers computes, on random tiny checkpoints, however the tokens are cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the engine needs torch")
pytest.importorskip("transformers", reason="transformers is the oracle")

import torch

from gpu_backend.memory.fixed_blocks import FixedBlocks
from gpu_backend.model.llama import LlamaModel
from gpu_backend.model.loading import load_model
from gpu_backend.ops.implementation import Implementation
from tests.gpu_backend.tiny_models import KINDS, SIZES, save

TOLERANCE = 1e-4
CPU = torch.device("cpu")
LENGTHS = (37, 1, 16, 5)

Pair = tuple[Any, Callable[[Implementation], LlamaModel]]


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder: Path = tmp_path_factory.mktemp(request.param)
    oracle = save(request.param, folder)
    return oracle, lambda implementation: load_model(folder, torch.float32, CPU, implementation)


def _prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    size = SIZES["vocab_size"]
    return [torch.randint(size, (length,), generator=generator).tolist() for length in LENGTHS]


def _expected(oracle: Any, tokens: list[int]) -> Any:
    with torch.no_grad():
        return oracle(torch.tensor([tokens])).logits[0]


@pytest.mark.parametrize("implementation", [Implementation.TWIN, Implementation.UNFUSED])
def test_whole_prompts_together_give_the_logits_of_each_alone(
    pair: Pair, implementation: Implementation
) -> None:
    oracle, load = pair
    prompts = _prompts()
    got = FixedBlocks(load(implementation), len(prompts), 64, block_size=8).forward(prompts)
    for logits, prompt in zip(got, prompts, strict=True):
        torch.testing.assert_close(logits, _expected(oracle, prompt), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("implementation", [Implementation.TWIN, Implementation.UNFUSED])
@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_chunks_of_prompts_give_the_logits_of_the_whole(
    pair: Pair, implementation: Implementation, chunk: int
) -> None:
    oracle, load = pair
    prompts = _prompts()
    sequences = FixedBlocks(load(implementation), len(prompts), 64, block_size=8)
    pieces: list[list[Any]] = [[] for _ in prompts]
    for begin in range(0, max(LENGTHS), chunk):
        for seq, logits in enumerate(sequences.forward([p[begin : begin + chunk] for p in prompts])):
            pieces[seq].append(logits)
    for got, prompt in zip(pieces, prompts, strict=True):
        torch.testing.assert_close(torch.cat(got), _expected(oracle, prompt), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("implementation", [Implementation.TWIN, Implementation.UNFUSED])
def test_decodes_beside_a_prompt_give_the_logits_of_each_alone(
    pair: Pair, implementation: Implementation
) -> None:
    oracle, load = pair
    prompts = _prompts()
    sequences = FixedBlocks(load(implementation), len(prompts), 64, block_size=8)
    sequences.forward([prompts[0], prompts[1], [], []])
    got = sequences.forward([[11], [12], prompts[2], prompts[3]])  # two decodes, two prompts
    for logits, tokens in zip(got, [[*prompts[0], 11], [*prompts[1], 12], *prompts[2:]], strict=True):
        wanted = _expected(oracle, tokens)[-len(logits) :]
        torch.testing.assert_close(logits, wanted, atol=TOLERANCE, rtol=0)


def test_decoding_greedily_goes_where_transformers_goes(pair: Pair) -> None:
    oracle, load = pair
    prompt, tokens = _prompts()[0], []
    sequences = FixedBlocks(load(Implementation.TWIN), 1, 64, block_size=8)
    logits = sequences.forward([prompt])[0]
    for _ in range(20):
        tokens.append(int(logits[-1].argmax()))
        logits = sequences.forward([tokens[-1:]])[0]
    wanted = _expected(oracle, prompt + tokens)[len(prompt) - 1 : -1].argmax(-1)
    assert tokens == wanted.tolist()


def test_rejected_tokens_leave_no_trace_once_they_are_overwritten(pair: Pair) -> None:
    oracle, load = pair
    prompt = _prompts()[0]
    sequences = FixedBlocks(load(Implementation.TWIN), 1, 64, block_size=8)
    sequences.forward([[*prompt, 1, 2, 3]])
    sequences.rewind(0, len(prompt) + 1)
    got = sequences.forward([[4, 5]])[0]
    wanted = _expected(oracle, [*prompt, 1, 4, 5])[-2:]
    torch.testing.assert_close(got, wanted, atol=TOLERANCE, rtol=0)


def test_only_the_slots_of_the_batch_are_written(tmp_path: Path) -> None:
    save("llama", tmp_path)
    sequences = FixedBlocks(load_model(tmp_path, torch.float32, CPU), 2, 32, block_size=8)
    batch = sequences.batch([[1, 2, 3], [4]])
    sequences.forward([[1, 2, 3], [4]])
    for cache in sequences.caches:
        written = ~cache.key.flatten(0, 1).isnan().all(-1).all(-1)  # [num_slots]
        assert written.nonzero().squeeze(1).tolist() == sorted(batch.slot_mapping.tolist())
