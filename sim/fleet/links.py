"""`HostLink`: the PCIe link between some GPUs and their host, as a SimPy resource.

Transfers queue in the order in which they are asked for and have the link to themselves while they last.
Replicas whose GPUs share a link share one `HostLink`. Refuses to know what is moved, and how long that
takes when nobody is in the way.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import simpy


class HostLink:
    """One link; one transfer at a time."""

    __slots__ = ("_env", "_resource", "busy_ns", "num_transfers", "queued_ns")

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._resource = simpy.Resource(env, capacity=1)
        self.busy_ns = 0
        """Time it was in use, so far."""
        self.queued_ns = 0
        """Time transfers waited for others, summed, so far."""
        self.num_transfers = 0

    def transfer(self, duration_ns: int) -> Generator[simpy.Event, Any, None]:
        """Wait for the link, then hold it for `duration_ns`."""
        asked_ns = self._env.now
        with self._resource.request() as turn:
            yield turn
            self.queued_ns += int(self._env.now - asked_ns)
            yield self._env.timeout(duration_ns)
        self.busy_ns += duration_ns
        self.num_transfers += 1


def host_links(env: simpy.Environment, num_replicas: int, *, replicas_per_link: int) -> list[HostLink]:
    """The link of each replica."""
    links = [HostLink(env) for _ in range(-(-num_replicas // replicas_per_link))]
    return [links[replica // replicas_per_link] for replica in range(num_replicas)]
