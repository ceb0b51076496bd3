"""Speculative decoding's accept-or-recover as Leviathan et al. and Chen et al. (2023) state it, in one go.

With draft probabilities q, target probabilities p and drafts x_0 .. x_{n-1} of one sequence:

    x_i is accepted if u_i q_i(x_i) < p_i(x_i), that is with probability min(1, p / q), and all before it were
    at the first rejection i:  the recovered token is drawn from max(p_i - q_i, 0), normalised
    after n acceptances:       the bonus token is drawn from p_n

so each sequence gains num_accepted + 1 tokens, distributed as if the target had sampled them one by one.
Greedy decoding is the limit: with one-hot p and q a draft is accepted where it equals the target's choice,
and that choice is what is recovered otherwise.

Owns the op in its three forms. Refuses to know how drafts came about, and random numbers: they are given.
Invariant: tokens and probabilities past a sequence's number of drafts are never looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from gpu_backend.ops.implementation import (
    Implementation,
    require,
    require_integers,
    require_same_device,
    require_shape,
)
from gpu_backend.ops.inverse_cdf import draw
from gpu_backend.ops.language import kernel, next_power_of_2, require_triton, tl
from gpu_backend.ops.launches import count_launch


@dataclass(frozen=True, slots=True)
class Drafts:
    """What the draft model proposed, and what the target thinks of it."""

    token_ids: torch.Tensor  # [num_seqs, max_drafts] int64
    num_drafts: torch.Tensor  # [num_seqs] int32, at most max_drafts; may be 0
    draft_probs: torch.Tensor  # [num_seqs, max_drafts, vocab_size] float32
    target_probs: torch.Tensor  # [num_seqs, max_drafts + 1, vocab_size] float32


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many drafts stand, and the recovered or bonus token that follows them."""

    num_accepted: torch.Tensor  # [num_seqs] int32
    next_token_ids: torch.Tensor  # [num_seqs] int64


def rejection_sample(
    drafts: Drafts,
    uniforms: torch.Tensor,  # [num_seqs, max_drafts + 1] float32 in [0, 1): one per draft, one for the token
    implementation: Implementation = Implementation.TWIN,
) -> Verdict:
    """Accepts a prefix of each sequence's drafts and draws the token that follows it.

    Raises:
        OpInputError: for shapes, dtypes or devices that do not go together.
    """
    _check(drafts, uniforms)
    match implementation:
        case Implementation.TWIN:
            verdict = _twin(drafts, uniforms)
            read = partial(_operands, drafts, verdict.num_accepted)
            count_launch("rejection_sample", read, (verdict.num_accepted, verdict.next_token_ids))
            return verdict
        case Implementation.UNFUSED:
            return _unfused(drafts, uniforms)
        case Implementation.KERNEL:
            return _launch(drafts, uniforms)


def _check(drafts: Drafts, uniforms: torch.Tensor) -> None:
    require(drafts.token_ids.dim() == 2, f"token_ids have {drafts.token_ids.dim()} dimensions, expected 2")
    num_seqs, max_drafts = drafts.token_ids.shape
    require(max_drafts > 0, "no draft to verify")
    vocab_size = drafts.target_probs.shape[-1]
    require_shape("num_drafts", drafts.num_drafts, (num_seqs,))
    require_shape("draft_probs", drafts.draft_probs, (num_seqs, max_drafts, vocab_size))
    require_shape("target_probs", drafts.target_probs, (num_seqs, max_drafts + 1, vocab_size))
    require_shape("uniforms", uniforms, (num_seqs, max_drafts + 1))
    require_integers("token_ids", drafts.token_ids)
    require_integers("num_drafts", drafts.num_drafts)
    require(drafts.draft_probs.dtype == drafts.target_probs.dtype, "probabilities differ in dtype")
    require_same_device(
        token_ids=drafts.token_ids,
        num_drafts=drafts.num_drafts,
        draft_probs=drafts.draft_probs,
        target_probs=drafts.target_probs,
        uniforms=uniforms,
    )


