"""Running a model on a few sequences without a scheduler: each sequence owns its blocks from the beginning.

Owns the caches of one model and how far each sequence has come. For measurements and tests of the model
alone; serving allocates blocks as it goes (`sim/core`). Blocks of different sequences alternate, so that
whoever ignores the block tables is found out:

    block_tables[s] = [s, s + num_seqs, s + 2 num_seqs, ...]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gpu_backend.model.llama import LayerCache, LlamaModel, PagedBatch


class FixedBlocks:
    """Caches for `num_seqs` sequences of at most `max_tokens` tokens; `lens` is what each has stored."""

    def __init__(self, model: LlamaModel, num_seqs: int, max_tokens: int, block_size: int = 16) -> None:
        self._model = model
        self._block_size = block_size
        max_blocks = -(-max_tokens // block_size)
        shape = (num_seqs * max_blocks, block_size, model.config.num_key_value_heads, model.config.head_dim)
        # Whatever is read before it is written shows up as NaN in the logits.
        self.caches = [
            LayerCache(*(torch.full(shape, torch.nan, dtype=model.dtype, device=model.device) for _ in "kv"))
            for _ in range(model.config.num_hidden_layers)
        ]
        ids = torch.arange(num_seqs * max_blocks, dtype=torch.int32, device=model.device)
        self.block_tables = ids.view(max_blocks, num_seqs).T.contiguous()  # [num_seqs, max_blocks]
        self.lens = [0] * num_seqs

    def forward(self, tokens: Sequence[Sequence[int]]) -> list[Tensor]:
        """Append tokens to each sequence (none is fine) and return the logits after each of them.

        Leading sequences with a single token are run as decodes.

        Returns:
            One tensor per sequence.  # each [num_tokens, vocab]
        """
        batch = self.batch(tokens)
        logits = self._model.forward(batch, self.caches)
        self.lens = [before + len(new) for before, new in zip(self.lens, tokens, strict=True)]
        return list(torch.split(logits, [len(new) for new in tokens]))

    def rewind(self, seq: int, num_tokens: int) -> None:
        """Forget all but the first tokens of a sequence: what was rejected is overwritten later."""
        assert num_tokens <= self.lens[seq]
        self.lens[seq] = num_tokens

    def batch(self, tokens: Sequence[Sequence[int]]) -> PagedBatch:
        """The batch that appends these tokens and wants all logits; who gets none has no part in it."""
        device = self._model.device
        active = [seq for seq, new in enumerate(tokens) if new]
        counts = [len(tokens[seq]) for seq in active]
        stored = [self.lens[seq] for seq in active]
        positions = [before + place for before, n in zip(stored, counts, strict=True) for place in range(n)]
        of_row = torch.tensor([row for row, count in enumerate(counts) for _ in range(count)], device=device)
        places = torch.tensor(positions, device=device)
        tables = self.block_tables[active]  # [num_active, max_blocks]
        blocks = tables[of_row, places // self._block_size].long()  # [num_tokens]
        ends = [before + n for before, n in zip(stored, counts, strict=True)]
        return PagedBatch(
            token_ids=torch.tensor([token for new in tokens for token in new], device=device),
            positions=places,
            slot_mapping=blocks * self._block_size + places % self._block_size,
            block_tables=tables,
            query_starts=torch.tensor([0, *counts], device=device).cumsum(0).int(),
            context_lens=torch.tensor(ends, dtype=torch.int32, device=device),
            logits_rows=torch.arange(len(positions), device=device),
            num_decode_seqs=next((row for row, count in enumerate(counts) if count != 1), len(counts)),
        )
