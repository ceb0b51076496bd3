"""Which draft tokens the large model keeps, where no model says so.

A sequence's draws are keyed by the seed, its request and its sample, one draw for each place of its output,
so neither scheduling nor the number of drafts can change them: a draft for place p is kept if the draw at p
is below the rate that holds there, and all drafts before it in the same round were kept. A round is the
drafts of one sequence and their verification in one step.

    output place        4   5   6   7   8   9
    draws kept          x   x   .   x   x   x        three drafts at 4: two kept, 6 is recovered, then 7, 8, 9

    constant      one rate everywhere (independent and identically distributed, as Leviathan et al. assume)
    per_position  a rate for the first, second, ... draft of a round
    per_request   each request has a rate of its own, from a beta distribution
    runs          easy and hard stretches alternate along each output, of geometric length
    recorded      accepted counts from a file, round after round

Refuses to know who proposes, and what that costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sim.core.request import Sequence as TokenSequence

_PRIOR = 0.7
"""Rate that is expected where nothing is known."""
_STREAM = 0xACCE
"""Tells these draws from others made of the same seed and id."""


class AcceptanceModel(Protocol):
    """Says how many drafts of a round are kept."""

    def num_accepted(self, seq: TokenSequence, num_drafts: int) -> int:
        """Of so many drafts for the next places of an output: how many, from the first, are kept."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """One rate."""

    rate: float

    def __post_init__(self) -> None:
        _check_rates(self.rate)


@dataclass(frozen=True, slots=True)
class PerPosition:
    """The rate of each draft of a round, the last one for all further drafts."""

    rates: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.rates:
            raise ValueError("per_position needs at least one rate")
        _check_rates(*self.rates)


@dataclass(frozen=True, slots=True)
class PerRequest:
    """Rates of requests: a beta distribution of this mean; a standard deviation of 0 makes them equal."""

    mean: float
    std: float

    def __post_init__(self) -> None:
        _check_rates(self.mean)
        if not self.std >= 0 or (self.std**2 >= self.mean * (1 - self.mean) and self.std > 0):
            limit = (self.mean * (1 - self.mean)) ** 0.5
            raise ValueError(
                f"std must be from 0 to below {limit:.3g} for a mean of {self.mean}, not {self.std}"
            )


@dataclass(frozen=True, slots=True)
class Runs:
    """Easy and hard stretches; the lengths are means, in tokens."""

    easy_rate: float
    hard_rate: float
    easy_tokens: float
    hard_tokens: float

    def __post_init__(self) -> None:
        _check_rates(self.easy_rate, self.hard_rate)
        if min(self.easy_tokens, self.hard_tokens) < 1:
            raise ValueError("stretches must be at least one token long on average")


@dataclass(frozen=True, slots=True)
class Recorded:
    """Accepted counts of each sample's rounds, by (request, sample).

    Attributes:
        prior: Rate that is expected before any draft was looked at, where their number is adaptive.
        otherwise: Rate by which is drawn what was not recorded: further rounds; one that kept more than is
            drafted now keeps all. None: a recording has to say everything.
    """

    counts: Mapping[tuple[int, int], tuple[int, ...]]
    prior: float = _PRIOR
    otherwise: float | None = None


@dataclass(frozen=True, slots=True)
class Own:
    """A law of a user's own: made once for each replica; `expected_rate` of what is made is the prior."""

    make: Callable[[], AcceptanceModel]


AcceptanceLaw = Own | Constant | PerPosition | PerRequest | Runs | Recorded


class RecordingTooShortError(ValueError):
    """A recording ended before the run did, or has a round that the run does not; `key` says whose."""

    def __init__(self, key: tuple[int, int], message: str) -> None:
        super().__init__(key, message)  # SimPy makes it anew from these
        self.key = key
        """The request and its sample."""
        self.message = message

    def __str__(self) -> str:
        return f"request {self.key[0]}, sample {self.key[1]}: {self.message}"


def make_acceptance(law: AcceptanceLaw, seed: int) -> AcceptanceModel:
    """The model that a law describes; one for each replica."""
    match law:
        case Own():
            return law.make()
        case Recorded():
            return RecordedAcceptance(law, seed)
        case PerPosition():
            return _ByPosition(law, seed)
        case _:
            return DrawnAcceptance(law, seed)


def expected_rate(law: AcceptanceLaw) -> float:
    """The rate that holds on average, for those who must choose before they know."""
    match law:
        case Constant():
            return law.rate
        case PerPosition():
            return law.rates[0]
        case PerRequest():
            return law.mean
        case Runs():
            whole = law.easy_tokens + law.hard_tokens
            return (law.easy_rate * law.easy_tokens + law.hard_rate * law.hard_tokens) / whole
        case Recorded():
            return law.prior
        case Own():
            return float(getattr(law.make(), "expected_rate", _PRIOR))


