"""Quantities with units: '80 GiB', '25 us', '10 /s' to exact numbers and back.

Owns one fixed table of dimensions and units. Refuses to know which field wants which dimension, and to
guess: a bare number is an error that shows how to write it. Memory is quoted in GiB, bandwidth in GB/s,
and they differ by 7 %, so both exist: GB is 10^9 bytes, GiB is 2^30.

Everything is exact (`Fraction`) until a caller asks for a float or an integer.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import Enum
from fractions import Fraction


class UnitError(ValueError):
    """Text that is no quantity of the wanted dimension; the message says what to write."""


@dataclass(frozen=True, slots=True)
class UnitTable:
    """Units of one dimension, in its base unit, from small to large.

    Attributes:
        base: What a factor of 1 means.
        example: A quantity to show in messages.
        factors: Unit to how many base units it is.
        printed: Units to write values in, from small to large.
    """

    what: str
    base: str
    example: str
    factors: dict[str, Fraction]
    printed: tuple[str, ...]


def _decimal_multiples(suffix: str) -> dict[str, Fraction]:
    prefixes = {"": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15}
    return {prefix + suffix: Fraction(10**power) for prefix, power in prefixes.items()}


def _binary_multiples(suffix: str) -> dict[str, Fraction]:
    return {f"{prefix}i{suffix}": Fraction(1 << (10 * n)) for n, prefix in enumerate("KMGT", 1)}


_TIMES = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}


class Dimension(Enum):
    """What a field measures; its value is the table of allowed units."""

    TIME = UnitTable(
        "time", "ns", "50 ms", {unit: Fraction(ns) for unit, ns in _TIMES.items()}, ("ns", "us", "ms", "s")
    )
    RATE = UnitTable(
        "rate",
        "/s",
        "10 /s",
        {"/s": Fraction(1), "/min": Fraction(1, 60), "/h": Fraction(1, 3600)},
        ("/s",),
    )
    MEMORY = UnitTable(
        "memory",
        "B",
        "80 GiB",
        {**_decimal_multiples("B"), **_binary_multiples("B")},
        ("B", "kB", "KiB", "MB", "MiB", "GB", "GiB"),
    )
    BANDWIDTH = UnitTable(
        "bandwidth",
        "B/s",
        "2.0 TB/s",
        {**_decimal_multiples("B/s"), **_binary_multiples("B/s")},
        ("B/s", "kB/s", "MB/s", "GB/s", "TB/s"),
    )
    COMPUTE = UnitTable(
        "compute rate",
        "FLOP/s",
        "312 TFLOP/s",
        {**_decimal_multiples("FLOP/s"), **_decimal_multiples("FLOPS")},
        ("FLOP/s", "MFLOP/s", "GFLOP/s", "TFLOP/s"),
    )

    @property
    def pattern(self) -> str:
        """Regular expression of what is accepted, for editors."""
        units = "|".join(re.escape(unit) for unit in self.value.factors)
        return rf"^\s*[+]?{_NUMBER}\s*({units})\s*$"

    def needs_unit(self, found: object) -> UnitError:
        """The error for a value without a unit."""
        table = self.value
        units = ", ".join(table.factors) if len(table.factors) < 7 else ", ".join(table.printed)
        return UnitError(f"{found} has no unit: a {table.what} is written like '{table.example}' ({units})")


_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_QUANTITY = re.compile(rf"\s*(?P<number>[+-]?{_NUMBER})\s*(?P<unit>[^\d\s.].*?)?\s*", re.ASCII)
_NOT_FINITE = re.compile(r"\s*[+-]?\.?(nan|inf|infinity)\b.*", re.IGNORECASE)
_MAX_DIGITS = 40


def parse_quantity(text: object, dimension: Dimension, *, allow_zero: bool = False) -> Fraction:
    """The exact value of `text` in the dimension's base unit; negative values are never sensible.

    Raises:
        UnitError: No quantity of that dimension, not finite, or out of range.
    """
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        kind = "nothing" if text is None else f"{text!r}"
        raise UnitError(f"{kind} is not a {dimension.value.what}: write it like '{dimension.value.example}'")
    if isinstance(text, (int, float)):
        if math.isfinite(text):
            raise dimension.needs_unit(_shortened(str(text)))
        raise UnitError(f"a {dimension.value.what} must be finite, not {text}")
    return _checked(_value_of(text, dimension), text, dimension, allow_zero=allow_zero)


def _value_of(text: str, dimension: Dimension) -> Fraction:
    table = dimension.value
    if _NOT_FINITE.fullmatch(text):
        raise UnitError(f"a {table.what} must be finite, not '{text.strip()}'")
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise UnitError(f"'{_shortened(text)}' is not a {table.what}: write it like '{table.example}'")
    number, unit = match["number"], match["unit"]
    if unit is None:
        raise dimension.needs_unit(_shortened(number))
    if unit not in table.factors:
        raise _wrong_unit(unit, dimension)
    try:
        value = Decimal(number)
    except InvalidOperation:  # its exponent does not even fit a Decimal
        value = Decimal("Infinity")
    if len(number) > _MAX_DIGITS or not value.is_finite() or abs(value.adjusted()) > _MAX_DIGITS:
        raise UnitError(f"{_shortened(number)} is out of range for a {table.what}")
    return Fraction(value) * table.factors[unit]


def _checked(value: Fraction, text: str, dimension: Dimension, *, allow_zero: bool) -> Fraction:
    what = dimension.value.what
    if value < 0 or (value == 0 and not allow_zero):
        wanted = "must not be negative" if allow_zero else "must be positive"
        raise UnitError(f"a {what} {wanted}, not '{text.strip()}'")
    return value


def _wrong_unit(unit: str, dimension: Dimension) -> UnitError:
    table = dimension.value
    for other in Dimension:
        if unit in other.value.factors:
            return UnitError(
                f"'{unit}' is a unit of {other.value.what}, not of {table.what}: "
                f"write it like '{table.example}'"
            )
    near = difflib.get_close_matches(unit, table.factors, n=1, cutoff=0.5)
    near = near or [known for known in table.factors if known.lower() == unit.lower()]
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return UnitError(
        f"unknown unit '{_shortened(unit)}' of {table.what}{hint}: write it like '{table.example}'"
    )


def parse_duration_ns(text: object, *, allow_zero: bool = False) -> int:
    """A duration in whole nanoseconds, exactly.

    Raises:
        UnitError: No duration, finer than a nanosecond, or longer than 64 bits hold.
    """
    value = parse_quantity(text, Dimension.TIME, allow_zero=allow_zero)
    if value.denominator != 1:
        raise UnitError(f"'{str(text).strip()}' is not a whole number of nanoseconds")
    if value >= 1 << 62:
        raise UnitError(f"'{str(text).strip()}' is longer than 146 years")
    return int(value)


def format_quantity(value: float | Fraction, dimension: Dimension) -> str:
    """`value`, in base units, in the unit that writes it shortest; reading it gives the same value.

    Floats are written with the digits that tell them apart, as Python prints them; so is a fraction that
    does not end in decimal.
    """
    exact = value if isinstance(value, Fraction) else Fraction(repr(value))
    table = dimension.value
    best, best_unit = _decimal_text(exact), table.base
    if best is None:
        return format_quantity(float(exact), dimension)
    for unit in table.printed:
        amount = exact / table.factors[unit]
        number = _decimal_text(amount) if amount >= 1 else None
        if number is not None and len(number) <= len(best):
            best, best_unit = number, unit
    return f"{best} {best_unit}"


def _decimal_text(value: Fraction) -> str | None:
    """Digits of a number that ends in decimal, without an exponent; None if it does not end."""
    twos_and_fives = value.denominator
    places = 0
    while twos_and_fives != 1:
        shared = math.gcd(twos_and_fives, 10)
        if shared == 1:
            return None
        twos_and_fives //= shared
        places += 1
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    whole, fraction = (digits[:-places], digits[-places:]) if places else (digits, "")
    sign = "-" if value < 0 else ""
    return f"{sign}{whole}.{fraction}" if fraction else f"{sign}{whole}"


def _shortened(text: str) -> str:
    return text if len(text) <= 30 else f"{text[:20]}... ({len(text)} characters)"
