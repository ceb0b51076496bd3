"""`PrefillCadence`: prompts are computed only every so many steps while others decode (vLLM 0.33).

    prefill_schedule_interval 3      step   1   2   3   4   5   6   7
                                     prompt x   .   .   x   .   .   x       held in between, so that decodes
                                                                            run undisturbed

A step that carries a prompt begins the interval. Nothing is held while nobody decodes, and not at all once a
step that let prompts in left others waiting: an engine that is behind must not hold them. Refuses to know
budgets and blocks.
"""

from __future__ import annotations

from sim.core.compiling import mypyc_attr


@mypyc_attr(allow_interpreted_subclasses=True)
class PrefillCadence:
    """Says whether prompts have to wait in a step."""

    __slots__ = ("_interval", "_last_prompt_step", "_leaves_some_waiting", "_num_steps", "is_on")

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self.is_on = interval > 1
        """Whether there is anything to hold."""
        self._num_steps = 0
        """Steps that computed anything."""
        self._last_prompt_step = -interval
        self._leaves_some_waiting = False

    def holds(self, *, decodes: bool) -> bool:
        """Whether the step being planned computes no prompt; `decodes`: somebody who runs is past theirs."""
        is_due = self._num_steps + 1 - self._last_prompt_step >= self._interval
        return self.is_on and decodes and not (self._leaves_some_waiting or is_due)

    def note_waiting(self, num_waiting: int) -> None:
        """A step that held nothing has let in whom it could; so many still wait."""
        self._leaves_some_waiting = num_waiting > 0

    def note_step(self, *, has_prompt: bool) -> None:
        """A step was planned that computes something."""
        self._num_steps += 1
        if has_prompt:
            self._last_prompt_step = self._num_steps
