"""What a cross-check found, and whether it holds; written as `crosscheck.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sim.crosscheck.attribution import Attribution
from sim.crosscheck.comparison import ErrorRow, Status
from sim.crosscheck.differences import Differences
from sim.crosscheck.observed import Observed

CROSSCHECK_SCHEMA_VERSION = 1
BYTES_AGREE_WITHIN = 0.1
"""The list takes all sequences of a step for equally long."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """Whether both bodies decided alike, in lockstep.

    Attributes:
        difference: The first one, in words; None: there is none.
        counters: Those that differ, with the simulator's and the engine's value.
        num_steps: Steps compared.
        totals: The replay's counters.
    """

    difference: str | None
    counters: Mapping[str, tuple[int | None, int | None]]
    num_steps: int
    totals: Mapping[str, int] = field(default_factory=dict)

    def in_repeat(self, number: int) -> Decisions:
        """The same, saying in which repeat it was found."""
        if self.difference is not None:
            return replace(self, difference=f"repeat {number}: {self.difference}")
        return self

    @property
    def are_equal(self) -> bool:
        """Plans and counters alike."""
        return self.difference is None and not self.counters

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "equal": self.are_equal,
            "steps": self.num_steps,
            "first_difference": self.difference,
            "differing_counters": {name: list(pair) for name, pair in self.counters.items()},
            "counters": dict(sorted(self.totals.items())),
        }


@dataclass(frozen=True, slots=True)
class FusionRow:
    """One level of fusion beside the first: decode step times, and what one decode step launches.

    Attributes:
        predicted_us, measured_us: Mean time of the same decode steps.
        listed_launches, counted_launches: Of one decode step, by the cost model's kernel list and as counted.
        listed_bytes, counted_bytes: Likewise, read and written.
    """

    fusion: str
    predicted_us: float
    measured_us: float
    listed_launches: int
    counted_launches: int
    listed_bytes: float
    counted_bytes: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class AcceptanceRow:
    """A figure simulated with the constant rate that was measured, and with what was kept round by round."""

    metric: str
    with_constant_rate: float
    with_recorded_counts: float
    replayed: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Crosscheck:
    """Everything one cross-check found.

    Attributes:
        rows: Errors in time.
        attribution: Of the first repeat.
        simulated, replayed: The first repeat's runs.
        differences: Of the first repeat, request by request and step by step.
        environment: Device, versions, calibration, and how fast the machine was meanwhile.
        fusions: Empty where levels were not compared. acceptance: Empty where nothing is drafted.
        acceptance_rate: Drafts kept of those looked at; None where nothing is drafted.
    """

    name: str
    decisions: Decisions
    rows: tuple[ErrorRow, ...]
    attribution: Attribution
    simulated: Observed
    replayed: Observed
    differences: Differences
    environment: Mapping[str, Any]
    fusions: tuple[FusionRow, ...] = ()
    acceptance: tuple[AcceptanceRow, ...] = ()
    acceptance_rate: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def beyond(self) -> tuple[ErrorRow, ...]:
        """Figures whose tolerance does not hold."""
        return tuple(row for row in self.rows if row.status is Status.BEYOND)

    @property
    def launches_agree(self) -> bool:
        """Whether the kernel list has every launch that was counted, no other, and about as many bytes."""
        return all(
            row.listed_launches == row.counted_launches
            and abs(row.listed_bytes / row.counted_bytes - 1) <= BYTES_AGREE_WITHIN
            for row in self.fusions
        )

    @property
    def holds(self) -> bool:
        """Decisions equal, errors within their tolerances, launches as listed."""
        return self.decisions.are_equal and not self.beyond and self.launches_agree

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "schema_version": CROSSCHECK_SCHEMA_VERSION,
            "name": self.name,
            "holds": self.holds,
            "decisions": self.decisions.to_json(),
            "errors": [row.to_json() for row in self.rows],
            "attribution": self.attribution.to_json(),
            "one_by_one": [row.to_json() for row in self.differences.closeness()],
            "fusions": [row.to_json() for row in self.fusions],
            "acceptance": [row.to_json() for row in self.acceptance],
            "acceptance_rate": self.acceptance_rate,
            "environment": dict(self.environment),
            "warnings": list(self.warnings),
        }
