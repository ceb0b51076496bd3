"""Reading what others wrote, strictly: numbers that are numbers, and JSON whose every fault has a place.

Python reads more than files mean: `1_0` as ten, digits of any script; and it stops at integers of thousands
of digits, and at deep nesting, without saying where. Refuses to know files and what is in them.
"""

from __future__ import annotations

import json
import re
from typing import Any

_NUMBER = re.compile(
    r"\s*[-+]?(\d+\.?\d*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|nan|inf(inity)?)\s*", re.A | re.I
)
_LONG_INTEGER = re.compile(r"(?<![\d.eE+-])-?\d{4301,}")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.S)


def is_utf8(text: str) -> bool:
    """Whether a name can be written into files, which are all UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_number(text: str) -> float:
    """The number that a text is, perhaps no finite one.

    Raises:
        ValueError: It is none.
    """
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no number")
    return float(text)


def parse_json(text: str) -> Any:
    """What a JSON text says.

    Raises:
        JSONDecodeError: It is none, or beyond what Python reads; with line and column.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("nested too deep", text, _deepest(text)) from None
    except ValueError:
        found = _LONG_INTEGER.search(_QUOTED.sub(lambda match: " " * len(match[0]), text))
        place = found.start() if found is not None else 0
        raise json.JSONDecodeError("an integer of thousands of digits", text, place) from None


def _deepest(text: str) -> int:
    """Where nesting is deepest."""
    depth = most = place = 0
    blanked = _QUOTED.sub(lambda match: " " * len(match[0]), text)
    for found in re.finditer(r"[][{}]", blanked):
        depth += 1 if found[0] in "[{" else -1
        if depth > most:
            most, place = depth, found.start()
    return place
