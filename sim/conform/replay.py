"""Checks `EngineCore` against decisions that a real engine recorded, line by line.

A trace (`NAME.json` with configuration and requests, `NAME.jsonl` with what happened) is replayed from
its inputs alone: who arrived and who was aborted before each step, how many drafts were proposed and
kept. Everything else must follow.

    level 1   who was scheduled, how, in which order, with how many tokens; preemptions; queues; who finished
    level 2   also free blocks, prefix hits, blocks with content
    level 3   also every block id and the head of the free queue

Traces of vLLM's V0 scheduler (`v0_*`) have no block ids, so level 3 is level 2 for them.

Owns the comparison; refuses to know why a decision is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.conform.ahead import AheadReplay, can_plan_ahead
from sim.conform.groups import GroupReplay
from sim.conform.recorded_trace import RecordedTrace
from sim.conform.steps import StepReplay
from sim.errors import ConfigError, Problem

_Replay = StepReplay | AheadReplay | GroupReplay
LEVELS = (1, 2, 3)
_FIELDS_BY_LEVEL = {
    1: ("sched", "tokens", "spec", "preempted", "running", "waiting", "out", "num_out", "finished"),
    2: ("free", "prefix_hits", "cached_blocks"),
    3: ("blocks", "free_head"),
}
_V0_FIELDS_BY_LEVEL = {
    1: (
        "prompt_run",
        "sched",
        "batched_tokens",
        "preempt_recompute",
        "swap_out",
        "swap_in",
        "running",
        "waiting",
        "swapped",
        "freed_seqs",
        "finished",
    ),
    2: ("group_blocks", "blocks_swapped_out", "blocks_swapped_in", "cow_copies", "free_gpu", "free_cpu"),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where the core and the recorded engine part."""

    line: int
    step: int
    event: str
    field: str
    expected: Any
    got: Any
    is_ahead: bool = False
    """Whether the plain way agrees, and the core parts where it plans ahead."""

    def __str__(self) -> str:
        return (
            f"line {self.line}: {self.event} of step {self.step}{', planned ahead' * self.is_ahead}: "
            f"{self.field}:\n"
            f"  expected {self.expected}\n"
            f"  got      {self.got}"
        )


@dataclass(frozen=True, slots=True)
class Conformance:
    """Outcome of one replay."""

    name: str
    level: int
    num_steps: int
    num_compared: Mapping[str, int]
    """Values compared, by field."""
    difference: Difference | None
    num_steps_ahead: int = 0
    """Steps that were replayed once more with plans for many; 0 where the scheduler makes none."""

    @property
    def agrees(self) -> bool:
        """Whether every compared value was equal."""
        return self.difference is None


def conform(path: Path, level: int = 3) -> Conformance:
    """Replay a recorded trace and compare it up to `level`: step by step and, where that can be, ahead.

    Raises:
        ConfigError: The trace cannot be read, or lacks what the replay needs.
    """
    trace = RecordedTrace.read(path)
    ways: list[Callable[[RecordedTrace], _Replay]] = [GroupReplay if trace.is_v0 else StepReplay]
    if can_plan_ahead(trace):
        ways.append(AheadReplay)
    comparison = _Comparison(trace, level)
    for way in ways:
        try:
            replay = way(trace)
        except ValueError as error:
            raise ConfigError([Problem(str(path), "config", str(error))]) from error
        difference = comparison.run(replay, is_ahead=way is AheadReplay)
        if difference is not None:
            break
    return comparison.outcome(difference)


class _Comparison:
    """One trace, compared with one replay after the other."""

    def __init__(self, trace: RecordedTrace, level: int) -> None:
        by_level = _V0_FIELDS_BY_LEVEL if trace.is_v0 else _FIELDS_BY_LEVEL
        self._trace = trace
        self._level = min(level, max(by_level))
        self._fields = [name for known in by_level if known <= self._level for name in by_level[known]]
        self._num_compared: Mapping[str, int] = {}
        self._num_steps = {False: 0, True: 0}

    def run(self, replay: _Replay, *, is_ahead: bool) -> Difference | None:
        """The first difference, if any; what a replay does not tell of a line is not compared."""
        num_compared = dict.fromkeys(self._fields, 0)
        self._num_compared = self._num_compared or num_compared
        for line, event in self._trace.compared_events():
            self._num_steps[is_ahead] += event["ev"] == "schedule"
            got = replay.apply(event)
            expected = self._trace.fill_in(event)
            for name in self._fields:
                if name not in expected or name not in got:
                    continue
                num_compared[name] += 1
                if expected[name] != got[name]:
                    return Difference(
                        line, event["step"], event["ev"], name, expected[name], got[name], is_ahead
                    )
        return None

    def outcome(self, difference: Difference | None) -> Conformance:
        """What to tell."""
        return Conformance(
            self._trace.name,
            self._level,
            self._num_steps[False],
            self._num_compared,
            difference,
            self._num_steps[True],
        )
