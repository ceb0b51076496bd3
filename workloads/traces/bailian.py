"""Alibaba Bailian traces: JSON lines with `chat_id`, `timestamp` (s), lengths and `hash_ids`.

`parent_chat_id` (-1: none) links the turns of a conversation.
Each id stands for 16 tokens and all before them; each row holds its whole context. Rows have stamps of
their own, so a conversation's turns are replayed at those; on request a turn waits for its parent
instead.
"""

from __future__ import annotations

from pathlib import Path

from workloads.spec import Turn
from workloads.traces.rows import (
    NS_PER_S,
    BadValueError,
    Faults,
    TraceRows,
    ids,
    json_rows,
    time_ns,
    tokens,
    whole,
)

DEFAULT_HASH_BLOCK_TOKENS = 16


def read_bailian(path: Path, hash_block_tokens: int | None = None) -> TraceRows:
    """Read a trace; raises WorkloadError that names every faulty line."""
    size = hash_block_tokens or DEFAULT_HASH_BLOCK_TOKENS
    rows, faults = TraceRows(hash_block_tokens=size), Faults(path)
    number_of: dict[int, int] = {}
    for line, row in json_rows(path):
        try:
            prompt, output = tokens(row, "input_length"), tokens(row, "output_length", least=0)
            hash_ids = ids(row, "hash_ids", prompt, size)
            stamp = time_ns(row, "timestamp", unit_ns=NS_PER_S)
            number = rows.add(line, stamp, prompt, output)
            rows.hash_ids[number] = hash_ids
            _link(rows, number_of, number, whole(row, "chat_id"), whole(row, "parent_chat_id"))
        except KeyError as error:
            faults.add(line, f"{error.args[0]}: is missing")
        except BadValueError as error:
            faults.add(line, str(error))
    faults.raise_if_any()
    return rows


def _link(rows: TraceRows, number_of: dict[int, int], number: int, chat_id: int, parent_id: int) -> None:
    """Put a row into its parent's session, if the parent is in the file."""
    number_of[chat_id] = number
    parent = number_of.get(parent_id) if parent_id != -1 else None
    if parent is None:
        rows.sessions[number] = str(chat_id)
        return
    rows.sessions[number] = rows.sessions[parent]
    stamp, parent_stamp = rows.arrival_ns[number], rows.arrival_ns[parent]
    assert stamp is not None, "every row of this format has a stamp"
    assert parent_stamp is not None, "every row of this format has a stamp"
    rows.optional_turns[number] = Turn((parent,), max(stamp - parent_stamp, 0))
