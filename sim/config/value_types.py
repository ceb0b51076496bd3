"""Field types of configuration files: quantities with units, whole numbers, and the closed mapping.

Owns how one value is read and written back. Refuses to know which keys there are.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from sim.units import Dimension, format_quantity, parse_duration_ns, parse_quantity


class Section(BaseModel):
    """A mapping with a fixed set of keys; values are taken as written, never coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _schema(dimension: Dimension) -> WithJsonSchema:
    table = dimension.value
    return WithJsonSchema({"type": "string", "pattern": dimension.pattern, "examples": [table.example]})


def _read_duration(value: object) -> int:
    return parse_duration_ns(value)


def _read_pause(value: object) -> int:
    return parse_duration_ns(value, allow_zero=True)


def _read_rate(value: object) -> float:
    return float(parse_quantity(value, Dimension.RATE))


def _read_memory(value: object) -> int:
    return int(parse_quantity(value, Dimension.MEMORY))


def _write(dimension: Dimension) -> PlainSerializer:
    def write(value: float) -> str:
        return format_quantity(value, dimension)

    return PlainSerializer(write)


def _whole(value: Any) -> Any:
    """1e3 and 16.0 are whole numbers too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Duration = Annotated[int, BeforeValidator(_read_duration), _write(Dimension.TIME), _schema(Dimension.TIME)]
"""More than no time; nanoseconds inside."""
Pause = Annotated[int, BeforeValidator(_read_pause), _write(Dimension.TIME), _schema(Dimension.TIME)]
"""A duration, or none."""
Rate = Annotated[float, BeforeValidator(_read_rate), _write(Dimension.RATE), _schema(Dimension.RATE)]
"""More than 0; a second inside."""

Memory = Annotated[int, BeforeValidator(_read_memory), _write(Dimension.MEMORY), _schema(Dimension.MEMORY)]
"""More than none; bytes inside."""

WHOLE = BeforeValidator(_whole)
"""Goes after the bounds, which editors would not be told of otherwise."""
Whole = Annotated[int, Field(ge=-(10**9), le=10**9), WHOLE]
"""Any whole number of sensible size."""
Count = Annotated[int, Field(ge=1, le=10**9), WHOLE]
"""At least 1."""
CountOrZero = Annotated[int, Field(ge=0, le=10**9), WHOLE]
"""At least 0."""
Share = Annotated[float, Field(gt=0, le=1)]
"""A fraction, above 0."""
Positive = Annotated[float, Field(gt=0, le=1e12)]
"""A plain number above 0."""
