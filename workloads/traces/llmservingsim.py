"""LLMServingSim traces: JSON lines, flat (`input_toks`, `output_toks`, `arrival_time_ns`) or agentic.

An agentic line is one session: `session_id`, `arrival_time_ns` and `sub_requests`, each of which starts
when the one before has ended and its tool has run for `tool_duration_ns`. Source:
casys-kaist/LLMServingSim, MIT.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workloads.spec import Turn
from workloads.traces.rows import BadValueError, Faults, TraceRows, has_any, json_rows, time_ns, tokens


def read_llmservingsim(path: Path) -> TraceRows:
    """Read a trace; raises WorkloadError that names every faulty line."""
    rows, faults = TraceRows(), Faults(path)
    for line, row in json_rows(path):
        try:
            if "sub_requests" in row:
                _add_session(rows, line, row)
            else:
                _add(rows, line, row, time_ns(row, "arrival_time_ns", unit_ns=1))
        except BadValueError as error:
            faults.add(line, str(error))
    faults.raise_if_any()
    return rows


def _add(rows: TraceRows, line: int, row: Mapping[str, Any], stamp: int | None) -> int:
    return rows.add(line, stamp, tokens(row, "input_toks", least=0), tokens(row, "output_toks", least=0))


def _add_session(rows: TraceRows, line: int, row: Mapping[str, Any]) -> None:
    steps = row["sub_requests"]
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        raise BadValueError("sub_requests: must be a list of objects, not empty")
    stamp: int | None = time_ns(row, "arrival_time_ns", unit_ns=1)
    tool_ns, last = 0, None
    for step in steps:
        number = _add(rows, line, step, stamp)
        rows.sessions[number] = str(row.get("session_id", f"line {line}"))
        if last is not None:
            rows.turns[number] = Turn((last,), tool_ns)
        tool_ns = time_ns(step, "tool_duration_ns", unit_ns=1) if has_any(step, "tool_duration_ns") else 0
        stamp, last = None, number
