"""Sections for laws: when requests arrive, and how long prompts and outputs are.

Each section makes the dataclass of `workloads` behind it, whose own checks are thereby reported with a
place. Refuses to know how laws are drawn from.
"""

from __future__ import annotations

from typing import Annotated, Literal, Protocol, TypeVar

from pydantic import AfterValidator, Field

from sim.config.value_types import Count, Pause, Positive, Rate, Section
from workloads import arrivals, lengths

_SectionT = TypeVar("_SectionT", bound="_Valued")


class _Valued(Protocol):
    def value(self) -> object: ...


def makes_its_value(section: _SectionT) -> _SectionT:
    """The section, once the value behind it has accepted its parameters."""
    section.value()
    return section


# Arrivals ---------------------------------------------------------------------------------------------


class _RatedSection(Section):
    """Arrivals at a mean rate."""

    rate: Rate = Field(description="Mean requests per second, such as 10 /s.")


class PoissonSection(_RatedSection):
    """Memoryless arrivals."""

    kind: Literal["poisson"]

    def value(self) -> arrivals.Poisson:
        """The law behind it."""
        return arrivals.Poisson(self.rate)


class GammaSection(_RatedSection):
    """Renewal process with gamma gaps."""

    kind: Literal["gamma"]
    burstiness: Positive = Field(
        default=1.0, description="Shape of the gaps: 1 is Poisson, below 1 is burstier."
    )

    def value(self) -> arrivals.Gamma:
        """The law behind it."""
        return arrivals.Gamma(self.rate, self.burstiness)


class VllmGammaSection(_RatedSection):
    """Gamma gaps rescaled to end at num_requests / rate, as `vllm bench serve` does."""

    kind: Literal["vllm_gamma"]
    burstiness: Positive = Field(
        default=1.0, description="Shape of the gaps before rescaling: below 1 is burstier."
    )

    def value(self) -> arrivals.VllmGamma:
        """The law behind it."""
        return arrivals.VllmGamma(self.rate, self.burstiness)


class ConstantSection(_RatedSection):
    """Equal gaps."""

    kind: Literal["constant"]

    def value(self) -> arrivals.Constant:
        """The law behind it."""
        return arrivals.Constant(self.rate)


class AllAtOnceSection(Section):
    """Everything at time 0: an offline batch."""

    kind: Literal["all_at_once"]

    def value(self) -> arrivals.AllAtOnce:
        """The law behind it."""
        return arrivals.AllAtOnce()


class ClosedLoopSection(Section):
    """A fixed number of users, each waiting for an answer before sending the next request."""

    kind: Literal["closed_loop"]
    concurrency: Count = Field(description="Users.")
    think_time: Pause = Field(default=0, description="Time between an answer and the next request: 2 s.")

    def value(self) -> arrivals.ClosedLoop:
        """The law behind it."""
        return arrivals.ClosedLoop(self.concurrency, self.think_time)


ArrivalsSection = Annotated[
    PoissonSection | GammaSection | VllmGammaSection | ConstantSection | AllAtOnceSection | ClosedLoopSection,
    Field(discriminator="kind"),
]

# Lengths ----------------------------------------------------------------------------------------------


class FixedSection(Section):
    """Always the same."""

    kind: Literal["fixed"]
    tokens: Count = Field(description="Tokens.")

    def value(self) -> lengths.Fixed:
        """The law behind it."""
        return lengths.Fixed(self.tokens)


class UniformSection(Section):
    """Whole numbers from `low` to `high`, both included."""

    kind: Literal["uniform"]
    low: Count = Field(description="Fewest tokens.")
    high: Count = Field(description="Most tokens.")

    def value(self) -> lengths.Uniform:
        """The law behind it."""
        return lengths.Uniform(self.low, self.high)


class _ClippedSection(Section):
    """A law that is clipped to a range."""

    mean: Positive = Field(description="Mean before clipping, in tokens.")
    low: Count = Field(default=1, description="Fewest tokens; draws below are raised to it.")
    high: Count = Field(default=lengths.MAX_TOKENS, description="Most tokens; draws above are cut to it.")


class NormalSection(_ClippedSection):
    """Bell curve."""

    kind: Literal["normal"]
    std: Positive = Field(description="Standard deviation before clipping, in tokens.")

    def value(self) -> lengths.Normal:
        """The law behind it."""
        return lengths.Normal(self.mean, self.std, self.low, self.high)


class LognormalSection(_ClippedSection):
    """Long right tail, as prompts have."""

    kind: Literal["lognormal"]
    cv: Positive = Field(description="Standard deviation over mean, before clipping.")

    def value(self) -> lengths.Lognormal:
        """The law behind it."""
        return lengths.Lognormal(self.mean, self.cv, self.low, self.high)


class GammaLengthsSection(_ClippedSection):
    """Right tail, as outputs have."""

    kind: Literal["gamma"]
    cv: Positive = Field(description="Standard deviation over mean, before clipping.")

    def value(self) -> lengths.GammaLengths:
        """The law behind it."""
        return lengths.GammaLengths(self.mean, self.cv, self.low, self.high)


class ZipfSection(Section):
    """Power law between two bounds."""

    kind: Literal["zipf"]
    exponent: Positive = Field(description="P(k) is proportional to k to the minus this.")
    low: Count = Field(description="Fewest tokens.")
    high: Count = Field(description="Most tokens.")

    def value(self) -> lengths.Zipf:
        """The law behind it."""
        return lengths.Zipf(self.exponent, self.low, self.high)


class EmpiricalSection(Section):
    """Given lengths with given weights."""

    kind: Literal["empirical"]
    values: list[Count] = Field(description="Lengths in tokens.")
    weights: list[Annotated[float, Field(ge=0)]] = Field(
        default=[], description="How often each occurs, relative to the others; left out: all alike."
    )

    def value(self) -> lengths.Empirical:
        """The law behind it."""
        return lengths.Empirical(tuple(self.values), tuple(self.weights))


LengthsSection = Annotated[
    FixedSection
    | UniformSection
    | NormalSection
    | LognormalSection
    | GammaLengthsSection
    | ZipfSection
    | EmpiricalSection,
    Field(discriminator="kind"),
    AfterValidator(makes_its_value),
]
