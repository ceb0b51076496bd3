"""How numbers are written for people: as many digits as mean something, units that fit, no exponents."""

from __future__ import annotations

import math


def number_text(value: float, digits: int = 3) -> str:
    """At least `digits` significant digits, thousands apart: 12,345 and 1.23 and 0.0123."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    magnitude = math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, digits - 1 - magnitude)}f}"


def share_text(part: float, whole: float) -> str:
    """A percentage that says 0 % and 100 % only of none and all."""
    share = part / whole
    if 0 < part < whole and not 0.0005 <= share < 0.9995:
        return "< 0.1 %" if share < 0.5 else "> 99.9 %"
    return f"{share * 100:.1f} %"
