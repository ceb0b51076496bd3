"""What a cross-check is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CrosscheckSettings:
    """Tolerances and what else is compared.

    Attributes:
        tolerances: Largest error of a figure, either way, as a fraction; by the figure's name.
        repeats: Replays of the workload.
        fusions: Levels of fusion that are compared beside; empty: none.
    """

    tolerances: Mapping[str, float] = field(default_factory=dict)
    repeats: int = 3
    fusions: tuple[str, ...] = ()
