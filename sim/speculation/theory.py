"""Closed forms of speculative decoding (Leviathan, Kalman, Matias 2023, arXiv 2211.17192).

Throughout: `rate` (alpha) is the probability that a draft is kept, independent of all others; `num_drafts`
(gamma) are proposed in each round; `draft_cost` (c) is the time of one draft step over that of one target
step, `draft_operations` (c-hat) the same of operations.
"""

from __future__ import annotations

from dataclasses import dataclass


def expected_tokens(rate: float, num_drafts: int) -> float:
    """Tokens of a round: the drafts that are kept, and one more (equation 1)."""
    if rate == 1:
        return num_drafts + 1
    return (1 - rate ** (num_drafts + 1)) / (1 - rate)


@dataclass(frozen=True, slots=True)
class Rounds:
    """What a whole output takes, on average.

    Attributes:
        num_rounds: Rounds, each of which drafts and checks as many tokens as ever.
        num_tested: Drafts for places up to the last token; what lies past it could not have been kept.
        num_kept: Of these, kept.
    """

    num_rounds: float
    num_tested: float
    num_kept: float


def expected_rounds(rate: float, num_drafts: int, num_tokens: int) -> Rounds:
    """Rounds until `num_tokens` tokens are there; the last round gives no more than are wanted.

    A round with `left` tokens to go keeps `kept` drafts in a row, at most `min(num_drafts, left)`, and gives
    `min(kept + 1, left)` tokens. What an output takes follows from what shorter ones take.
    """
    found = [Rounds(0, 0, 0)]
    for left in range(1, num_tokens + 1):
        num_tested = min(num_drafts, left)
        rounds, tested, kept = 1.0, float(num_tested), 0.0
        for num_kept in range(num_tested + 1):
            chance = rate**num_kept * (1 if num_kept == num_tested else 1 - rate)
            rest = found[left - min(num_kept + 1, left)]
            rounds += chance * rest.num_rounds
            tested += chance * rest.num_tested
            kept += chance * (num_kept + rest.num_kept)
        found.append(Rounds(rounds, tested, kept))
    return found[num_tokens]


def walltime_improvement(rate: float, num_drafts: int, draft_cost: float) -> float:
    """How many times as fast as plain decoding, if checking all drafts takes the time of one token."""
    return expected_tokens(rate, num_drafts) / (num_drafts * draft_cost + 1)


def operations_factor(rate: float, num_drafts: int, draft_operations: float) -> float:
    """Operations per token over those of plain decoding."""
    return (num_drafts * draft_operations + num_drafts + 1) / expected_tokens(rate, num_drafts)


def best_num_drafts(rate: float, draft_cost: float, most: int = 100) -> int:
    """The number of drafts that improves the walltime most; 0 if none does."""
    return max(range(most + 1), key=lambda num_drafts: walltime_improvement(rate, num_drafts, draft_cost))
