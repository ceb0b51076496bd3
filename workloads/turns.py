"""What waits for what, and when the rest is due, once rows of a trace without prompt or output are gone.

A row that is dropped would have been answered at once, with nothing. So whatever waited for it waits for
what it waited for, and for its delay besides:

    a -> (b, dropped) -> c          c waits for a, for the delays of b and of c
        (b, dropped) -> c           c is due at its own stamp or, without one, its delay after b's

Refuses to know windows and limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workloads.spec import Turn


@dataclass(frozen=True, slots=True)
class Due:
    """When a row comes that waits for no other.

    Attributes:
        stamp_ns: Where the trace puts it, or the dropped row that it followed; None: the trace gives no time.
        delay_ns: After that.
    """

    stamp_ns: int | None
    delay_ns: int = 0

    @property
    def at_ns(self) -> int | None:
        """Both together."""
        return None if self.stamp_ns is None else self.stamp_ns + self.delay_ns


class Waits:
    """Of every row of a trace, by number; leaders stand before their followers."""

    def __init__(
        self, turns: Mapping[int, Turn], stamps: Sequence[int | None], is_empty: Sequence[bool]
    ) -> None:
        self._is_empty = is_empty
        self.turns: dict[int, Turn] = {}
        """Rows that wait for others, all of which have something to do."""
        self.due = [Due(stamp) for stamp in stamps]
        """Of the others; of rows that wait, without meaning."""
        self.num_bridged = 0
        """Rows with something to do that followed a dropped one."""
        for row, turn in sorted(turns.items()):
            self._add(row, turn)

    def _add(self, row: int, turn: Turn) -> None:
        dropped = [leader for leader in turn.after if self._is_empty[leader]]
        if not dropped:
            self.turns[row] = turn
            return
        self.num_bridged += not self._is_empty[row]
        before = [self.turns[leader] for leader in dropped if leader in self.turns]
        after = [leader for leader in turn.after if not self._is_empty[leader]]
        after += [leader for waited in before for leader in waited.after]
        if after:
            delay_ns = turn.delay_ns + max((waited.delay_ns for waited in before), default=0)
            self.turns[row] = Turn(tuple(dict.fromkeys(after)), delay_ns)
        elif self.due[row].stamp_ns is None:
            last = max((self.due[leader] for leader in dropped), key=lambda due: due.at_ns or 0)
            self.due[row] = Due(last.stamp_ns, last.delay_ns + turn.delay_ns)
