"""Speculative decoding on tensors: propose K drafts, verify them in one pass, keep what the target would say.

    draft model    last ─▶ x1 ─▶ x2 ─▶ … ─▶ xK           one token at a time, with probabilities q1 … qK
    target model   [last, x1, x2, …, xK]                  one pass, with probabilities p1 … pK+1
    verdict        x1 … xa accepted, each with probability min(1, p / q), then one token more:
                   recovered from max(p - q, 0) if a < K, the bonus from pK+1 if a = K

Owns the order of draws and the shapes; the accepting itself is one op (`ops/rejection_sample.py`). Refuses to
know models, caches and blocks: whoever runs the models gives a function. Sources: Leviathan et al. 2023
(algorithm 1), Chen et al. 2023. Invariant: the tokens are distributed as the target's own, whatever the draft
proposes; at temperature 0 they are the target's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_backend.ops.implementation import Implementation
from gpu_backend.ops.rejection_sample import Drafts, Verdict, rejection_sample
from gpu_backend.speculation.sampling import RowSettings, sample_with_probs

DraftStep = Callable[[Tensor], Tensor]
"""Runs the draft model on one token more per sequence [num_seqs]; returns logits [num_seqs, vocab]."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the draft model proposes, and the probabilities each token was drawn from."""

    token_ids: Tensor  # [num_seqs, num_drafts] int64
    probs: Tensor  # [num_seqs, num_drafts, vocab] float32


def propose(
    draft_step: DraftStep,
    last_tokens: Tensor,  # [num_seqs] int64
    settings: RowSettings,  # of num_seqs rows
    uniforms: Tensor,  # [num_seqs, num_drafts] float32 in [0, 1)
    implementation: Implementation = Implementation.TWIN,
) -> Proposal:
    """Draft `uniforms.shape[1]` tokens for each sequence, one after the other."""
    tokens, all_tokens, all_probs = last_tokens, [], []
    for place in range(uniforms.shape[1]):
        logits = draft_step(tokens)  # [num_seqs, vocab]
        tokens, probs = sample_with_probs(logits, settings, uniforms[:, place], implementation)
        all_tokens.append(tokens)
        all_probs.append(probs)
    return Proposal(torch.stack(all_tokens, 1), torch.stack(all_probs, 1))


def verify(
    proposal: Proposal,
    num_drafts: Tensor,  # [num_seqs] int32, at most proposal.token_ids.shape[1]
    target_logits: Tensor,  # [num_seqs, num_drafts + 1, vocab], after the last token and after each draft
    settings: RowSettings,  # of num_seqs rows
    uniforms: Tensor,  # [num_seqs, num_drafts + 1] float32 in [0, 1): one per draft, one for the token after
    implementation: Implementation = Implementation.TWIN,
) -> Verdict:
    """Accept a prefix of each sequence's drafts, and draw the recovered or bonus token that follows.

    Rows of `target_logits` past a sequence's own number of drafts may hold anything finite.
    """
    num_seqs, num_rows, vocab = target_logits.shape
    probs = sampling_probs(target_logits.reshape(-1, vocab), settings.repeated(num_rows), implementation)
    drafts = Drafts(proposal.token_ids, num_drafts, proposal.probs, probs.view(num_seqs, num_rows, vocab))
    return rejection_sample(drafts, uniforms, implementation)


def sampling_probs(
    logits: Tensor,  # [num_rows, vocab]
    settings: RowSettings,
    implementation: Implementation = Implementation.TWIN,
) -> Tensor:
    """The probabilities that sampling would draw from.  # [num_rows, vocab] float32."""
    unused = torch.zeros(len(logits), dtype=torch.float32, device=logits.device)
    return sample_with_probs(logits, settings, unused, implementation)[1]


def emitted(proposal: Proposal, verdict: Verdict) -> list[list[int]]:
    """Each sequence's new tokens: the accepted drafts, then the recovered or bonus token."""
    accepted = verdict.num_accepted.tolist()
    rows = zip(proposal.token_ids.tolist(), accepted, verdict.next_token_ids.tolist(), strict=True)
    return [[*drafts[:count], following] for drafts, count, following in rows]
