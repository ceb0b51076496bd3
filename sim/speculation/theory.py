"""Closed forms of speculative decoding (Leviathan, Kalman, Matias 2023, arXiv 2211.17192).

Throughout: `rate` (alpha) is the probability that a draft is kept, independent of all others; `num_drafts`
(gamma) are proposed in each round; `draft_cost` (c) is the time of one draft step over that of one target
step, `draft_operations` (c-hat) the same of operations.
"""

from __future__ import annotations


def expected_tokens(rate: float, num_drafts: int) -> float:
    """Tokens of a round: the drafts that are kept, and one more (equation 1)."""
    if rate == 1:
        return num_drafts + 1
    return (1 - rate ** (num_drafts + 1)) / (1 - rate)


def walltime_improvement(rate: float, num_drafts: int, draft_cost: float) -> float:
    """How many times as fast as plain decoding, if checking all drafts takes the time of one token."""
    return expected_tokens(rate, num_drafts) / (num_drafts * draft_cost + 1)


def operations_factor(rate: float, num_drafts: int, draft_operations: float) -> float:
    """Operations per token over those of plain decoding."""
    return (num_drafts * draft_operations + num_drafts + 1) / expected_tokens(rate, num_drafts)


def best_num_drafts(rate: float, draft_cost: float, most: int = 100) -> int:
    """The number of drafts that improves the walltime most; 0 if none does."""
    return max(range(most + 1), key=lambda num_drafts: walltime_improvement(rate, num_drafts, draft_cost))
