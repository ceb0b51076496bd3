"""Workloads read from public traces: which file, which part of it, how dense.

The order of operations: read; drop rows without output; sort, if asked; count time from the first stamp;
choose the window; take the first `limit` rows; divide the stamps by `rate_scale`. Delays between the
turns of a session are people's or tools', so `rate_scale` leaves them alone. A turn whose predecessors
fell outside the window starts at its own stamp if it has one, and is left out otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import Enum
from itertools import pairwise
from pathlib import Path

import numpy as np

from workloads.arrivals import Arrivals, ClosedLoop, draw_arrivals
from workloads.errors import WorkloadError
from workloads.spec import Ints, Turn, Workload
from workloads.streams import stream
from workloads.traces.azure import read_azure
from workloads.traces.bailian import read_bailian
from workloads.traces.burstgpt import read_burstgpt
from workloads.traces.llmservingsim import read_llmservingsim
from workloads.traces.mooncake import read_mooncake
from workloads.traces.rows import TraceRows
from workloads.traces.splitwise import read_splitwise
from workloads.traces.vidur import read_vidur


class TraceFormat(Enum):
    """Public formats that can be read."""

    AZURE = "azure"
    MOONCAKE = "mooncake"
    VIDUR = "vidur"
    BURSTGPT = "burstgpt"
    BAILIAN = "bailian"
    LLMSERVINGSIM = "llmservingsim"
    SPLITWISE = "splitwise"


class TurnRule(Enum):
    """What starts a session's next turn, where a format gives both order and time."""

    AS_FORMAT = "as_format"
    """Whatever the format means by itself."""
    WAIT = "wait"
    """The end of the turn before, and the difference of the stamps."""
    TIMESTAMPS = "timestamps"
    """Its own stamp."""


@dataclass(frozen=True, slots=True)
class TraceWorkload:
    """A trace and the part of it that is wanted.

    Attributes:
        limit: First so many rows of what the window leaves.
        window_start_ns: Where the window starts, from the first stamp.
        window_end_ns: Where it ends (not included).
        rate_scale: How many times as dense the arrivals should be.
        hash_block_tokens: Tokens a hash id stands for; None: the format's usual number.
        sort: Whether to sort rows that are out of order, instead of refusing them.
        keep_empty: Whether rows without output are kept, with one token each.
        turns: What starts a session's next turn.
        arrivals: Replaces the stamps; must be given for traces that have none.
        num_samples: Outputs per request (n).
        beam_width: Beams of each request, which searches; 0: it samples.
        cancel_after_ns: How long after its arrival a client gives up.
    """

    path: Path
    format: TraceFormat
    limit: int | None = None
    window_start_ns: int = 0
    window_end_ns: int | None = None
    rate_scale: float = 1.0
    hash_block_tokens: int | None = None
    sort: bool = False
    keep_empty: bool = False
    turns: TurnRule = TurnRule.AS_FORMAT
    arrivals: Arrivals | None = None
    num_samples: int = 1
    beam_width: int = 0
    cancel_after_ns: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise WorkloadError(f"limit must be at least 1, not {self.limit}")
        if not (math.isfinite(self.rate_scale) and self.rate_scale > 0):
            raise WorkloadError(f"rate_scale must be a positive number, not {self.rate_scale}")
        if self.window_end_ns is not None and not 0 <= self.window_start_ns < self.window_end_ns:
            raise WorkloadError("window: its end must come after its start, and its start not before 0")
        if self.hash_block_tokens is not None and self.hash_block_tokens < 1:
            raise WorkloadError(f"hash_block_tokens must be at least 1, not {self.hash_block_tokens}")
        if self.num_samples < 1:
            raise WorkloadError(f"num_samples must be at least 1, not {self.num_samples}")
        if self.beam_width < 0 or (self.beam_width and self.num_samples > 1):
            raise WorkloadError(
                f"beam_width ({self.beam_width}) must not be negative, and with it num_samples "
                f"({self.num_samples}) must be 1: the beams are the outputs"
            )


def make_from_trace(config: TraceWorkload, seed: int) -> Workload:
    """Read the trace and cut out what is wanted.

    Raises:
        WorkloadError: It names file, line and column, or the setting, and the remedy.
    """
    if not config.path.is_file():
        raise WorkloadError(f"{config.path}: no such trace{_similar(config.path)}")
    rows = _read(config)
    if not len(rows):
        raise WorkloadError(f"{config.path}: the trace is empty: it has no request")
    return _Selection(config, rows, seed).workload()


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor is there a folder {path.parent})"
    close = get_close_matches(path.name, [other.name for other in path.parent.iterdir()], n=3)
    return f"; did you mean {', '.join(close)}?" if close else ""


def _read(config: TraceWorkload) -> TraceRows:
    match config.format:
        case TraceFormat.AZURE:
            return read_azure(config.path)
        case TraceFormat.MOONCAKE:
            return read_mooncake(config.path, config.hash_block_tokens)
        case TraceFormat.VIDUR:
            return read_vidur(config.path)
        case TraceFormat.BURSTGPT:
            return read_burstgpt(config.path)
        case TraceFormat.BAILIAN:
            return read_bailian(config.path, config.hash_block_tokens)
        case TraceFormat.LLMSERVINGSIM:
            return read_llmservingsim(config.path)
        case TraceFormat.SPLITWISE:
            return read_splitwise(config.path)


