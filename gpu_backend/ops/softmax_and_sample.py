"""Softmax at each row's own temperature and a draw from it, in one pass over the logits.

    probs[r] = softmax(logits[r] / temperatures[r])       in float32
    token[r] = draw(probs[r], uniforms[r])                `inverse_cdf.py`
    temperature 0 is greedy: the lowest index of the largest logit, and probability one for it

Owns the op in its three forms. Refuses to know top-k and top-p: whoever wants them sets the logits of
excluded tokens to minus infinity before. Invariant: a token whose logit is minus infinity is never drawn.
"""

from __future__ import annotations

import torch

from gpu_backend.ops import pieces
from gpu_backend.ops.implementation import (
    Implementation,
    require,
    require_dense_rows,
    require_same_device,
    require_shape,
)
from gpu_backend.ops.inverse_cdf import draw
from gpu_backend.ops.language import kernel, next_power_of_2, require_triton, tl
from gpu_backend.ops.launches import count_launch


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
            return _launch(logits, temperatures, uniforms, probs)


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


def _launch(
    logits: torch.Tensor, temperatures: torch.Tensor, uniforms: torch.Tensor, probs: torch.Tensor | None
) -> torch.Tensor:
    require_triton()
    require_dense_rows("logits", logits)
    num_rows, vocab_size = logits.shape
    tokens = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    temperatures, uniforms = temperatures.contiguous(), uniforms.contiguous()  # perhaps columns of a matrix
    if probs is not None:
        require_dense_rows("probs", probs)
    if num_rows == 0:
        return tokens
    _softmax_and_sample_kernel[(num_rows,)](
        logits,
        temperatures,
        uniforms,
        tokens,
        logits if probs is None else probs,
        logits.stride(0),
        0 if probs is None else probs.stride(0),
        vocab_size,
        WRITE_PROBS=probs is not None,
        TILE=min(2048, next_power_of_2(vocab_size)),
        num_warps=4,
    )
    written = (tokens,) if probs is None else (tokens, probs)
    count_launch("softmax_and_sample", (logits, temperatures, uniforms), written)
    return tokens


@kernel()
def _softmax_and_sample_kernel(
    logits_ptr,
    temperatures_ptr,
    uniforms_ptr,
    tokens_ptr,
    probs_ptr,
    logits_stride,
    probs_stride,
    vocab_size,
    WRITE_PROBS: tl.constexpr,
    TILE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperatures_ptr + row).to(tl.float32)
    greedy = temperature == 0.0
    sharpness = 1.0 / tl.where(greedy, 1.0, temperature)
    row_ptr = logits_ptr + row * logits_stride
    lanes = tl.arange(0, TILE)  # [TILE]

    largest = float("-inf")
    largest_at = 0
    total = 0.0
    for start in range(0, vocab_size, TILE):
        columns = start + lanes
        logits = tl.load(row_ptr + columns, mask=columns < vocab_size, other=float("-inf")).to(tl.float32)
        tile_largest = tl.max(logits, 0)
        at = tl.min(tl.where(logits == tile_largest, columns, vocab_size), 0)
        largest_at = tl.where(tile_largest > largest, at, largest_at)
        raised = tl.maximum(largest, tile_largest)
        base = tl.where(raised == float("-inf"), 0.0, raised)  # all excluded so far: exp of -inf - 0 is 0
        weights = tl.exp((logits - base) * sharpness)
        total = total * tl.exp((largest - base) * sharpness) + tl.sum(weights, 0)
        largest = raised

    threshold = tl.load(uniforms_ptr + row).to(tl.float32) * total
    passed = 0.0
    drawn = vocab_size
    last_possible = 0
    for start in range(0, vocab_size, TILE):
        columns = start + lanes
        logits = tl.load(row_ptr + columns, mask=columns < vocab_size, other=float("-inf")).to(tl.float32)
        weights = tl.exp((logits - largest) * sharpness)
        running = passed + tl.cumsum(weights, 0)
        hit = (running > threshold) & (weights > 0.0)
        drawn = tl.minimum(drawn, tl.min(tl.where(hit, columns, vocab_size), 0))
        last_possible = tl.maximum(last_possible, tl.max(tl.where(weights > 0.0, columns, 0), 0))
        passed += tl.sum(weights, 0)
        if WRITE_PROBS:
            certain = tl.where(columns == largest_at, 1.0, 0.0)
            probs = tl.where(greedy, certain, weights / total)
            probs_row_ptr = probs_ptr + row * probs_stride
            tl.store(probs_row_ptr + columns, probs.to(probs_ptr.dtype.element_ty), mask=columns < vocab_size)
    token = tl.where(drawn < vocab_size, drawn, last_possible)
    tl.store(tokens_ptr + row, tl.where(greedy, largest_at, token).to(tl.int64))
