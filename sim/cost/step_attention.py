"""`StepAttention`: attention of one layer in one step, decoding sequences and chunks in one price.

A chunk of few tokens, such as drafts to verify, is decode attention with a few query rows: its context is
read once, the rows share what is read, and computing hides behind reading until it takes longer. A chunk of
many tokens is prompt attention (`PrefillAttentionCurve`), whose tiles of queries each walk over the keys, so
that keys and values cross the memory bus several times. Between the two the price goes over in a straight
line (`prompt_share`), so that no length is a step:

    first tiles + max(reading of all contexts, computing) + launch              all rows as a few rows each
    + share x what prompt attention takes beyond one reading of the context     each chunk

A chunk of one token costs what a decoding sequence does. Each part grows with each size, whatever the curves'
parameters: the price of more is never less, and never below one reading of every context or all FLOPs.

All rows of a step are one launch, as FlashAttention takes batches of any lengths: its floor is paid once.
Reading starves where few sequences have to fill the device (`DecodeAttentionCurve`): the more of all context
is the longest sequence's, the fewer there are. Refuses to know models and step times.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEW_ROWS = 16
"""A chunk of so many tokens at most is a few query rows: one tile, with four query heads to a KV head."""
MANY_ROWS = 256
"""From here on a chunk is a prompt. With these two, measured prompts of all sizes lie nearer to the price at
the median (results/accuracy.md: 7.7 %) than to prompt attention alone (9.6 %); the furthest tenth, prompts of
fewer than 128 tokens and many at a time, lies further off."""
STREAMS_PER_KV_HEAD = 16
"""A KV head of few sequences is split over so many streams at most, as FlashAttention 3 does it."""


_BETWEEN = MANY_ROWS - FEW_ROWS


def prompt_share(num_new: NDArray[Any]) -> NDArray[np.float64]:
    """How much of a prompt a chunk of so many tokens is: 0 for a few rows, 1 for many."""
    share: NDArray[np.float64] = np.clip((num_new - FEW_ROWS) / _BETWEEN, 0.0, 1.0)
    return share


@dataclass(frozen=True, slots=True)
class StepAttention:
    """Coefficients of one model's attention on one GPU, times in nanoseconds; see the curves for their sense.

    Attributes:
        floor_ns: Of a launch of few rows. prompt_floor_ns: Of one of prompts.
        seq_ns: A sequence's streams beside their bytes.
        read_ns: One token of context, read once by a saturated device. pair_ns: One pair of tokens.
        starving: How many sequences it takes to saturate the device; with `sharpness`.
        edge_tokens: Further keys that a chunk's tokens pay for. serial_ns: A token of the longest prompt.
        pass_ns: A token of a prompt's context, in all passes.
    """

    floor_ns: float
    prompt_floor_ns: float
    seq_ns: float
    read_ns: float
    pair_ns: float
    starving: float
    sharpness: float
    edge_tokens: float
    serial_ns: float
    pass_ns: float

    def ns(self, num_decodes: int, decode_context: int, chunks: Iterable[tuple[int, int]]) -> float:
        """One launch: decoding sequences, what they attend to, and of each chunk tokens now and before."""
        total = pairs = float(decode_context)
        longest = decode_context / num_decodes if num_decodes else 0.0
        launch = self.floor_ns if num_decodes else 0.0
        beyond, num_seqs, edge, floor = 0.0, num_decodes, self.edge_tokens, self.floor_ns
        for new, computed in chunks:
            context = new + computed
            more = (new - 1) * (computed + 0.5 * new + edge)  # pairs, but for the last row's
            num_seqs += 1
            total += context
            if context > longest:
                longest = context
            if new <= FEW_ROWS:
                pairs += context + more
                launch = max(launch, floor)
                continue
            share = (new - FEW_ROWS) / _BETWEEN if new < MANY_ROWS else 1.0
            pairs += context + (1 - share) * more
            beyond += share * self._beyond_ns(context, more)
            launch = max(launch, self._launch_ns(context, share))
        rows = self.seq_ns * num_seqs + max(
            self.read_ns * self._starved(total, longest), self.pair_ns * pairs
        )
        return launch + rows + beyond

    def _beyond_ns(self, context: int, more: float) -> float:
        """What a prompt takes beyond one reading of its context."""
        computing = self.pair_ns * (context + more)
        whole = computing + self.pair_ns * self.edge_tokens + self.pass_ns * context
        return max(whole - self.read_ns * context, computing)

    def _launch_ns(self, context: int, share: float) -> float:
        prompt = self.prompt_floor_ns + self.serial_ns * (context + self.edge_tokens)
        return self.floor_ns + share * max(prompt - self.floor_ns, 0.0)

    def _starved(self, total: float, longest: float) -> float:
        """Tokens that a saturated device reads in the same time; of equal lengths as in decode attention."""
        s = self.sharpness
        waiting = self.starving * min(longest, total / STREAMS_PER_KV_HEAD)
        return float((total**s + waiting**s) ** (1 / s))