class DrawnAcceptance:
    """Draws for each place of an output, made when it is first asked for, given up at its end."""

    __slots__ = ("_law", "_next_refused", "_seed")

    def __init__(self, law: Constant | PerRequest | Runs, seed: int) -> None:
        self._law = law
        self._seed = seed
        self._next_refused: dict[tuple[int, int], list[int]] = {}
        """For each place of an output, the first place from there on whose draft would be refused, or the
        end: drafts past the last token are not kept."""

    def num_accepted(self, seq: TokenSequence, num_drafts: int) -> int:
        """See `AcceptanceModel`."""
        place, key = seq.num_output_tokens, (int(seq.request.request_id), seq.sample)
        found = self._next_refused.get(key)
        if found is None:
            found = self._next_refused[key] = self._draw(key, seq.max_known - seq.num_prompt_tokens)
        num_kept = min(found[place] - place, num_drafts)
        if seq.num_known + num_kept + 1 >= seq.max_known:
            del self._next_refused[key]
        return num_kept

    def _draw(self, key: tuple[int, int], num_places: int) -> list[int]:
        stream = np.random.default_rng([self._seed, _STREAM, *key])
        refused = stream.random(num_places) >= self._rates(stream, num_places)
        places = np.where(refused, np.arange(num_places), num_places)
        nearest: list[int] = np.minimum.accumulate(places[::-1])[::-1].tolist()
        return nearest

    def _rates(self, stream: np.random.Generator, num_places: int) -> NDArray[np.float64] | float:
        match self._law:
            case Constant(rate):
                return rate
            case PerRequest(mean, std):
                if std == 0 or mean in (0, 1):
                    return mean
                total = mean * (1 - mean) / std**2 - 1
                return float(stream.beta(mean * total, (1 - mean) * total))
            case Runs():
                return self._stretches(stream, num_places)

    def _stretches(self, stream: np.random.Generator, num_places: int) -> NDArray[np.float64]:
        law = self._law
        assert isinstance(law, Runs), "asked for by its own case only"
        is_easy = bool(stream.random() < law.easy_tokens / (law.easy_tokens + law.hard_tokens))
        rates = np.empty(num_places)
        place = 0
        while place < num_places:
            length = int(stream.geometric(1 / (law.easy_tokens if is_easy else law.hard_tokens)))
            rates[place : place + length] = law.easy_rate if is_easy else law.hard_rate
            place, is_easy = place + length, not is_easy
        return rates


class _ByPosition:
    """Draws as above, held against the rate of the draft's place in its round."""

    __slots__ = ("_draws", "_rates", "_seed")

    def __init__(self, law: PerPosition, seed: int) -> None:
        self._rates = law.rates
        self._seed = seed
        self._draws: dict[tuple[int, int], list[float]] = {}

    def num_accepted(self, seq: TokenSequence, num_drafts: int) -> int:
        """See `AcceptanceModel`."""
        place, key = seq.num_output_tokens, (int(seq.request.request_id), seq.sample)
        draws = self._draws.get(key)
        if draws is None:
            num_places = seq.max_known - seq.num_prompt_tokens
            stream = np.random.default_rng([self._seed, _STREAM, *key])
            draws = self._draws[key] = stream.random(num_places).tolist()
        num_kept = 0
        while num_kept < num_drafts and self._is_kept(draws, place, num_kept):
            num_kept += 1
        if seq.num_known + num_kept + 1 >= seq.max_known:
            del self._draws[key]
        return num_kept

    def _is_kept(self, draws: Sequence[float], place: int, position: int) -> bool:
        if place + position >= len(draws):
            return False
        return draws[place + position] < self._rates[min(position, len(self._rates) - 1)]


class RecordedAcceptance:
    """What was recorded, round after round."""

    __slots__ = ("_counts", "_next", "_otherwise")

    def __init__(self, recorded: Recorded, seed: int = 0) -> None:
        self._counts = recorded.counts
        self._next: dict[tuple[int, int], int] = {}
        rate = recorded.otherwise
        self._otherwise = DrawnAcceptance(Constant(rate), seed) if rate is not None else None

    def num_accepted(self, seq: TokenSequence, num_drafts: int) -> int:
        """See `AcceptanceModel`.

        Raises:
            RecordingTooShortError: No round of this sequence is left, or it kept more than is drafted now,
                and nothing is said of what happens otherwise. Where as many as are drafted, and one more,
                reach the last token, all of them are kept: the others would have been past it.
        """
        key = (int(seq.request.request_id), seq.sample)
        counts, at = self._counts.get(key, ()), self._next.get(key, 0)
        if self._otherwise is not None:
            self._next[key] = at + 1
            if at < len(counts):
                return min(counts[at], num_drafts)
            return self._otherwise.num_accepted(seq, num_drafts)
        if at >= len(counts):
            raise RecordingTooShortError(key, f"{len(counts)} runs are recorded, and it needs more")
        self._next[key] = at + 1
        if counts[at] > num_drafts and num_drafts + 1 < seq.max_known - seq.num_known:
            raise RecordingTooShortError(
                key,
                f"run {at} kept {counts[at]} drafts, and {num_drafts} are verified now: what limits them is "
                "not that of the recording (num_speculative_tokens, by_batch, adaptive, the token budget, "
                "long_prefill_token_threshold)",
            )
        return min(counts[at], num_drafts)


def _check_rates(*rates: float) -> None:
    for rate in rates:
        if not 0 <= rate <= 1:
            raise ValueError(f"an acceptance rate must be from 0 to 1, not {rate}")
