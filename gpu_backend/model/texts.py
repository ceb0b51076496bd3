"""What is said: the prompts of a workload as token ids, and what every sequence has said so far.

    |<- hash id, hash id, ... ->|<- the request's own ->|       each stretch is a piece of one text

Two prompts agree where the workload says so: a hash id at a place always stands for the same tokens.
Everything follows from a seed, whoever serves the workload and in whatever order. A text is a prompt and its
settled tokens; drafts are no part of it, and it outlives the sequence that made it, so it is named by request
and sample. The core knows only how many tokens there are. Refuses to know models; what prompts are cut from
is given as token ids (`text_tokens`).
"""

from __future__ import annotations

from collections import abc
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpu_backend.model.tokenizer import TOKENIZER_FILE, load_tokenizer
from sim.core.request import Sequence
from workloads.spec import RequestSpec

TEXT = Path(__file__).parents[1] / "checkpoints" / "prompts.txt"
"""A play that the shipped pair was not trained on."""
_SHARED, _OWN = 0x5A4ED, 0x0EE
_NUM_RANDOM_TOKENS = 1 << 16


def text_tokens(folder: Path, vocab_size: int, seed: int) -> NDArray[np.int64]:
    """The text in a model's own tokens; random ids where its folder has no tokenizer.  # [num_tokens].

    Raises:
        ConfigError: The folder's tokenizer cannot be read, or has ids that the model lacks.
    """
    if not (folder / TOKENIZER_FILE).exists():
        return np.random.default_rng(seed).integers(vocab_size, size=_NUM_RANDOM_TOKENS)
    tokenizer = load_tokenizer(folder, vocab_size)
    return np.array(tokenizer.encode(TEXT.read_text(encoding="utf-8")).ids, dtype=np.int64)


class Prompts:
    """Prompts of one workload."""

    def __init__(self, specs: abc.Sequence[RequestSpec], text: NDArray[np.int64], seed: int) -> None:
        self._specs = specs
        self._text = text
        self._seed = seed

    def tokens(self, request_id: int) -> list[int]:
        """The prompt of one request.  # [prompt_tokens]."""
        spec = self._specs[request_id]
        shared = [
            self._piece((_SHARED, place, hash_id), spec.hash_block_tokens)
            for place, hash_id in enumerate(spec.hash_ids)
        ]
        own = self._piece((_OWN, request_id), spec.prompt_tokens)
        tokens: list[int] = np.concatenate((*shared, own))[: spec.prompt_tokens].tolist()
        return tokens

    def _piece(self, key: tuple[int, ...], length: int) -> NDArray[np.int64]:
        """So many tokens from a place of the text that belongs to `key`; the text goes round."""
        start = int(np.random.default_rng([self._seed, *key]).integers(len(self._text)))
        return self._text.take(np.arange(start, start + length), mode="wrap")


Name = tuple[int, int]
"""(request, sample)."""


def name_of(seq: Sequence) -> Name:
    """The name of a sequence's text."""
    return int(seq.request.request_id), seq.sample


class Texts:
    """Texts of one replica."""

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts
        self._texts: dict[Name, list[int]] = {}
        self._num_prompt_tokens: dict[Name, int] = {}

    def of(self, name: Name) -> list[int]:
        """All known tokens of a text; it begins as its prompt."""
        text = self._texts.get(name)
        if text is None:
            text = self._texts[name] = self._prompts.tokens(name[0])
            self._num_prompt_tokens[name] = len(text)
        return text

    def begin(self, name: Name, num_tokens: int) -> None:
        """Begin a text anew, with the first tokens of its prompt."""
        self._texts[name] = self._prompts.tokens(name[0])[:num_tokens]
        self._num_prompt_tokens[name] = num_tokens

    def outputs(self) -> dict[Name, list[int]]:
        """What followed each prompt; the last round of drafts may have given more than was asked for."""
        return {name: text[self._num_prompt_tokens[name] :] for name, text in sorted(self._texts.items())}
