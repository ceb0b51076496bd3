"""The values of one swept key: a list, or a range in words.

    1..64 log 7          1, 2, 4, ... 64: seven values, each as many times the one before
    2 /s..20 /s 10       ten values in equal steps, each with the unit
    1..64 log            for samples, which say elsewhere how many

Whole numbers stay whole: of two that round to the same one is left out. Refuses to know keys.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Value = Any
"""Plain data of a configuration."""
_NUMBER = r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_BOUNDS = re.compile(
    rf"\s*(?P<low>{_NUMBER})\s*(?P<low_unit>[^\d\s.][^.]*?)?\s*\.\.\s*(?P<high>{_NUMBER})"
    rf"(?:\s*(?P<high_unit>(?!log\b)[^\d\s.]\S*))?(?:\s+(?P<scale>log))?(?:\s+(?P<count>\d+))?\s*"
)


class AxisError(ValueError):
    """Values of a key that cannot be understood."""


@dataclass(frozen=True, slots=True)
class Range:
    """From `low` to `high`, both included; a value is a number, or with a unit a text."""

    low: float
    high: float
    unit: str
    is_log: bool
    is_whole: bool
    count: int | None

    def at(self, fraction: float) -> Value:
        """The value so far along the way, from 0 to 1."""
        if self.is_log:
            number = math.exp(math.log(self.low) + fraction * (math.log(self.high) - math.log(self.low)))
        else:
            number = self.low + fraction * (self.high - self.low)
        shown: float = round(number) if self.is_whole else float(f"{number:.6g}")
        return f"{shown:g} {self.unit}" if self.unit else shown

    def values(self) -> list[Value]:
        """Its `count` values."""
        if self.count is None:
            raise AxisError("says not how many values: add their number, as in '1..64 log 7'")
        steps = max(self.count - 1, 1)
        found = [self.at(place / steps) for place in range(self.count)]
        return list(dict.fromkeys(found))


def parse_range(text: str) -> Range:
    """A range in words.

    Raises:
        AxisError: It is none; the message says what one looks like.
    """
    match = _BOUNDS.fullmatch(text)
    if match is None:
        raise AxisError(f"'{text}' is no range, such as '1..64 log 7' or '2 /s..20 /s 10'")
    low, high = float(match["low"]), float(match["high"])
    low_unit, unit = (match["low_unit"] or "").strip(), (match["high_unit"] or "").strip()
    if low_unit and low_unit != unit:
        has = f"'{unit}'" if unit else "none"
        raise AxisError(f"'{text}': the lower end has the unit '{low_unit}' and the upper one {has}")
    if low >= high:
        raise AxisError(f"'{text}': the lower end must be below the upper one")
    is_log = match["scale"] is not None
    if is_log and low <= 0:
        raise AxisError(f"'{text}': a logarithmic range starts above 0")
    count = int(match["count"]) if match["count"] else None
    if count is not None and not 1 <= count <= 100_000:
        raise AxisError(f"'{text}': {count} values are not from 1 to 100,000")
    is_whole = all(re.fullmatch(r"[+-]?\d+", match[end]) for end in ("low", "high"))
    return Range(low, high, unit, is_log, is_whole and not unit, count)


def axis_values(written: Sequence[Value] | str) -> list[Value]:
    """All values of an axis.

    Raises:
        AxisError: There are none, or a range cannot be understood.
    """
    found = parse_range(written).values() if isinstance(written, str) else list(written)
    if not found:
        raise AxisError("has no values")
    return found
