"""The wanted rows of a public trace: which of them, and when they come.

The order of operations: read; drop rows without output (`workloads/turns.py` says what becomes of those that
waited for them); sort, if asked; count time from the first stamp; choose the window; take the first `limit`
rows; draw arrivals instead of the stamps, if asked; divide either by `rate_scale`. Delays between the turns
of a session are people's or tools', so `rate_scale` leaves them alone. A turn whose predecessors all fell
outside the window starts at its own stamp if it has one, and is left out otherwise. Every row is served, or
counted in `Workload.left_out`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path

import numpy as np

from workloads.arrivals import ClosedLoop, draw_arrivals
from workloads.errors import WorkloadError
from workloads.spec import Ints, Turn, Workload
from workloads.streams import stream
from workloads.trace import TraceFormat, TraceWorkload, TurnRule
from workloads.traces.azure import read_azure
from workloads.traces.bailian import read_bailian
from workloads.traces.burstgpt import read_burstgpt
from workloads.traces.llmservingsim import read_llmservingsim
from workloads.traces.mooncake import read_mooncake
from workloads.traces.rows import MAX_TIME_NS, TraceRows
from workloads.traces.splitwise import read_splitwise
from workloads.traces.vidur import read_vidur
from workloads.turns import Due, Waits

EMPTY = "without prompt or output"
OUTSIDE_WINDOW = "outside the window"
BEYOND_LIMIT = "beyond the limit"
WITH_ITS_LEADERS = "turns of requests outside the window"
_YEAR_NS = 365 * 86_400 * 10**9


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
        turns = dict(rows.turns)
        if config.turns is TurnRule.WAIT:
            turns |= rows.optional_turns
        elif config.turns is TurnRule.TIMESTAMPS:
            turns = {row: turn for row, turn in rows.turns.items() if rows.arrival_ns[row] is None}
        self._is_root = [row not in turns for row in range(len(rows))]
        """Whether a row waits for no other, as the trace has it."""
        self._stamps = self._from_the_first()
        self._waits = Waits(turns, self._stamps, [self._is_empty(row) for row in range(len(rows))])
        self._left_out: dict[str, int] = {}

    def workload(self) -> Workload:
        """What is left of the trace."""
        config, rows = self._config, self._rows
        picked = self._pick()
        if not picked:
            raise WorkloadError(f"{config.path}: no request is left: the window or the limit leaves nothing")
        arrival_ns, picked, turns = self._in_time(picked)
        output = np.array([rows.output_tokens[row] for row in picked], dtype=np.int64)
        workload = Workload(
            name=config.path.name,
            arrival_ns=arrival_ns,
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
            notes=tuple(self._notes()),
            left_out=self._left_out,
        )
        closed = config.arrivals
        if isinstance(closed, ClosedLoop):
            return replace(
                workload, concurrency=closed.concurrency, think_time_ns=closed.think_time_ns, waits_for={}
            )
        return workload

    def _from_the_first(self) -> list[int | None]:
        """Stamps from the first one on."""
        rows, config = self._rows, self._config
        missing = [row for row, stamp in enumerate(rows.arrival_ns) if stamp is None and self._is_root[row]]
        if missing and config.arrivals is None:
            raise WorkloadError(
                f"{config.path}:{rows.lines[missing[0]]}: the trace has no arrival times; "
                f"set arrivals in the configuration (poisson with a rate, say)"
            )
        if missing and self._has_window:
            raise WorkloadError(
                f"{config.path}:{rows.lines[missing[0]]}: the trace has no arrival times to choose a window "
                f"by; leave window out (limit takes the first requests)"
            )
        first = min((stamp for stamp in rows.arrival_ns if stamp is not None), default=0)
        for row, stamp in enumerate(rows.arrival_ns):
            if stamp is not None and stamp - first > MAX_TIME_NS:
                raise WorkloadError(
                    f"{config.path}:{rows.lines[row]}: this request comes {(stamp - first) / _YEAR_NS:,.0f} "
                    f"years after the first one, more than the century that can be simulated"
                )
        return [None if stamp is None else stamp - first for stamp in rows.arrival_ns]

    @property
    def _has_window(self) -> bool:
        return self._config.window_start_ns > 0 or self._config.window_end_ns is not None

    def _is_empty(self, row: int) -> bool:
        rows = self._rows
        return not rows.prompt_tokens[row] or (not rows.output_tokens[row] and not self._config.keep_empty)

    # Which rows -----------------------------------------------------------------------------------

    def _pick(self) -> list[int]:
        """Rows with output, in order of their stamps, in the window, up to the limit."""
        picked: list[int] = []
        chosen: set[int] = set()
        for row in self._in_order():
            why_not = self._why_not(row, chosen)
            if why_not is None:
                picked.append(row)
                chosen.add(row)
            else:
                self._left_out[why_not] = self._left_out.get(why_not, 0) + 1
        return picked

    def _why_not(self, row: int, chosen: set[int]) -> str | None:
        """The name under which a row is left out, after those that were chosen; None: it is wanted."""
        if self._is_empty(row):
            return EMPTY
        if self._config.limit is not None and len(chosen) >= self._config.limit:
            return BEYOND_LIMIT
        turn = self._waits.turns.get(row)
        if turn is not None and any(leader in chosen for leader in turn.after):
            return None
        if turn is not None and self._stamps[row] is None:
            return WITH_ITS_LEADERS
        return None if self._is_in_window(self._due(row)) else OUTSIDE_WINDOW

    def _due(self, row: int) -> Due:
        return Due(self._stamps[row]) if row in self._waits.turns else self._waits.due[row]

    def _is_in_window(self, due: Due) -> bool:
        start_ns, end_ns = self._config.window_start_ns, self._config.window_end_ns
        if due.at_ns is None:
            return not self._has_window
        return start_ns <= due.at_ns and (end_ns is None or due.at_ns < end_ns)

    def _in_order(self) -> list[int]:
        config, rows, stamps = self._config, self._rows, self._stamps
        if config.sort:
            effective: list[int] = []
            for row, stamp in enumerate(stamps):
                turn = self._waits.turns.get(row)
                after = [effective[leader] for leader in turn.after] if turn is not None else []
                effective.append(max([stamp or 0, *after]))
            return sorted(range(len(rows)), key=lambda row: effective[row])
        roots = [row for row in range(len(rows)) if self._is_root[row] and config.arrivals is None]
        for before, row in pairwise(roots):
            earlier, later = stamps[before], stamps[row]
            if earlier is not None and later is not None and later < earlier:
                raise WorkloadError(
                    f"{config.path}:{rows.lines[row]}: the trace is not sorted: this request came "
                    f"{(earlier - later) / 1e9:.6g} s before the one on line {rows.lines[before]}; "
                    f"set sort: true to sort it"
                )
        return list(range(len(rows)))

    # When they come -------------------------------------------------------------------------------

    def _in_time(self, picked: list[int]) -> tuple[Ints, list[int], dict[int, Turn]]:
        """When the rows arrive, the rows in that order, and which of them wait for which."""
        config = self._config
        place = {row: number for number, row in enumerate(picked)}
        turns = self._turns_among(place)
        if config.arrivals is not None:
            drawn = draw_arrivals(config.arrivals, len(picked), stream(self._seed, "workload.arrivals"))
            if config.rate_scale != 1:
                scaled = drawn / config.rate_scale
                self._refuse_late(float(scaled[-1]))
                drawn = np.rint(scaled).astype(np.int64)
            return drawn, picked, turns
        times: list[int] = []
        for number, row in enumerate(picked):
            turn = turns.get(number)
            times.append(max(times[leader] for leader in turn.after) if turn else self._time_ns(row))
        order = list(range(len(picked)))
        if any(times[before] > times[after] for before, after in pairwise(order) if after not in turns):
            order.sort(key=lambda number: times[number])
        arrival_ns = np.array([times[number] for number in order], dtype=np.int64)
        picked = [picked[number] for number in order]
        return arrival_ns, picked, self._turns_among({row: number for number, row in enumerate(picked)})

    def _time_ns(self, row: int) -> int:
        """When a row comes that waits for no other, from the start of the window on."""
        config, due = self._config, self._due(row)
        if due.stamp_ns is None:
            return 0
        stamp_ns = due.stamp_ns - config.window_start_ns
        if config.rate_scale != 1:
            self._refuse_late(stamp_ns / config.rate_scale)
            stamp_ns = round(stamp_ns / config.rate_scale)
        return max(stamp_ns + due.delay_ns, 0)

    def _refuse_late(self, time_ns: float) -> None:
        if time_ns > MAX_TIME_NS:
            raise WorkloadError(
                f"{self._config.path}: rate_scale {self._config.rate_scale:g} stretches it over more than a "
                "century: raise it"
            )

    def _turns_among(self, place: Mapping[int, int]) -> dict[int, Turn]:
        """Rows that wait for others, all by their places among those picked."""
        turns = {}
        for row, turn in self._waits.turns.items():
            after = tuple(place[leader] for leader in turn.after if leader in place)
            if row in place and after:
                turns[place[row]] = Turn(after, turn.delay_ns)
        return turns

    # What is said of them -------------------------------------------------------------------------

    def _notes(self) -> Iterator[str]:
        """What was left out that nobody asked to leave out."""
        name, left_out = self._config.path.name, self._left_out
        if EMPTY in left_out:
            note = f"{left_out[EMPTY]} requests of {name} without prompt or output were dropped"
            if self._waits.num_bridged:
                note += (
                    f"; {self._waits.num_bridged} turns that waited for one of them wait for what came "
                    f"before it"
                )
            yield note
        if WITH_ITS_LEADERS in left_out:
            yield (
                f"{left_out[WITH_ITS_LEADERS]} later turns of {name} have no stamp of their own, and were "
                f"left out with the requests that they wait for, which are outside the window"
            )

    def _priority(self, picked: list[int]) -> Ints | None:
        if not any(self._rows.priority):
            return None
        return np.array([self._rows.priority[row] for row in picked], dtype=np.int64)
