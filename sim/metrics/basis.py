"""`Basis`: what the numbers of a run rest on, and how far they may be off.

Every figure of the hardware file with its source; how far measured times lie from each part of the step
times, where that is known; and, where somebody asked, the answer with all of these off that far, the fast way
and the slow way. `confidence.py` makes it. Where nothing was fitted the uncertainty is unknown: None, never
zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sim.cost.hardware import Figure, Source

Number = int | float | None


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the step times.

    Attributes:
        shorter_fraction, longer_fraction: How much shorter and longer than predicted nine of ten measured
            times are at most; None: unknown.
        rests_on: What it was fitted to, or where else it comes from.
    """

    name: str
    shorter_fraction: float | None
    longer_fraction: float | None
    rests_on: str


@dataclass(frozen=True, slots=True)
class Basis:
    """See the module.

    Attributes:
        band: By key of a summary: with step times at their shortest, as predicted, at their longest; None
            where nobody asked, or nothing is known.
    """

    figures: tuple[Figure, ...]
    parts: tuple[Part, ...]
    band: Mapping[str, tuple[Number, Number, Number]] | None = None

    @property
    def is_known(self) -> bool:
        """Whether any part has a known spread."""
        return any(part.longer_fraction is not None for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "hardware_figures": [
                {**asdict(figure), "source": figure.source.value} for figure in self.figures
            ],
            "step_times": [asdict(part) for part in self.parts],
            "band": None if self.band is None else {key: list(row) for key, row in self.band.items()},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Basis:
        """What `to_json` wrote; raises KeyError, TypeError or ValueError for anything else."""
        band = document["band"]
        figures = [{**entry, "source": Source(entry["source"])} for entry in document["hardware_figures"]]
        return cls(
            tuple(Figure(**entry) for entry in figures),
            tuple(Part(**entry) for entry in document["step_times"]),
            None if band is None else {key: (row[0], row[1], row[2]) for key, row in band.items()},
        )
