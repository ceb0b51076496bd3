"""`HostTraffic`: how a fleet's blocks travel between devices and their hosts.

A value; the links themselves, and the waiting for them, are `sim.fleet.links`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.cost.block_moves import MoveTimes


@dataclass(frozen=True, slots=True)
class HostTraffic:
    """How a fleet's blocks travel between device and host.

    Attributes:
        moves: What moving blocks takes on an idle link.
        overlaps: Whether a step computes while its blocks are moved (each layer waiting for its own), so
            that it takes as long as the longer of the two; otherwise it computes when they are there.
        replicas_per_link: How many replicas share a link.
    """

    moves: MoveTimes
    overlaps: bool = False
    replicas_per_link: int = 1

    def __post_init__(self) -> None:
        if self.replicas_per_link < 1:
            raise ValueError(f"replicas_per_link must be at least 1, not {self.replicas_per_link}")
