"""`CircleWatch`: notices that a scheduler repeats itself for ever.

Victims are preempted, come back and preempt each other again, and no token comes of it: vLLM can be caught
so where equals compete (samples of one request, by priority) and a newcomer's whole sequence need not fit.
Since decisions are pure, a state that comes back without anybody having come, gone or got a token will come
back for ever, unless something outside happens.

Refuses to know what a state is. It keeps one at a time, and another one after twice as many looks (Brent's
way), so a circle of n states is found within some 3 n looks.
"""

from __future__ import annotations

from collections.abc import Hashable

from sim.core.compiling import mypyc_attr


@mypyc_attr(allow_interpreted_subclasses=True)
class CircleWatch:
    """Is shown states; says whether one came back."""

    __slots__ = ("_num_looks", "_remembered", "is_circling")

    def __init__(self) -> None:
        self.is_circling = False
        """Whether the state last shown had been seen before, and nothing happened since."""
        self._remembered: Hashable | None = None
        self._num_looks = 0

    @property
    def is_watching(self) -> bool:
        """Whether it remembers anything."""
        return self._num_looks > 0

    def look(self, state: Hashable) -> None:
        """A step ended in this state and gave nobody a token."""
        self._num_looks += 1
        if state == self._remembered:
            self.is_circling = True
        elif self._num_looks & (self._num_looks - 1) == 0:
            self._remembered = state

    def forget(self) -> None:
        """Something happened: nothing seen before counts."""
        self.is_circling = False
        self._remembered = None
        self._num_looks = 0
