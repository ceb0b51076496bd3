"""What every trace reader yields, and the one strict way of reading numbers, with the place of each fault.

A reader turns a file into `TraceRows`; choosing a window, scaling the rate and the like happen
afterwards, in `workloads/trace.py`, alike for all formats. Faults are collected, and reported together
as `file:line: column: what is wrong`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workloads.errors import WorkloadError
from workloads.lengths import MAX_TOKENS
from workloads.spec import Turn
from workloads.text import parse_json, parse_number

NS_PER_S = 1_000_000_000
MAX_TIME_NS = 100 * 365 * 86_400 * NS_PER_S
MAX_FAULTS_SHOWN = 20


@dataclass(slots=True)
class TraceRows:
    """Requests as a file tells them, in its order.

    Attributes:
        arrival_ns: When each came, from whatever zero the file uses; None where the file gives no time.
        turns: Rows that, by the format's own meaning, wait for others.
        optional_turns: Rows that could be made to wait for others, where the file gives both order and time.
    """

    lines: list[int] = field(default_factory=list)
    arrival_ns: list[int | None] = field(default_factory=list)
    prompt_tokens: list[int] = field(default_factory=list)
    output_tokens: list[int] = field(default_factory=list)
    priority: list[int] = field(default_factory=list)
    hash_ids: list[tuple[int, ...]] = field(default_factory=list)
    hash_block_tokens: int = 0
    sessions: list[str | None] = field(default_factory=list)
    turns: dict[int, Turn] = field(default_factory=dict)
    optional_turns: dict[int, Turn] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lines)

    def add(self, line: int, arrival_ns: int | None, prompt_tokens: int, output_tokens: int) -> int:
        """Add a plain row; returns its number."""
        self.lines.append(line)
        self.arrival_ns.append(arrival_ns)
        self.prompt_tokens.append(prompt_tokens)
        self.output_tokens.append(output_tokens)
        self.priority.append(0)
        self.hash_ids.append(())
        self.sessions.append(None)
        return len(self.lines) - 1


class Faults:
    """Collects what is wrong with a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._messages: list[str] = []

    def add(self, line: int, message: str) -> None:
        """Note a fault of one line."""
        self._messages.append(f"{self.path}:{line}: {message}")

    def raise_if_any(self) -> None:
        """Raise all of them together."""
        if self._messages:
            shown = self._messages[:MAX_FAULTS_SHOWN]
            if len(self._messages) > len(shown):
                shown.append(f"{self.path}: ... and {len(self._messages) - len(shown)} more")
            raise WorkloadError("\n".join(shown))


class BadValueError(ValueError):
    """A value that is not what its column should hold; the message says both."""


def read_text(path: Path) -> str:
    """The file's text; WorkloadError if it is missing or no UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise WorkloadError(f"{path}: cannot read the trace: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise WorkloadError(
            f"{path}: the trace is no UTF-8 text (byte {error.start} is {error.object[error.start]:#04x})"
        ) from error


def csv_rows(path: Path, required: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Lines of a CSV file with a header, as (line number, values by column)."""
    lines = read_text(path).splitlines()
    if not lines:
        raise WorkloadError(f"{path}: the trace is empty")
    header = [name.strip() for name in next(csv_lines(path, lines[:1], 1))[1]]
    missing = [name for name in required if name not in header]
    if missing:
        raise WorkloadError(
            f"{path}:1: missing column {', '.join(missing)}; the header has {', '.join(header)}. "
            f"Is this another format?"
        )
    for number, values in csv_lines(path, lines[1:], 2):
        if values:
            if len(values) != len(header):
                raise WorkloadError(f"{path}:{number}: {len(values)} columns, the header has {len(header)}")
            yield number, dict(zip(header, values, strict=True))


def csv_lines(path: Path, lines: Sequence[str], first: int) -> Iterator[tuple[int, list[str]]]:
    """Lines of a CSV file, as (line number, values); the first of them has the number `first`."""
    reader = csv.reader(lines)
    try:
        yield from enumerate(reader, first)
    except csv.Error as error:
        place = first + max(reader.line_num - 1, 0)
        raise WorkloadError(f"{path}:{place}: no valid CSV: {error}") from error


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a JSON-lines file, as (line number, object)."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except json.JSONDecodeError as error:
            message = f"no valid JSON: {error.msg} (column {error.colno})"
            raise WorkloadError(f"{path}:{number}: {message}") from error
        if not isinstance(row, dict):
            raise WorkloadError(f"{path}:{number}: each line must be one JSON object")
        yield number, row


def tokens(row: Mapping[str, Any], *names: str, least: int = 1) -> int:
    """A count of tokens under the first of `names` that is there."""
    name, value = _pick(row, names)
    number = _number(name, value)
    if number != int(number) or not least <= number <= MAX_TOKENS:
        raise BadValueError(f"{name}: must be a whole number from {least} to {MAX_TOKENS:,}, not {value!r}")
    return int(number)


def whole(row: Mapping[str, Any], name: str) -> int:
    """A whole number of any sign."""
    number = _number(name, row[name])
    if number != int(number) or abs(number) > 2**53:
        raise BadValueError(f"{name}: must be a whole number, not {row[name]!r}")
    return int(number)


def time_ns(row: Mapping[str, Any], *names: str, unit_ns: int) -> int:
    """A time or duration in units of `unit_ns`, as integer nanoseconds."""
    name, value = _pick(row, names)
    number = _number(name, value)
    nanoseconds = number * unit_ns if isinstance(number, int) else round(number * unit_ns)
    if not 0 <= nanoseconds <= MAX_TIME_NS:
        raise BadValueError(f"{name}: must be a time from 0 to a century, not {value!r}")
    return int(nanoseconds)


def ids(row: Mapping[str, Any], name: str, prompt_tokens: int, block_tokens: int) -> tuple[int, ...]:
    """A list of content ids, one for each `block_tokens` tokens of the prompt."""
    values = row.get(name, [])
    if not isinstance(values, list) or not all(type(value) is int and value >= 0 for value in values):
        raise BadValueError(f"{name}: must be a list of whole numbers from 0")
    num_blocks = -(-prompt_tokens // block_tokens)
    if values and len(values) != num_blocks:
        raise BadValueError(
            f"{name}: {len(values)} ids for {prompt_tokens} tokens, but blocks of {block_tokens} make "
            f"{num_blocks}; set hash_block_tokens to what an id of this trace stands for"
        )
    return tuple(values)


def has_any(row: Mapping[str, Any], *names: str) -> bool:
    """Whether one of these keys is there with a value."""
    return any(row.get(name) is not None for name in names)


def _pick(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, Any]:
    for name in names:
        if row.get(name) is not None:
            return name, row[name]
    raise BadValueError(f"{names[0]}: is missing")


def _number(name: str, value: Any) -> int | float:
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        if isinstance(value, int):
            return value
        number = parse_number(value) if isinstance(value, str) else value
        if isinstance(value, str) and value.strip().lstrip("+-").isdigit():
            return int(value)
    except ValueError:
        raise BadValueError(f"{name}: must be a number, not {value!r}") from None
    if not math.isfinite(number):
        raise BadValueError(f"{name}: must be a finite number, not {value!r}")
    return number
