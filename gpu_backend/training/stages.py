"""The stages of training in order, each from what the former left in the work folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gpu_backend.model.llama import LlamaModel
from gpu_backend.model.tokenizer import TOKENIZER_FILE
from gpu_backend.model.weights import pack
from gpu_backend.training import pair
from gpu_backend.training.checkpoint import export, load_checkpoint
from gpu_backend.training.continuations import continuations
from gpu_backend.training.corpus import read_corpus, tokenize, train_tokenizer
from gpu_backend.training.network import Weights
from sim.errors import ConfigError, Problem

CONTINUATIONS_FILE = "continuations.npy"


def train_stages(archive: Path, work: Path, stages: Sequence[str], *, num_threads: int) -> None:
    """Carry out the named stages.

    Raises:
        ConfigError: If the archive is not the one wanted, or a stage finds nothing to build on.
    """
    torch.set_num_threads(num_threads)
    corpus = read_corpus(archive)
    tokenizer = train_tokenizer(corpus)
    tokens = tokenize(tokenizer, corpus.training)
    work.mkdir(parents=True, exist_ok=True)
    for stage in stages:
        match stage:
            case "target":
                loss = pair.text_loss(pair.TARGET)
                pair.train(pair.TARGET_RUN, tokens, loss, pair.initial_weights(pair.TARGET), work)
            case "draft":
                loss = pair.text_loss(pair.DRAFT)
                pair.train(pair.DRAFT_RUN, tokens, loss, pair.initial_weights(pair.DRAFT), work)
            case "distilled":
                loss = pair.distillation_loss(pair.DRAFT, _finished(work, pair.TARGET_RUN), pair.TARGET)
                pair.train(pair.DISTILL_RUN, tokens, loss, lambda: _finished(work, pair.DRAFT_RUN), work)
            case "continuations":
                target = LlamaModel(pair.TARGET, pack(pair.TARGET, _finished(work, pair.TARGET_RUN)))
                np.save(work / CONTINUATIONS_FILE, continuations(target, tokens, pair.SEED))
            case "aligned":
                loss = pair.distillation_loss(pair.DRAFT, _finished(work, pair.TARGET_RUN), pair.TARGET)
                mixed = _half_and_half(tokens, np.load(work / CONTINUATIONS_FILE, allow_pickle=False))
                pair.train(pair.ALIGN_RUN, mixed, loss, lambda: _finished(work, pair.DISTILL_RUN), work)
            case "export":
                export(work / "target", pair.TARGET, _finished(work, pair.TARGET_RUN))
                export(work / "draft", pair.DRAFT, _finished(work, pair.ALIGN_RUN))
                for name in ("target", "draft"):
                    tokenizer.save(str(work / name / TOKENIZER_FILE))


def _half_and_half(text: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.int64]:
    """The text, then the target's lines over and over until they are as long.  # [num_tokens]."""
    return np.concatenate((text, np.resize(own, len(text))))


def _finished(work: Path, run: pair.Run) -> Weights:
    """The weights at a run's end."""
    path = work / f"{run.name}.checkpoint.safetensors"
    found = load_checkpoint(path)
    if found is None or found.num_steps < run.num_steps:
        raise ConfigError([Problem(str(path), "", f"stage {run.name!r} has to be finished first")])
    return found.weights
