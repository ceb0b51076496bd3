"""Text that the target itself writes: what a draft meets when it serves, and the plays alone do not show.

Owns prompts, temperatures and lengths. A draft proposes after the target's own words, which differ from
Shakespeare's the more the longer they go on (and repeat themselves, if greedy), so it is distilled on those
too (on-policy distillation as in DistillSpec, Zhou et al. 2024).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gpu_backend.memory.fixed_blocks import FixedBlocks
from gpu_backend.model.llama import LlamaModel
from gpu_backend.speculation.sampling import RowSettings, draw_uniforms, sample
from sim.replay_settings import SamplingSettings

NUM_LINES = 192
LINES_AT_ONCE = 64
PROMPT_TOKENS = 32
CONTINUATION_TOKENS = 448
TEMPERATURES = (0.0, 0.7, 1.0)


@torch.inference_mode()
def continuations(target: LlamaModel, tokens: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Prompts of the text and what the target makes of them, line after line.

    Returns:
        Tokens of all lines, prompts included.  # [NUM_LINES x (PROMPT_TOKENS + CONTINUATION_TOKENS)]
    """
    generator = np.random.default_rng(seed)
    starts = generator.integers(len(tokens) - PROMPT_TOKENS, size=NUM_LINES)
    prompts = [tokens[start : start + PROMPT_TOKENS].tolist() for start in starts]
    uniforms = torch.Generator().manual_seed(seed)
    lines: list[list[int]] = []
    for begin in range(0, NUM_LINES, LINES_AT_ONCE):
        lines += _continued(target, prompts[begin : begin + LINES_AT_ONCE], uniforms)
    return np.array(lines, dtype=np.int64).reshape(-1)


def _continued(target: LlamaModel, prompts: list[list[int]], uniforms: torch.Generator) -> list[list[int]]:
    sequences = FixedBlocks(target, len(prompts), PROMPT_TOKENS + CONTINUATION_TOKENS)
    settings = [SamplingSettings(TEMPERATURES[row % len(TEMPERATURES)]) for row in range(len(prompts))]
    rows = RowSettings.of(settings, target.device)
    lines, new = [list(prompt) for prompt in prompts], prompts
    for _ in range(CONTINUATION_TOKENS):
        logits = torch.stack([each[-1] for each in sequences.forward(new)])  # [num_lines, vocab]
        drawn = sample(logits, rows, draw_uniforms(uniforms, len(prompts))).tolist()
        new = [[token] for token in drawn]
        for line, token in zip(lines, drawn, strict=True):
            line.append(token)
    return lines
