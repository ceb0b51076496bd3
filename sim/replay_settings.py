"""What an experiment says about its replay: how tokens are chosen, and how far a simulation may be off.

The simulator, which knows only how many tokens there are, has no use for either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GREEDY_TEMPERATURE = 0.0


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How the tokens of one sequence are chosen.

    Attributes:
        temperature: What logits are divided by; 0 takes the most likely token.
        top_k: Only so many of the most likely tokens can be drawn, and any as likely as the last; 0: all.
        top_p: Only the most likely tokens whose probabilities together just reach this can be drawn.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature} is not a number of 0 or more")
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} is negative")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} is not in (0, 1]")


@dataclass(frozen=True, slots=True)
class CrosscheckSettings:
    """What a cross-check compares, and its tolerances.

    Attributes:
        tolerances: Largest error of a figure, either way, as a fraction; by the figure's name.
        repeats: Replays of the workload.
        fusions: Levels of fusion that are compared beside; empty: none.
    """

    tolerances: Mapping[str, float] = field(default_factory=dict)
    repeats: int = 3
    fusions: tuple[str, ...] = ()
