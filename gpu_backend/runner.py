"""`ModelRunner`: one model with its keys and values, run eagerly or by replaying CUDA graphs.

A decode step launches some dozens of small kernels, and launching them takes longer than they run. A graph is
captured once for each of a few batch sizes, before the first step, and replayed as one launch:

    batch of 11  ->  copied into the buffers of size 16, five rows of padding  ->  replay  ->  first 11 logits

Padding has no context and no slot, so it reads and writes nothing of the caches. Only steps in which every
sequence decodes are graphs; prompts, chunks and drafts to verify run eagerly. Refuses to know what a device
offers: how a run is captured is given (`gpu_backend/cuda_graphs.py`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_backend.memory.kv_storage import KVStorage
from gpu_backend.model.llama import LlamaModel, PagedBatch
from gpu_backend.ops.launches import is_counting

Replay = Callable[[], None]
Capture = Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]]
"""Captures a run: returns what replays it, and the tensor that its result is then in."""


@dataclass(frozen=True, slots=True)
class GraphSettings:
    """Which batches are graphs.

    Attributes:
        capture: How a run is captured.
        sizes: Batch sizes, ascending; a batch is padded to the next one, larger batches run eagerly.
        max_blocks: Longest block table.
    """

    capture: Capture
    sizes: tuple[int, ...]
    max_blocks: int


def padded_sizes(largest: int) -> tuple[int, ...]:
    """1, 2, 4, 8, then every 8 up to `largest` (as vLLM and nano-vllm do: under 8 rows are ever wasted)."""
    sizes = [size for size in (1, 2, 4) if size < largest]
    return (*sizes, *range(8, largest, 8), largest)


class ModelRunner:
    """A model ready to serve."""

    def __init__(self, model: LlamaModel, storage: KVStorage, graphs: GraphSettings | None = None) -> None:
        self.model = model
        self.storage = storage
        self._settings = graphs
        self._graphs: dict[int, _Graph] = {}

    @torch.inference_mode()
    def capture(self) -> None:
        """Capture a graph of every size, so that no step has to; others reuse the memory of the largest."""
        if self._settings is not None:
            for size in reversed(self._settings.sizes):
                self._graph(size, self._settings)

    def forward(self, batch: PagedBatch) -> Tensor:
        """Logits of a batch.  # [num_logits, vocab].

        Where launches are counted it runs eagerly: a graph is one launch, and its kernels are never seen.
        """
        settings, num_seqs = self._settings, len(batch.context_lens)
        if settings is None or not _only_decodes(batch) or num_seqs > settings.sizes[-1] or is_counting():
            return self.model.forward(batch, self.storage.caches)
        return self._graph(settings.sizes[bisect_left(settings.sizes, num_seqs)], settings).run(batch)

    def release(self) -> None:
        """Give back the memory of keys, values and graphs; nothing can be run afterwards."""
        self._graphs.clear()
        self.storage.release()

    def _graph(self, size: int, settings: GraphSettings) -> _Graph:
        graph = self._graphs.get(size)
        if graph is None:
            graph = self._graphs[size] = _Graph(self.model, self.storage, size, settings)
        return graph


class _Graph:
    """One batch size: the buffers a captured run reads, and its replay."""

    def __init__(self, model: LlamaModel, storage: KVStorage, size: int, settings: GraphSettings) -> None:
        device = model.device
        self._buffers = PagedBatch(
            token_ids=torch.zeros(size, dtype=torch.int64, device=device),
            positions=torch.zeros(size, dtype=torch.int64, device=device),
            slot_mapping=torch.full((size,), -1, dtype=torch.int64, device=device),
            block_tables=torch.zeros((size, settings.max_blocks), dtype=torch.int32, device=device),
            query_starts=torch.arange(size + 1, dtype=torch.int32, device=device),
            context_lens=torch.zeros(size, dtype=torch.int32, device=device),
            logits_rows=torch.arange(size, device=device),
            num_decode_seqs=size,
        )
        self._replay, self._logits = settings.capture(lambda: model.forward(self._buffers, storage.caches))

    def run(self, batch: PagedBatch) -> Tensor:
        """Logits of a batch no larger than this graph's; they hold until the next run."""
        num_seqs, num_blocks = batch.block_tables.shape
        buffers = self._buffers
        buffers.token_ids[:num_seqs].copy_(batch.token_ids)
        buffers.positions[:num_seqs].copy_(batch.positions)
        buffers.slot_mapping[:num_seqs].copy_(batch.slot_mapping)
        buffers.block_tables[:num_seqs, :num_blocks].copy_(batch.block_tables)
        buffers.context_lens[:num_seqs].copy_(batch.context_lens)
        buffers.slot_mapping[num_seqs:].fill_(-1)
        buffers.context_lens[num_seqs:].zero_()
        self._replay()
        return self._logits[:num_seqs]


def _only_decodes(batch: PagedBatch) -> bool:
    """Whether every sequence computes one token, and wants its logits."""
    num_seqs = len(batch.context_lens)
    return batch.num_decode_seqs == num_seqs == len(batch.logits_rows) > 0
