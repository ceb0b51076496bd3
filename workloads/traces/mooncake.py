"""Mooncake traces: JSON lines with `timestamp` (ms), `input_length`, `output_length`, `hash_ids`.

Each id stands for one block of the prompt (512 tokens unless said otherwise; the file does not tell) and
all before it, so equal leading ids are a shared prefix. Extensions in use: `session_id` (a session's
rows are turns: each waits for the one before, then `delay` or `delay_ms`, or else the difference of the
stamps), `request_id` with `wait_for` (a list of ids that must have ended) and `tool_wait_ms`,
`priority`; `input_tokens`, `output_tokens`, `created_time` as other names. Source: kvcache-ai/Mooncake;
cite Qin et al., FAST 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workloads.spec import Turn
from workloads.traces.rows import (
    BadValueError,
    Faults,
    TraceRows,
    has_any,
    ids,
    json_rows,
    time_ns,
    tokens,
    whole,
)

NS_PER_MS = 1_000_000
DEFAULT_HASH_BLOCK_TOKENS = 512
_STAMPS = ("timestamp", "created_time")


def read_mooncake(path: Path, hash_block_tokens: int | None = None) -> TraceRows:
    """Read a trace whose ids stand for `hash_block_tokens` tokens each (512 if not said).

    Raises:
        WorkloadError: It names every faulty line.
    """
    reader = _Reader(path, hash_block_tokens or DEFAULT_HASH_BLOCK_TOKENS)
    for line, row in json_rows(path):
        try:
            reader.add(line, row)
        except BadValueError as error:
            reader.faults.add(line, str(error))
    reader.faults.raise_if_any()
    return reader.rows


class _Reader:
    def __init__(self, path: Path, hash_block_tokens: int) -> None:
        self.rows = TraceRows(hash_block_tokens=hash_block_tokens)
        self.faults = Faults(path)
        self._number_of: dict[str, int] = {}
        self._last_turn: dict[str, int] = {}

    def add(self, line: int, row: Mapping[str, Any]) -> None:
        """Add one object of the file."""
        prompt, output = (
            tokens(row, "input_length", "input_tokens"),
            tokens(row, "output_length", "output_tokens", least=0),
        )
        hash_ids = ids(row, "hash_ids", prompt, self.rows.hash_block_tokens)
        stamp = time_ns(row, *_STAMPS, unit_ns=NS_PER_MS) if has_any(row, *_STAMPS) else None
        session = str(row["session_id"]) if has_any(row, "session_id") else None
        turn = self._turn(row, session, stamp)
        name = str(row["request_id"]) if has_any(row, "request_id") else None
        if name is not None and name in self._number_of:
            first = self.rows.lines[self._number_of[name]]
            raise BadValueError(f"request_id: {name} is that of line {first}: each must be there once")
        if stamp is None and turn is None:
            raise BadValueError("timestamp: is missing, and the request waits for no other")
        number = self.rows.add(line, stamp, prompt, output)
        self.rows.hash_ids[number] = hash_ids
        self.rows.sessions[number] = session
        if has_any(row, "priority"):
            self.rows.priority[number] = whole(row, "priority")
        if turn is not None:
            self.rows.turns[number] = turn
        if session is not None:
            self._last_turn[session] = number
        if name is not None:
            self._number_of[name] = number

    def _turn(self, row: Mapping[str, Any], session: str | None, stamp: int | None) -> Turn | None:
        delay_ns = 0
        for name in ("delay", "delay_ms"):
            if has_any(row, name):
                delay_ns = time_ns(row, name, unit_ns=NS_PER_MS)
        if has_any(row, "tool_wait_ms"):
            delay_ns += time_ns(row, "tool_wait_ms", unit_ns=NS_PER_MS)
        if has_any(row, "wait_for"):
            return Turn(self._leaders(row["wait_for"]), delay_ns)
        last = self._last_turn.get(session) if session is not None else None
        if last is None:
            return None
        last_stamp = self.rows.arrival_ns[last]
        if not has_any(row, "delay", "delay_ms") and stamp is not None and last_stamp is not None:
            delay_ns += max(stamp - last_stamp, 0)
        return Turn((last,), delay_ns)

    def _leaders(self, names: Any) -> tuple[int, ...]:
        if not isinstance(names, list) or not names:
            raise BadValueError("wait_for: must be a list of request ids, not empty")
        unknown = [str(name) for name in names if str(name) not in self._number_of]
        if unknown:
            raise BadValueError(f"wait_for: no earlier line has the request_id {', '.join(unknown)}")
        return tuple(self._number_of[str(name)] for name in names)
