"""Training the shipped pair: the target on text, the draft on text, then on the target's predictions.

Owns sizes, schedule and losses. Every batch and every weight follows from `SEED` and the step's number, so a
run that is interrupted goes on from its last checkpoint as if nothing had happened (bit for bit only with the
same number of threads and the same torch). The draft is distilled last, because the longer the target learns,
the less a draft that only ever saw the text agrees with it; and at the end on what the target itself writes.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gpu_backend.model.model_config import ModelConfig
from gpu_backend.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gpu_backend.training.corpus import END_OF_TEXT_ID, VOCAB_SIZE
from gpu_backend.training.network import Weights, logits_of, random_weights
from gpu_backend.training.optimizer import LearningRates, Optimizer

SEED = 20261124
TOKENS_PER_STEP = 2048
WINDOW = 512
LONG_WINDOW = 1024
"""Windows of the last steps, so that the whole context the config promises has been seen."""
LONG_WINDOW_FROM_FRACTION = 0.85
NUM_WARMUP_STEPS = 40
DECAY_FROM_FRACTION = 0.5
CHECKPOINT_EVERY_STEPS = 50
REPORT_EVERY_STEPS = 25

TARGET = ModelConfig(
    architecture="LlamaForCausalLM",
    vocab_size=VOCAB_SIZE,
    hidden_size=256,
    intermediate_size=640,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    max_position_embeddings=LONG_WINDOW,
    rms_norm_eps=1e-5,
    rope_theta=10_000.0,
    rope_scaling=None,
    tie_word_embeddings=False,
    qkv_bias=False,
    qk_norm=False,
    eos_token_ids=(END_OF_TEXT_ID,),
)
DRAFT = ModelConfig(
    architecture="LlamaForCausalLM",
    vocab_size=VOCAB_SIZE,
    hidden_size=128,
    intermediate_size=320,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=64,
    max_position_embeddings=LONG_WINDOW,
    rms_norm_eps=1e-5,
    rope_theta=10_000.0,
    rope_scaling=None,
    tie_word_embeddings=True,
    qkv_bias=False,
    qk_norm=False,
    eos_token_ids=(END_OF_TEXT_ID,),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One stage of training: what it is called, what it trains, for how many steps, how fast."""

    name: str
    config: ModelConfig
    num_steps: int
    rates: LearningRates


TARGET_RUN = Run("target", TARGET, num_steps=1700, rates=LearningRates())
DRAFT_RUN = Run("draft", DRAFT, num_steps=1500, rates=LearningRates())
DISTILL_RUN = Run("distilled", DRAFT, num_steps=1000, rates=LearningRates(matrices=0.01, others=1.5e-3))
ALIGN_RUN = Run("aligned", DRAFT, num_steps=300, rates=LearningRates(matrices=0.01, others=1.5e-3))

LossOf = Callable[[Weights, Tensor, Tensor], Tensor]
"""Weights, inputs and next tokens (both [batch, length]) to a scalar loss."""


def text_loss(config: ModelConfig) -> LossOf:
    """Cross entropy of the text, in nats a token."""

    def loss(weights: Weights, inputs: Tensor, following: Tensor) -> Tensor:
        logits = logits_of(weights, config, inputs)
        return functional.cross_entropy(logits.flatten(0, 1), following.flatten())

    return loss


def distillation_loss(config: ModelConfig, teacher: Weights, teacher_config: ModelConfig) -> LossOf:
    """Kullback-Leibler divergence from the target's predictions, plus their total variation distance.

    The second is one minus the chance that a draft token is accepted at temperature 1 (Leviathan et al. 2023,
    corollary 3.6), so it is the very thing wanted; the first has gradients where the two do not overlap.
    """

    def loss(weights: Weights, inputs: Tensor, _: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = logits_of(teacher, teacher_config, inputs).log_softmax(-1)
        drafted = logits_of(weights, config, inputs).log_softmax(-1)
        divergence = functional.kl_div(drafted, wanted, reduction="none", log_target=True).sum(-1).mean()
        distance = 0.5 * (drafted.exp() - wanted.exp()).abs().sum(-1).mean()
        return divergence + distance

    return loss


def train(
    run: Run, tokens: NDArray[np.int64], loss_of: LossOf, initial: Callable[[], Weights], folder: Path
) -> Weights:
    """Carry out a run from its last checkpoint in `folder`, or from `initial` weights; report as it goes."""
    path = folder / f"{run.name}.checkpoint.safetensors"
    found = load_checkpoint(path)
    weights = found.weights if found else initial()
    for weight in weights.values():
        weight.requires_grad_(True)
    optimizer = Optimizer(weights, run.rates)
    optimizer.state.update(found.optimizer_state if found else {})
    began_s, recent = time.monotonic(), []
    for step in range(found.num_steps if found else 0, run.num_steps):
        inputs, following = _batch(run, tokens, step)
        loss = loss_of(weights, inputs, following)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        optimizer.step(step, _rate_fraction(step, run.num_steps))
        recent.append(loss.item())
        if (step + 1) % REPORT_EVERY_STEPS == 0:
            elapsed_s = time.monotonic() - began_s
            print(  # noqa: T201  # a command that takes an hour says where it is
                f"{run.name} {step + 1}/{run.num_steps} loss {np.mean(recent):.4f} {elapsed_s:.0f} s",
                flush=True,
            )
            recent = []
        if (step + 1) % CHECKPOINT_EVERY_STEPS == 0 or step + 1 == run.num_steps:
            save_checkpoint(path, Checkpoint(step + 1, weights, optimizer.state))
    return {name: weight.detach() for name, weight in weights.items()}


def initial_weights(config: ModelConfig) -> Callable[[], Weights]:
    """Where a run on text begins."""
    return functools.partial(random_weights, config, torch.Generator().manual_seed(SEED))


def _batch(run: Run, tokens: NDArray[np.int64], step: int) -> tuple[Tensor, Tensor]:
    """Inputs and next tokens of one step, windows at random places.  # both [batch, length] int64."""
    window = LONG_WINDOW if step >= LONG_WINDOW_FROM_FRACTION * run.num_steps else WINDOW
    generator = np.random.default_rng([SEED, *run.name.encode(), step])
    starts = generator.integers(len(tokens) - window, size=TOKENS_PER_STEP // window)
    windows = torch.from_numpy(np.stack([tokens[start : start + window + 1] for start in starts]))
    return windows[:, :-1], windows[:, 1:]


def _rate_fraction(step: int, num_steps: int) -> float:
    """Warm up, hold, then fall linearly to nothing."""
    warm = (step + 1) / NUM_WARMUP_STEPS
    falling = (num_steps - step) / (num_steps * (1 - DECAY_FROM_FRACTION))
    return min(1.0, warm, falling)
