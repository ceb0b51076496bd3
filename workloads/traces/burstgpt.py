"""BurstGPT traces: CSV with `Timestamp` (s), `Request tokens`, `Response tokens`; newer ones name a session.

A failed request has 0 response tokens. Sessions are labels here: every row has a stamp of its own.
Source: HPMLL/BurstGPT, CC-BY-4.0.
"""

from __future__ import annotations

from pathlib import Path

from workloads.traces.rows import NS_PER_S, BadValueError, Faults, TraceRows, csv_rows, time_ns, tokens


def read_burstgpt(path: Path) -> TraceRows:
    """Read a trace; raises WorkloadError that names every faulty line."""
    rows, faults = TraceRows(), Faults(path)
    for line, row in csv_rows(path, ("Timestamp", "Request tokens", "Response tokens")):
        try:
            prompt, output = tokens(row, "Request tokens", least=0), tokens(row, "Response tokens", least=0)
            number = rows.add(line, time_ns(row, "Timestamp", unit_ns=NS_PER_S), prompt, output)
            rows.sessions[number] = row.get("Session ID") or None
        except BadValueError as error:
            faults.add(line, str(error))
    faults.raise_if_any()
    return rows
