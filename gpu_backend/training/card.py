"""Measures the shipped pair and rewrites the tables of its model card, between two marks in `README.md`.

Owns what is measured: loss on the play that was never trained on, and acceptance for every K. The weights are
the shipped ones (float16), run in float32 on a CPU, so a figure can be had again anywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional

from gpu_backend.memory.fixed_blocks import FixedBlocks
from gpu_backend.model.llama import LlamaModel
from gpu_backend.model.loading import load_model
from gpu_backend.model.tokenizer import load_tokenizer
from gpu_backend.training.acceptance import Counts, Decoding, decode_plainly, decode_speculatively
from gpu_backend.training.corpus import HELD_OUT, read_corpus
from sim.errors import ConfigError, Problem

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
MEASURED_TEXT = HELD_OUT[0]
MAX_DRAFTS = 8
TEMPERATURES = (0.0, 0.7, 1.0)
NUM_PROMPTS = 16
PROMPT_TOKENS = 64
CONTINUATION_TOKENS = 96
WINDOW = 1024
CPU = torch.device("cpu")


def write_card(archive: Path, pair: Path) -> None:
    """Measure the pair in a folder and rewrite its card.

    Raises:
        ConfigError: If the archive or the pair cannot be read, or the card has no marks.
    """
    path = pair / "README.md"
    before, after = _around_marks(path)
    target, draft = (load_model(pair / name, torch.float32, CPU) for name in ("target", "draft"))
    tokenizer = load_tokenizer(pair / "target", target.config.vocab_size)
    text = read_corpus(archive).held_out[MEASURED_TEXT]
    tokens = tokenizer.encode(text).ids
    num_bytes = len(text.encode())
    losses = [_loss_row(name, model, tokens, num_bytes) for name, model in _named(target, draft)]
    acceptance = _acceptance_table(target, draft, _prompts(tokens))
    measured = "\n".join(["", *_loss_head(), *losses, "", *acceptance, ""])
    path.write_text(f"{before}{BEGIN}\n{measured}\n{END}{after}", encoding="utf-8")


def _named(target: LlamaModel, draft: LlamaModel) -> list[tuple[str, LlamaModel]]:
    return [("target", target), ("draft", draft)]


def _around_marks(path: Path) -> tuple[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {error.strerror}")]) from None
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError([Problem(str(path), "", f"lacks the marks {BEGIN} and {END}")])
    return before, after


def _prompts(tokens: Sequence[int]) -> list[list[int]]:
    """Prompts spread evenly over the text."""
    stride = (len(tokens) - PROMPT_TOKENS) // NUM_PROMPTS
    return [list(tokens[place * stride :][:PROMPT_TOKENS]) for place in range(NUM_PROMPTS)]


def _loss_head() -> list[str]:
    return [
        "| model | loss, nats/token | bits/byte | first 512 positions | next 512 |",
        "| --- | --- | --- | --- | --- |",
    ]


def _loss_row(name: str, model: LlamaModel, tokens: Sequence[int], num_bytes: int) -> str:
    """Loss over whole windows of the text, each read from an empty cache."""
    windows = [list(tokens[at : at + WINDOW + 1]) for at in range(0, len(tokens) - WINDOW, WINDOW)]
    losses = torch.stack([_losses(model, window) for window in windows])  # [num_windows, WINDOW]
    mean, early, late = (
        float(part.mean()) for part in (losses, losses[:, : WINDOW // 2], losses[:, WINDOW // 2 :])
    )
    bits_per_byte = mean / float(torch.tensor(2.0).log()) * len(tokens) / num_bytes
    return f"| {name} | {mean:.3f} | {bits_per_byte:.3f} | {early:.3f} | {late:.3f} |"


@torch.inference_mode()
def _losses(model: LlamaModel, window: list[int]) -> torch.Tensor:
    logits = FixedBlocks(model, 1, WINDOW).forward([window[:-1]])[0]  # [WINDOW, vocab]
    return functional.cross_entropy(logits, torch.tensor(window[1:]), reduction="none")


def _acceptance_table(target: LlamaModel, draft: LlamaModel, prompts: list[list[int]]) -> list[str]:
    plain = decode_plainly(target, prompts, CONTINUATION_TOKENS)
    names = ["greedy" if not each else f"T = {each}" for each in TEMPERATURES]
    heads = [f"{name}: {what}" for name in names for what in ("rate", "per test", "tokens/round")]
    lines = [f"| K | {' | '.join(heads)} | greedy as without |", "| --- " * (len(heads) + 2) + "|"]
    for num_drafts in range(1, MAX_DRAFTS + 1):
        counts = [
            decode_speculatively(target, draft, prompts, Decoding(num_drafts, each, CONTINUATION_TOKENS))
            for each in TEMPERATURES
        ]
        same = sum(one == other for one, other in zip(counts[0].lines, plain, strict=True))
        cells = itertools.chain.from_iterable(map(_cells, counts))
        lines.append(f"| {num_drafts} | {' | '.join(cells)} | {same} of {len(plain)} |")
    return lines


def _cells(counts: Counts) -> tuple[str, str, str]:
    return (
        f"{counts.acceptance_rate:.3f}",
        f"{counts.acceptance_per_test:.3f}",
        f"{counts.mean_acceptance_length:.2f}",
    )
