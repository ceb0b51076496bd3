"""Softmax at each row's own temperature and a draw from it, in one pass over the logits.

    probs[r] = softmax(logits[r] / temperatures[r])       in float32
    token[r] = draw(probs[r], uniforms[r])                `inverse_cdf.py`
    temperature 0 is greedy: the lowest index of the largest logit, and probability one for it

Owns the op in its three forms. Refuses to know top-k and top-p: whoever wants them sets the logits of
excluded tokens to minus infinity before. Invariant: a token whose logit is minus infinity is never drawn.
"""

from __future__ import annotations

import torch

from gpu_backend.launches import count_launch
from gpu_backend.ops import pieces
from gpu_backend.ops.implementation import Implementation, require, require_same_device, require_shape
from gpu_backend.ops.inverse_cdf import draw


def softmax_and_sample(
    logits: torch.Tensor,  # [num_rows, vocab_size]
    temperatures: torch.Tensor,  # [num_rows] float32
    uniforms: torch.Tensor,  # [num_rows] float32 in [0, 1)
    probs: torch.Tensor | None = None,  # [num_rows, vocab_size] float32, to be filled
    implementation: Implementation = Implementation.TWIN,
) -> torch.Tensor:
    """Draws one token per row: [num_rows] int64; writes the probabilities too where `probs` is given.

    Raises:
        OpInputError: for shapes or devices that do not go together.
    """
    _check(logits, temperatures, uniforms, probs)
    match implementation:
        case Implementation.TWIN:
            tokens = _twin(logits, temperatures, uniforms, probs)
            written = (tokens,) if probs is None else (tokens, probs)
            count_launch("softmax_and_sample", (logits, temperatures, uniforms), written)
            return tokens
        case Implementation.UNFUSED:
            return _unfused(logits, temperatures, uniforms, probs)
        case Implementation.KERNEL:
            raise NotImplementedError


def _check(
    logits: torch.Tensor, temperatures: torch.Tensor, uniforms: torch.Tensor, probs: torch.Tensor | None
) -> None:
    require(logits.dim() == 2, f"logits have {logits.dim()} dimensions, expected 2")
    require_shape("temperatures", temperatures, (logits.shape[0],))
    require_shape("uniforms", uniforms, (logits.shape[0],))
    require_same_device(logits=logits, temperatures=temperatures, uniforms=uniforms)
    if probs is not None:
        require_shape("probs", probs, tuple(logits.shape))
        require_same_device(logits=logits, probs=probs)


def _twin(
    logits: torch.Tensor, temperatures: torch.Tensor, uniforms: torch.Tensor, probs: torch.Tensor | None
) -> torch.Tensor:
    greedy = temperatures == 0  # [num_rows]
    largest = logits.argmax(-1)  # [num_rows]
    if probs is None and bool(greedy.all()):
        return largest
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    softened = (exact / torch.where(greedy, 1.0, temperatures)[:, None]).softmax(-1)
    if probs is not None:
        probs.copy_(softened)
        probs[greedy] = 0.0
        probs[greedy, largest[greedy]] = 1.0
    return torch.where(greedy, largest, draw(softened, uniforms))


def _unfused(
    logits: torch.Tensor, temperatures: torch.Tensor, uniforms: torch.Tensor, probs: torch.Tensor | None
) -> torch.Tensor:
    greedy = temperatures == 0  # [num_rows]
    largest = logits.argmax(-1)
    count_launch("argmax", (logits,), (largest,))
    exact = pieces.cast(logits, torch.promote_types(logits.dtype, torch.float32))
    softened = pieces.softmax(pieces.divide(exact, torch.where(greedy, 1.0, temperatures)[:, None]))
    tokens = draw(softened, uniforms)
    count_launch("cumsum", (softened,), (softened,))
    count_launch("compare", (softened, uniforms), (tokens,))
    chosen = torch.where(greedy, largest, tokens)
    count_launch("where", (greedy, largest, tokens), (chosen,))
    if probs is not None:
        certain = torch.nn.functional.one_hot(largest, logits.shape[1])
        probs.copy_(torch.where(greedy[:, None], certain, softened))
        count_launch("where", (greedy, largest, softened), (probs,))
    return chosen
