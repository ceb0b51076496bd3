"""`BeamChanges`: how often the beams of a search change parents, where no model says so.

With some probability each step, every beam of a request picks its parent anew, uniformly among all of them
(with replacement): some get several children, others none. 0.2 a step gives the memory that the
PagedAttention paper saves on Alpaca (Fig. 15b) within two points, and overshoots on ShareGPT. Draws are
keyed by the request's id and counted by its steps, so no scheduling choice can change them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.core.request import RequestId, Sequence
from sim.core.step import BeamFork, StepPlan

_STREAM = 0xBEA4
"""Tells these draws from others made of the same seed and id."""


@dataclass(frozen=True, slots=True)
class BeamLaw:
    """Probability that a request's beams change parents in a step, and the seed."""

    change_probability: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.change_probability <= 1:
            raise ValueError(f"change_probability must be in [0, 1], not {self.change_probability}")


class BeamChanges:
    """Draws the forks of one replica's searching requests."""

    __slots__ = ("_law", "_streams")

    def __init__(self, law: BeamLaw) -> None:
        self._law = law
        self._streams: dict[RequestId, np.random.Generator] = {}

    def forks(self, plan: StepPlan) -> dict[RequestId, tuple[BeamFork, ...]]:
        """What becomes of the beams that this plan steps."""
        beams: dict[RequestId, list[Sequence]] = {}
        for row in plan.rows:
            if row.seq.request.beam_width > 1 and row.seq.num_output_tokens:
                beams.setdefault(row.seq.request.request_id, []).append(row.seq)
        drawn = {request_id: self._draw(request_id, seqs) for request_id, seqs in beams.items()}
        return {request_id: forks for request_id, forks in drawn.items() if forks}

    def _draw(self, request_id: RequestId, seqs: list[Sequence]) -> tuple[BeamFork, ...]:
        stream = self._stream(request_id, seqs)
        if stream.random() >= self._law.change_probability:
            return ()
        return forks_of([seqs[place] for place in stream.integers(len(seqs), size=len(seqs))], seqs)

    def _stream(self, request_id: RequestId, seqs: list[Sequence]) -> np.random.Generator:
        """The request's own draws, kept until its last step."""
        stream = self._streams.pop(request_id, None)
        if stream is None:
            stream = np.random.default_rng([self._law.seed, _STREAM, int(request_id)])
        if seqs[0].num_known + 1 < seqs[0].max_known:
            self._streams[request_id] = stream
        return stream


def forks_of(parents: list[Sequence], beams: list[Sequence]) -> tuple[BeamFork, ...]:
    """The fewest forks after which the beams continue just these parents.

    Args:
        parents: One for each beam that goes on; a beam may be named several times.
        beams: All beams, in order; those that nobody continues take over from others, first come first.
    """
    continued = set(parents)
    free = iter([beam for beam in beams if beam not in continued])
    seen: set[Sequence] = set()
    forks = []
    for parent in parents:
        if parent in seen:
            forks.append(BeamFork(parent, next(free)))
        seen.add(parent)
    return tuple(forks)
