"""From logits to tokens: greedy, temperature, top-k, top-p, each row by its own settings.

Owns the settings of a row, their order (temperature, then top-k, then top-p, as in vLLM and Hugging Face),
and where uniform numbers come from. The softmax and the draw are one op (`ops/softmax_and_sample.py`). One
uniform number makes one token, so a token depends on its own row's number alone, never on its neighbours.
Invariants: at temperature 0 the most likely token is taken, whatever the rest says; the most likely token is
never excluded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_backend.ops.implementation import Implementation
from gpu_backend.ops.softmax_and_sample import softmax_and_sample
from sim.replay_settings import GREEDY_TEMPERATURE, SamplingSettings


@dataclass(frozen=True, slots=True)
class RowSettings:
    """Settings of the rows of one step, as tensors; `excludes` says whether any row has a top-k or top-p."""

    temperatures: Tensor  # [num_rows] float32
    top_ks: Tensor  # [num_rows] int64, 0 for all
    top_ps: Tensor  # [num_rows] float32
    excludes: bool

    @classmethod
    def of(cls, settings: Sequence[SamplingSettings], device: torch.device) -> RowSettings:
        """One row per entry."""
        return cls(
            torch.tensor([each.temperature for each in settings], dtype=torch.float32, device=device),
            torch.tensor([each.top_k for each in settings], dtype=torch.int64, device=device),
            torch.tensor([each.top_p for each in settings], dtype=torch.float32, device=device),
            excludes=any(each.top_k > 0 or each.top_p < 1 for each in settings),
        )

    def repeated(self, times: int) -> RowSettings:
        """Each row so many times in a row: for the tokens of a verify pass."""
        return RowSettings(
            self.temperatures.repeat_interleave(times),
            self.top_ks.repeat_interleave(times),
            self.top_ps.repeat_interleave(times),
            self.excludes,
        )


def draw_uniforms(generator: torch.Generator, *shape: int) -> Tensor:
    """Uniform numbers in [0, 1) on the generator's device, float32."""
    return torch.rand(shape, generator=generator, device=generator.device)


def sample(
    logits: Tensor,  # [num_rows, vocab]
    settings: RowSettings,
    uniforms: Tensor,  # [num_rows] float32 in [0, 1)
    implementation: Implementation = Implementation.TWIN,
) -> Tensor:
    """Draw one token per row.  # [num_rows] int64."""
    kept = excluded(logits, settings)
    return softmax_and_sample(kept, settings.temperatures, uniforms, implementation=implementation)


def sample_with_probs(
    logits: Tensor,  # [num_rows, vocab]
    settings: RowSettings,
    uniforms: Tensor,  # [num_rows] float32 in [0, 1)
    implementation: Implementation = Implementation.TWIN,
) -> tuple[Tensor, Tensor]:
    """Draw one token per row, and say what it was drawn from.

    Returns:
        Tokens and probabilities; greedy rows have all of it on one token.  # [num_rows], [num_rows, vocab]
    """
    kept = excluded(logits, settings)
    probs = torch.empty(kept.shape, dtype=torch.float32, device=kept.device)
    tokens = softmax_and_sample(kept, settings.temperatures, uniforms, probs, implementation)
    return tokens, probs


def excluded(logits: Tensor, settings: RowSettings) -> Tensor:
    """Logits with minus infinity for whatever top-k and top-p rule out.  # [num_rows, vocab]."""
    if not settings.excludes:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)  # [num_rows, vocab]
    ordered = _exclude_by_rank(ordered, settings.top_ks)
    ordered = _exclude_by_mass(ordered, settings)
    return torch.empty_like(logits).scatter_(1, order, ordered)


def _exclude_by_rank(ordered: Tensor, top_ks: Tensor) -> Tensor:
    last = torch.where(top_ks > 0, top_ks, ordered.shape[1]).clamp(max=ordered.shape[1]) - 1  # [num_rows]
    least = ordered.gather(1, last[:, None])  # [num_rows, 1]: as likely as the last one kept is kept too
    return ordered.masked_fill(ordered < least, float("-inf"))


def _exclude_by_mass(ordered: Tensor, settings: RowSettings) -> Tensor:
    """Keep the shortest run of likeliest tokens that holds `top_p`: each but for which it would not."""
    greedy = settings.temperatures == GREEDY_TEMPERATURE
    softness = torch.where(greedy, 1.0, settings.temperatures)[:, None]
    probs = (ordered.float() / softness).softmax(-1)  # [num_rows, vocab]
    before = probs.cumsum(-1) - probs  # what likelier tokens hold
    outside = (before >= settings.top_ps[:, None]) & (settings.top_ps < 1)[:, None]
    return ordered.masked_fill(outside, float("-inf"))
