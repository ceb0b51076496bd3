"""How often the target accepts the draft: speculative decoding of a few prompts, counted.

Owns the loop and the counts. Refuses schedulers and clocks: each sequence has blocks of its own
(`memory/fixed_blocks.py`) and is decoded until it has enough tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gpu_backend.memory.fixed_blocks import FixedBlocks
from gpu_backend.model.llama import LlamaModel
from gpu_backend.speculation.sampling import RowSettings, draw_uniforms
from gpu_backend.speculation.speculative import emitted, propose, verify
from sim.replay_settings import SamplingSettings


@dataclass(frozen=True, slots=True)
class Decoding:
    """What is decoded: `num_drafts` of 0 is plain decoding."""

    num_drafts: int
    temperature: float
    num_tokens: int
    seed: int = 0


@dataclass(slots=True)
class Counts:
    """What happened: `accepted[k]` rounds accepted exactly k drafts."""

    accepted: list[int]
    lines: list[list[int]] = field(default_factory=list)
    """The tokens of each prompt's continuation, cut to the number asked for."""

    @property
    def num_rounds(self) -> int:
        """Verify passes of one sequence each."""
        return sum(self.accepted)

    @property
    def num_accepted(self) -> int:
        """Drafts accepted in all."""
        return sum(count * rounds for count, rounds in enumerate(self.accepted))

    @property
    def acceptance_rate(self) -> float:
        """Accepted drafts of all drafts."""
        return self.num_accepted / (self.num_rounds * (len(self.accepted) - 1))

    @property
    def acceptance_per_test(self) -> float:
        """Accepted drafts of those looked at: nothing after a rejection is."""
        rejected = self.num_rounds - self.accepted[-1]
        return self.num_accepted / (self.num_accepted + rejected)

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens per round, the recovered or bonus token included."""
        return 1 + self.num_accepted / self.num_rounds


@torch.inference_mode()
def decode_plainly(target: LlamaModel, prompts: Sequence[Sequence[int]], num_tokens: int) -> list[list[int]]:
    """Greedy continuations by the target alone."""
    sequences = FixedBlocks(target, len(prompts), max(map(len, prompts)) + num_tokens)
    last = [int(logits[-1].argmax()) for logits in sequences.forward(prompts)]
    lines = [[token] for token in last]
    for _ in range(num_tokens - 1):
        last = [int(logits[-1].argmax()) for logits in sequences.forward([[token] for token in last])]
        for line, token in zip(lines, last, strict=True):
            line.append(token)
    return lines


@torch.inference_mode()
def decode_speculatively(
    target: LlamaModel, draft: LlamaModel, prompts: Sequence[Sequence[int]], decoding: Decoding
) -> Counts:
    """Continue each prompt by at least `num_tokens` tokens; a prompt's last token is the first one fed."""
    pair = _Pair(target, draft, prompts, decoding)
    counts = Counts([0] * (decoding.num_drafts + 1), [[] for _ in prompts])
    while active := [seq for seq, line in enumerate(counts.lines) if len(line) < decoding.num_tokens]:
        for seq, new in zip(active, pair.round(active), strict=True):
            counts.lines[seq].extend(new)
            counts.accepted[len(new) - 1] += 1
    counts.lines = [line[: decoding.num_tokens] for line in counts.lines]
    return counts


class _Pair:
    """Both models' caches, and the last token of each sequence, which neither has seen yet."""

    def __init__(
        self, target: LlamaModel, draft: LlamaModel, prompts: Sequence[Sequence[int]], decoding: Decoding
    ) -> None:
        room = max(map(len, prompts)) + decoding.num_tokens + 2 * (decoding.num_drafts + 1)
        self._target, self._draft = (FixedBlocks(model, len(prompts), room) for model in (target, draft))
        self._decoding = decoding
        self._generator = torch.Generator().manual_seed(decoding.seed)
        self._last = [prompt[-1] for prompt in prompts]
        for sequences in (self._target, self._draft):
            sequences.forward([prompt[:-1] for prompt in prompts])

    def round(self, active: list[int]) -> list[list[int]]:
        """Draft, verify, forget what was rejected; returns the new tokens of each active sequence."""
        num_drafts, device = self._decoding.num_drafts, torch.device("cpu")
        rows = RowSettings.of([SamplingSettings(self._decoding.temperature)] * len(active), device)
        last = torch.tensor([self._last[seq] for seq in active])
        uniforms = draw_uniforms(self._generator, len(active), 2 * num_drafts + 1)
        stored = list(self._target.lens)
        proposal = propose(
            lambda tokens: _stacked(_forward(self._draft, active, tokens[:, None]))[:, 0],
            last,
            rows,
            uniforms[:, :num_drafts],
        )
        _forward(self._draft, active, proposal.token_ids[:, -1:])  # in case it is accepted
        fed = torch.cat((last[:, None], proposal.token_ids), 1)  # [num_active, num_drafts + 1]
        logits = _stacked(_forward(self._target, active, fed))  # [num_active, num_drafts + 1, vocab]
        counts = torch.full((len(active),), num_drafts, dtype=torch.int32)
        new = emitted(proposal, verify(proposal, counts, logits, rows, uniforms[:, num_drafts:]))
        for seq, tokens in zip(active, new, strict=True):
            self._last[seq] = tokens[-1]
            for sequences in (self._target, self._draft):
                sequences.rewind(seq, stored[seq] + len(tokens))
        return new


def _forward(sequences: FixedBlocks, active: list[int], tokens: Tensor) -> list[Tensor]:
    """Append one row of tokens to each active sequence; returns their logits."""
    new: list[list[int]] = [[] for _ in sequences.lens]
    for seq, row in zip(active, tokens.tolist(), strict=True):
        new[seq] = row
    logits = sequences.forward(new)
    return [logits[seq] for seq in active]


def _stacked(logits: list[Tensor]) -> Tensor:
    return torch.stack(logits)
