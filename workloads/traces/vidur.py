"""Vidur and Sarathi-Serve traces: CSV with `num_prefill_tokens`, `num_decode_tokens`, `arrived_at` (s)."""

from __future__ import annotations

from pathlib import Path

from workloads.traces.rows import NS_PER_S, BadValueError, Faults, TraceRows, csv_rows, time_ns, tokens


def read_vidur(path: Path) -> TraceRows:
    """Read a trace; raises WorkloadError that names every faulty line."""
    rows, faults = TraceRows(), Faults(path)
    for line, row in csv_rows(path, ("num_prefill_tokens", "num_decode_tokens")):
        try:
            prompt = tokens(row, "num_prefill_tokens", least=0)
            output = tokens(row, "num_decode_tokens", least=0)
            stamp = time_ns(row, "arrived_at", unit_ns=NS_PER_S) if "arrived_at" in row else None
            rows.add(line, stamp, prompt, output)
        except BadValueError as error:
            faults.add(line, str(error))
    faults.raise_if_any()
    return rows