def _operands(drafts: Drafts, num_accepted: torch.Tensor) -> tuple[torch.Tensor | int, ...]:
    """What must be read: two numbers per draft, the target's row, and the draft's where one was rejected."""
    row_bytes = drafts.target_probs.shape[2] * drafts.target_probs.element_size()
    per_draft = 2 * drafts.target_probs.element_size()
    return (
        drafts.token_ids,
        drafts.num_drafts,
        drafts.token_ids.numel() * per_draft,
        (len(num_accepted) + int((num_accepted < drafts.num_drafts).sum())) * row_bytes,
    )


def _twin(drafts: Drafts, uniforms: torch.Tensor) -> Verdict:
    num_seqs, max_drafts = drafts.token_ids.shape
    drafted = (
        torch.arange(max_drafts, device=uniforms.device) < drafts.num_drafts[:, None]
    )  # [num_seqs, max_drafts]
    tokens = torch.where(drafted, drafts.token_ids, 0).long()[..., None]  # [num_seqs, max_drafts, 1]
    by_draft = drafts.draft_probs.gather(2, tokens)[..., 0]  # [num_seqs, max_drafts]
    by_target = drafts.target_probs.gather(2, tokens)[..., 0]
    accepted = drafted & (uniforms[:, :max_drafts] * by_draft < by_target)
    num_accepted = accepted.int().cumprod(1).sum(1)  # [num_seqs]
    seqs = torch.arange(num_seqs, device=uniforms.device)
    target = drafts.target_probs[seqs, num_accepted]  # [num_seqs, vocab_size]
    draft = drafts.draft_probs[seqs, num_accepted.clamp(max=max_drafts - 1)]
    residual = (target - draft).clamp(min=0)  # [num_seqs, vocab_size]
    recovers = (num_accepted < drafts.num_drafts) & (
        residual.sum(1) > 0
    )  # rounding alone can empty the residual
    weights = torch.where(recovers[:, None], residual, target)
    return Verdict(num_accepted.int(), draw(weights, uniforms[:, max_drafts]))


def _unfused(drafts: Drafts, uniforms: torch.Tensor) -> Verdict:
    """The pieces of `_twin`, each counted as the launch that it is."""
    verdict = _twin(drafts, uniforms)
    few = (drafts.token_ids, drafts.token_ids)  # small tensors of one number per draft
    row_bytes = len(drafts.num_drafts) * drafts.target_probs.shape[2] * drafts.target_probs.element_size()
    for name in ("compare", "where", "gather", "gather", "multiply", "compare", "and", "cumprod", "sum"):
        count_launch(name, few, few[:1])
    for name in ("take_rows", "take_rows"):
        count_launch(name, (row_bytes,), (row_bytes,))
    count_launch("subtract", (2 * row_bytes,), (row_bytes,))
    count_launch("clamp", (row_bytes,), (row_bytes,))
    count_launch("sum", (row_bytes,), (drafts.num_drafts,))
    count_launch("where", (2 * row_bytes,), (row_bytes,))
    count_launch("cumsum", (row_bytes,), (row_bytes,))
    count_launch("compare", (row_bytes,), (verdict.next_token_ids,))
    return verdict


def _launch(drafts: Drafts, uniforms: torch.Tensor) -> Verdict:
    require_triton()
    num_seqs, max_drafts = drafts.token_ids.shape
    vocab_size = drafts.target_probs.shape[2]
    named = (
        ("token_ids", drafts.token_ids),
        ("draft_probs", drafts.draft_probs),
        ("target_probs", drafts.target_probs),
        ("uniforms", uniforms),
    )
    for name, tensor in named:
        require(tensor.is_contiguous(), f"{name} is not contiguous")
    num_accepted = torch.empty(num_seqs, dtype=torch.int32, device=uniforms.device)
    next_token_ids = torch.empty(num_seqs, dtype=torch.int64, device=uniforms.device)
    if num_seqs:
        _rejection_sample_kernel[(num_seqs,)](
            drafts.token_ids,
            drafts.num_drafts,
            drafts.draft_probs,
            drafts.target_probs,
            uniforms,
            num_accepted,
            next_token_ids,
            vocab_size,
            MAX_DRAFTS=max_drafts,
            TILE=min(2048, next_power_of_2(vocab_size)),
            num_warps=4,
        )
    count_launch("rejection_sample", lambda: _operands(drafts, num_accepted), (num_accepted, next_token_ids))
    return Verdict(num_accepted, next_token_ids)


