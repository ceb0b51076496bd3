"""Azure LLM inference traces of 2023 to 2025: CSV with `TIMESTAMP`, `ContextTokens`, `GeneratedTokens`.

The 2025 multimodal trace adds `NumImages`, which is not simulated. Stamps are `YYYY-MM-DD HH:MM:SS`,
with up to nine digits of a fraction (all of them count) and, in 2024, an offset. Source:
Azure/AzurePublicDataset; cite Patel et al., ISCA 2024.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from workloads.traces.rows import NS_PER_S, BadValueError, Faults, TraceRows, csv_rows, tokens

_STAMP = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:?\d\d)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_azure(path: Path) -> TraceRows:
    """Read a trace; raises WorkloadError that names every faulty line."""
    rows, faults = TraceRows(), Faults(path)
    for line, row in csv_rows(path, ("TIMESTAMP", "ContextTokens", "GeneratedTokens")):
        try:
            prompt, output = tokens(row, "ContextTokens", least=0), tokens(row, "GeneratedTokens", least=0)
            rows.add(line, _stamp_ns(row["TIMESTAMP"]), prompt, output)
        except BadValueError as error:
            faults.add(line, str(error))
    faults.raise_if_any()
    return rows


def _stamp_ns(text: str) -> int:
    match = _STAMP.fullmatch(text.strip())
    if match is None:
        raise BadValueError(f"TIMESTAMP: must look like 2023-11-16 18:15:46.6805900, not {text!r}")
    second, fraction, offset = match.groups()
    try:
        moment = datetime.fromisoformat(second + (offset or "+00:00").replace("Z", "+00:00"))
    except ValueError as error:
        raise BadValueError(f"TIMESTAMP: {error}, in {text!r}") from None
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * NS_PER_S + int((fraction or "0").ljust(9, "0"))
