"""splitwise-sim traces: CSV with `arrival_timestamp` (s), `prompt_size`, `token_size`.

Source: Mutinifni/splitwise-sim, MIT.
"""

from __future__ import annotations

from pathlib import Path

from workloads.traces.rows import NS_PER_S, BadValueError, Faults, TraceRows, csv_rows, time_ns, tokens


def read_splitwise(path: Path) -> TraceRows:
    """Read a trace; raises WorkloadError that names every faulty line."""
    rows, faults = TraceRows(), Faults(path)
    for line, row in csv_rows(path, ("arrival_timestamp", "prompt_size", "token_size")):
        try:
            prompt, output = tokens(row, "prompt_size", least=0), tokens(row, "token_size", least=0)
            rows.add(line, time_ns(row, "arrival_timestamp", unit_ns=NS_PER_S), prompt, output)
        except BadValueError as error:
            faults.add(line, str(error))
    faults.raise_if_any()
    return rows
