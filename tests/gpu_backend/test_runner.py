"""Graphs of padded batches give what eager runs give, and touch nothing but the rows that are there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

import torch
from torch import Tensor

from gpu_backend.cuda_graphs import cuda_capture
from gpu_backend.memory.fixed_blocks import FixedBlocks
from gpu_backend.memory.kv_storage import KVStorage, StorageShape
from gpu_backend.model.llama import LlamaModel
from gpu_backend.model.weights import pack
from gpu_backend.ops.implementation import Implementation
from gpu_backend.runner import Capture, GraphSettings, ModelRunner, Replay, padded_sizes
from gpu_backend.training.network import random_weights
from gpu_backend.training.pair import DRAFT

BLOCK_SIZE, NUM_BLOCKS = 4, 40


class Captures:
    """Stands for a device's graphs: a replay runs again and fills the tensor that was there first."""

    def __init__(self) -> None:
        self.num_captures = self.num_replays = 0

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        logits = run().clone()
        self.num_captures += 1

        def replay() -> None:
            self.num_replays += 1
            logits.copy_(run())

        return replay, logits


def runner(
    capture: Capture | None, device: str = "cpu", form: Implementation = Implementation.TWIN
) -> ModelRunner:
    weights = random_weights(DRAFT, torch.Generator().manual_seed(5))
    on_device = {name: tensor.to(device) for name, tensor in weights.items()}
    model = LlamaModel(DRAFT, pack(DRAFT, on_device), form)
    storage = KVStorage(
        DRAFT, StorageShape(NUM_BLOCKS, 0, BLOCK_SIZE), torch.float32, torch.device(device), form
    )
    for cache in storage.caches:
        cache.key.fill_(torch.nan)
        cache.value.fill_(torch.nan)
    graphs = GraphSettings(capture, (1, 2, 4, 6), max_blocks=10) if capture is not None else None
    return ModelRunner(model, storage, graphs)


def decode(target: ModelRunner, num_seqs: int, num_steps: int) -> list[Tensor]:
    """Prompts of three tokens, then steps of one; logits of each step."""
    layout = FixedBlocks(target.model, num_seqs, 24, BLOCK_SIZE)
    generator = torch.Generator().manual_seed(num_seqs)
    logits = []
    for step in range(num_steps + 1):
        tokens = torch.randint(DRAFT.vocab_size, (num_seqs, 1 if step else 3), generator=generator).tolist()
        batch = layout.batch(tokens)
        logits.append(target.forward(batch).clone())
        layout.lens = [length + len(tokens[0]) for length in layout.lens]
    return logits


@pytest.mark.parametrize("num_seqs", [1, 3, 4, 5, 6])
def test_a_graph_of_padded_rows_gives_the_eager_logits(num_seqs: int) -> None:
    captures = Captures()
    graphed, eager = runner(captures), runner(None)
    for with_graph, without in zip(decode(graphed, num_seqs, 5), decode(eager, num_seqs, 5), strict=True):
        torch.testing.assert_close(with_graph, without)
    assert (captures.num_captures, captures.num_replays) == (1, 5)
    for ours, theirs in zip(graphed.storage.caches, eager.storage.caches, strict=True):
        torch.testing.assert_close(ours.key, theirs.key, equal_nan=True)
        torch.testing.assert_close(ours.value, theirs.value, equal_nan=True)


def test_sizes_share_their_graph_and_larger_batches_run_eagerly() -> None:
    captures = Captures()
    target = runner(captures)
    for num_seqs in (3, 4, 3):
        decode(target, num_seqs, 1)
    assert (captures.num_captures, captures.num_replays) == (1, 3)
    decode(target, 7, 2)
    assert captures.num_replays == 3


def test_padding_never_wastes_eight_rows() -> None:
    for largest in (1, 2, 3, 8, 9, 100, 512):
        sizes = padded_sizes(largest)
        assert list(sizes) == sorted(set(sizes))
        assert sizes[-1] == largest
        for size in range(1, largest + 1):
            assert next(padded for padded in sizes if padded >= size) - size < 8


@pytest.mark.gpu
def test_a_cuda_graph_gives_the_eager_logits() -> None:
    device = torch.device("cuda")
    graphed = runner(cuda_capture(device), "cuda", Implementation.KERNEL)
    eager = runner(None, "cuda", Implementation.KERNEL)
    for num_seqs in (1, 3, 6):
        for with_graph, without in zip(decode(graphed, num_seqs, 5), decode(eager, num_seqs, 5), strict=True):
            torch.testing.assert_close(with_graph, without)
