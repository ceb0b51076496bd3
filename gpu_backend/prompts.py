"""What the requests of a workload say: token ids where only lengths and shared parts are known.

    |<- hash id, hash id, ... ->|<- the request's own ->|       each stretch is a piece of one text

Two prompts agree where the workload says so: a hash id at a place always stands for the same tokens.
Everything follows from a seed, whoever serves the workload and in whatever order. Refuses to know models; the
text is given as token ids (`text_tokens`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpu_backend.tokenizer import TOKENIZER_FILE, load_tokenizer
from workloads.spec import RequestSpec

TEXT = Path(__file__).parent / "checkpoints" / "prompts.txt"
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

    def __init__(self, specs: Sequence[RequestSpec], text: NDArray[np.int64], seed: int) -> None:
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
