"""The time that passes for a fleet, in nanoseconds from 0: simulated, or the wall's."""

from __future__ import annotations

import simpy
from simpy.rt import RealtimeEnvironment

Time = simpy.Environment
"""Either of them."""
RealTime = RealtimeEnvironment


def simulated_time() -> Time:
    """Passes from event to event, and takes none."""
    return simpy.Environment()


def real_time() -> RealTime:
    """Passes by itself; whoever is late is late."""
    return RealtimeEnvironment(factor=1e-9, strict=False)
