"""How a real engine chooses tokens; the simulator, which knows only how many there are, has no use for it."""

from __future__ import annotations

from dataclasses import dataclass

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
