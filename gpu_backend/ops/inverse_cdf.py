"""Drawing from unnormalised weights with one given uniform number: the first whose running sum passes it.

    draw(weights, u) = min { i : weights[0] + ... + weights[i] > u sum(weights) }

One number per draw, so that a sampled token depends on its own request's numbers alone, never on who else
is in the batch. Invariant: a token of weight zero is never drawn, not even where u is 0 or so near 1 that
the product rounds to the sum.
"""

from __future__ import annotations

import torch


def draw(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Draws one token per row: [num_rows] int64.

    Args:
        weights: [num_rows, vocab_size], not negative, at least one positive in each row.
        uniforms: [num_rows] in [0, 1).
    """
    running = weights.cumsum(-1)  # [num_rows, vocab_size]
    passed = (running <= uniforms[:, None] * running[:, -1:]).sum(-1)
    return torch.minimum(passed, running.argmax(-1))  # the first place of the full sum is a token with weight
