"""Which replica gets a request.

    round_robin         each in turn
    least_outstanding   the one with the fewest unfinished requests; of equals the first
    prefix_affine       the one that last got the longest known prefix of the prompt, or else the session,
                        unless it is much busier than the idlest; then, or if nothing is known, the idlest

A router remembers what it sent where. It does not see what the replicas' caches have evicted since.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol, runtime_checkable

from workloads.spec import RequestSpec


class RouterKind(Enum):
    """How a request finds its replica."""

    ROUND_ROBIN = "round_robin"
    LEAST_OUTSTANDING = "least_outstanding"
    PREFIX_AFFINE = "prefix_affine"


class Router(Protocol):
    """Chooses a replica for each request."""

    def choose(self, spec: RequestSpec, outstanding: Sequence[int]) -> int:
        """The replica for `spec`, given each replica's number of unfinished requests."""
        ...


@runtime_checkable
class HearsOfEnds(Protocol):
    """A router that wants to know when a request has ended, too."""

    def ended(self, spec: RequestSpec, replica: int) -> None:
        """A request that was sent to `replica` has ended, however it did."""
        ...


class RoundRobin:
    """Each replica in turn."""

    def __init__(self) -> None:
        self._next = 0

    def choose(self, spec: RequestSpec, outstanding: Sequence[int]) -> int:
        """The next in turn."""
        chosen = self._next
        self._next = (chosen + 1) % len(outstanding)
        return chosen


class LeastOutstanding:
    """The replica with the fewest unfinished requests; of equals the first."""

    def choose(self, spec: RequestSpec, outstanding: Sequence[int]) -> int:
        """The idlest."""
        return outstanding.index(min(outstanding))


class PrefixAffine:
    """The replica that last got the longest known prefix, or the session, of a request."""

    def __init__(self, max_excess: int) -> None:
        self._max_excess = max_excess
        self._last_replica: dict[int | str, int] = {}
        """By hash id (an int) or session (a str)."""

    def choose(self, spec: RequestSpec, outstanding: Sequence[int]) -> int:
        """The preferred replica, or the idlest if nothing is known or the preferred one is too busy."""
        idlest = outstanding.index(min(outstanding))
        keys = _keys(spec)
        preferred = next((self._last_replica[key] for key in keys if key in self._last_replica), idlest)
        if outstanding[preferred] > outstanding[idlest] + self._max_excess:
            preferred = idlest
        self._last_replica.update(dict.fromkeys(keys, preferred))
        return preferred


def _keys(spec: RequestSpec) -> list[int | str]:
    """What a request may be known by: its prefixes, the longest first (ids are chained), then its session."""
    keys: list[int | str] = list(reversed(spec.hash_ids))
    if spec.session is not None:
        keys.append(spec.session)
    return keys


def make_router(kind: RouterKind, *, max_affinity_excess: int) -> Router:
    """A router of that kind; the number is `prefix_affine`'s idea of "much busier"."""
    match kind:
        case RouterKind.ROUND_ROBIN:
            return RoundRobin()
        case RouterKind.LEAST_OUTSTANDING:
            return LeastOutstanding()
        case RouterKind.PREFIX_AFFINE:
            return PrefixAffine(max_affinity_excess)