@kernel()
def _rejection_sample_kernel(
    token_ids_ptr,
    num_drafts_ptr,
    draft_probs_ptr,
    target_probs_ptr,
    uniforms_ptr,
    num_accepted_ptr,
    next_token_ids_ptr,
    vocab_size,
    MAX_DRAFTS: tl.constexpr,
    TILE: tl.constexpr,
):
    seq = tl.program_id(0).to(tl.int64)
    num_drafts = tl.load(num_drafts_ptr + seq).to(tl.int32)
    accepted = tl.full([], 0, tl.int32)
    for position in range(MAX_DRAFTS):
        if position < num_drafts:  # noqa: SIM102  # two branches on scalars, which every Triton reads
            if accepted == position:  # all before it stand
                token = tl.load(token_ids_ptr + seq * MAX_DRAFTS + position).to(tl.int64)
                draft_at = (seq * MAX_DRAFTS + position) * vocab_size + token
                target_at = (seq * (MAX_DRAFTS + 1) + position) * vocab_size + token
                by_draft = tl.load(draft_probs_ptr + draft_at)
                by_target = tl.load(target_probs_ptr + target_at)
                uniform = tl.load(uniforms_ptr + seq * (MAX_DRAFTS + 1) + position)
                accepted += (uniform * by_draft < by_target).to(tl.int32)
    tl.store(num_accepted_ptr + seq, accepted)

    rejected = accepted < num_drafts
    draft_width = vocab_size * rejected.to(tl.int32)  # after acceptance of all there is nothing to subtract
    target_ptr = target_probs_ptr + (seq * (MAX_DRAFTS + 1) + accepted) * vocab_size
    draft_ptr = draft_probs_ptr + (seq * MAX_DRAFTS + accepted) * vocab_size
    lanes = tl.arange(0, TILE)  # [TILE]
    target_total = 0.0
    residual_total = 0.0
    for start in range(0, vocab_size, TILE):
        columns = start + lanes
        inside = columns < vocab_size
        target = tl.load(target_ptr + columns, mask=inside, other=0.0)
        draft = tl.load(draft_ptr + columns, mask=columns < draft_width, other=0.0)
        target_total += tl.sum(target, 0)
        residual_total += tl.sum(tl.maximum(target - draft, 0.0), 0)
    recovers = rejected & (residual_total > 0.0)  # rounding alone can empty the residual
    total = tl.where(recovers, residual_total, target_total)
    draft_width = vocab_size * recovers.to(tl.int32)

    threshold = tl.load(uniforms_ptr + seq * (MAX_DRAFTS + 1) + MAX_DRAFTS) * total
    passed = 0.0
    drawn = vocab_size
    last_possible = 0
    for start in range(0, vocab_size, TILE):
        columns = start + lanes
        inside = columns < vocab_size
        target = tl.load(target_ptr + columns, mask=inside, other=0.0)
        draft = tl.load(draft_ptr + columns, mask=columns < draft_width, other=0.0)
        weights = tl.maximum(target - draft, 0.0)
        running = passed + tl.cumsum(weights, 0)
        hit = (running > threshold) & (weights > 0.0)
        drawn = tl.minimum(drawn, tl.min(tl.where(hit, columns, vocab_size), 0))
        last_possible = tl.maximum(last_possible, tl.max(tl.where(weights > 0.0, columns, 0), 0))
        passed += tl.sum(weights, 0)
    token = tl.where(drawn < vocab_size, drawn, last_possible)
    tl.store(next_token_ids_ptr + seq, token.to(tl.int64))