class _Selection:
    """The wanted rows of a trace, in order."""

    def __init__(self, config: TraceWorkload, rows: TraceRows, seed: int) -> None:
        self._config = config
        self._rows = rows
        self._seed = seed
        self._notes: list[str] = []
        self._turns = dict(rows.turns)
        if config.turns is TurnRule.WAIT:
            self._turns |= rows.optional_turns
        elif config.turns is TurnRule.TIMESTAMPS:
            self._turns = {row: turn for row, turn in rows.turns.items() if rows.arrival_ns[row] is None}

    def workload(self) -> Workload:
        """What is left of the trace."""
        config, rows = self._config, self._rows
        stamps = self._stamps()
        picked = self._pick(stamps)
        if not picked:
            raise WorkloadError(f"{config.path}: no request is left: the window or the limit leaves nothing")
        place = {row: number for number, row in enumerate(picked)}
        turns = self._turns_among(place)
        output = np.array([rows.output_tokens[row] for row in picked], dtype=np.int64)
        workload = Workload(
            name=config.path.name,
            arrival_ns=self._arrivals(picked, stamps, turns),
            prompt_tokens=np.array([rows.prompt_tokens[row] for row in picked], dtype=np.int64),
            output_tokens=np.maximum(output, 1),
            num_samples=config.num_samples,
            beam_width=config.beam_width,
            priority=self._priority(picked),
            hash_ids=tuple(rows.hash_ids[row] for row in picked) if any(rows.hash_ids) else None,
            hash_block_tokens=rows.hash_block_tokens,
            sessions=tuple(rows.sessions[row] for row in picked) if any(rows.sessions) else None,
            waits_for=turns,
            cancel_after_ns=config.cancel_after_ns,
            notes=tuple(self._notes),
        )
        closed = config.arrivals
        if isinstance(closed, ClosedLoop):
            return replace(
                workload, concurrency=closed.concurrency, think_time_ns=closed.think_time_ns, waits_for={}
            )
        return workload

    def _stamps(self) -> list[int | None]:
        """Stamps from the first one on."""
        rows, config = self._rows, self._config
        if config.arrivals is not None:
            return [0] * len(rows)
        known = [stamp for stamp in rows.arrival_ns if stamp is not None]
        missing = [
            row for row, stamp in enumerate(rows.arrival_ns) if stamp is None and row not in self._turns
        ]
        if missing:
            raise WorkloadError(
                f"{config.path}:{rows.lines[missing[0]]}: the trace has no arrival times; "
                f"set arrivals in the configuration (poisson with a rate, say)"
            )
        first = min(known)
        return [None if stamp is None else stamp - first for stamp in rows.arrival_ns]

    def _pick(self, stamps: list[int | None]) -> list[int]:
        """Rows with output, in order of their stamps, in the window, up to the limit."""
        config, rows = self._config, self._rows
        order = self._in_order(stamps)
        picked: list[int] = []
        chosen: set[int] = set()
        num_empty = 0
        for row in order:
            if not rows.prompt_tokens[row] or (not rows.output_tokens[row] and not config.keep_empty):
                num_empty += 1
                continue
            if self._is_in_window(row, stamps[row], chosen):
                picked.append(row)
                chosen.add(row)
            if config.limit is not None and len(picked) == config.limit:
                break
        if num_empty:
            self._notes.append(
                f"{num_empty} requests of {config.path.name} without prompt or output were dropped"
            )
        return picked

    def _in_order(self, stamps: list[int | None]) -> list[int]:
        config, rows = self._config, self._rows
        roots = [row for row in range(len(rows)) if row not in self._turns]
        if config.sort:
            effective: list[int] = []
            for row, stamp in enumerate(stamps):
                leaders = self._turns[row].after if row in self._turns else ()
                after = [effective[leader] for leader in leaders if leader < row]
                effective.append(max([stamp or 0, *after]))
            return sorted(range(len(rows)), key=lambda row: effective[row])
        for before, row in pairwise(roots):
            earlier, later = stamps[before], stamps[row]
            if earlier is not None and later is not None and later < earlier:
                raise WorkloadError(
                    f"{config.path}:{rows.lines[row]}: the trace is not sorted: this request came "
                    f"{(earlier - later) / 1e9:.6g} s before the one on line {rows.lines[before]}; "
                    f"set sort: true to sort it"
                )
        return list(range(len(rows)))

    def _is_in_window(self, row: int, stamp: int | None, chosen: set[int]) -> bool:
        turn = self._turns.get(row)
        if turn is not None and all(leader in chosen for leader in turn.after):
            return True
        if stamp is None:
            return False
        end = self._config.window_end_ns
        return self._config.window_start_ns <= stamp and (end is None or stamp < end)

    def _turns_among(self, place: Mapping[int, int]) -> dict[int, Turn]:
        turns = {}
        for row, turn in self._turns.items():
            if row in place and all(leader in place for leader in turn.after):
                turns[place[row]] = Turn(tuple(place[leader] for leader in turn.after), turn.delay_ns)
        return turns

    def _arrivals(self, picked: list[int], stamps: list[int | None], turns: Mapping[int, Turn]) -> Ints:
        config = self._config
        if config.arrivals is not None:
            return draw_arrivals(config.arrivals, len(picked), stream(self._seed, "workload.arrivals"))
        known = [stamps[row] for row in picked]
        times = np.array([0 if stamp is None else stamp - config.window_start_ns for stamp in known])
        if config.rate_scale != 1:
            times = np.rint(times / config.rate_scale)
        times = times.astype(np.int64)
        for number, turn in sorted(turns.items()):
            times[number] = max(times[leader] for leader in turn.after)
        return times

    def _priority(self, picked: list[int]) -> Ints | None:
        if not any(self._rows.priority):
            return None
        return np.array([self._rows.priority[row] for row in picked], dtype=np.int64)
