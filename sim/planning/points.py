"""From the axes of a sweep to its points: every point one setting of the swept keys.

    grid     every combination                       a x b
    zip      keys that change together               (a1, b1), (a2, b2), ...
    sample   drawn at random over ranges             Latin hypercube, or independent
    only_if  a key is set only where another has a value; points that become equal are one

The order is that of the file, the last axis fastest, so that a point keeps its number. Refuses to know what a
key means.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from sim.planning.axes import AxisError, Range, Value, axis_values, parse_range

Setting = Mapping[str, Value]
"""Values of the swept keys."""
_STREAM = 0x5A3B
"""Tells these draws from others made of the same seed."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Points drawn over ranges, or out of lists."""

    keys: Mapping[str, Sequence[Value] | str]
    num_points: int
    is_latin: bool = True


@dataclass(frozen=True, slots=True)
class Axes:
    """What is varied."""

    grid: Mapping[str, Sequence[Value] | str] = field(default_factory=dict)
    zips: tuple[Mapping[str, Sequence[Value] | str], ...] = ()
    sample: Sample | None = None
    only_if: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        """Every swept key, each once, in the order of the file."""
        groups = [self.grid, *self.zips, self.sample.keys if self.sample is not None else {}]
        return list(dict.fromkeys(key for group in groups for key in group))


def points_of(axes: Axes, seed: int) -> list[Setting]:
    """Every point of a sweep, in order.

    Raises:
        AxisError: Values cannot be understood, lengths differ, a key is swept twice, a condition names a key
            that is not swept.
    """
    _check(axes)
    groups = [[{key: value} for value in _values(key, written)] for key, written in axes.grid.items()]
    groups += [_linked(group) for group in axes.zips]
    if axes.sample is not None:
        groups.insert(0, _drawn(axes.sample, seed))
    points = ({key: value for part in parts for key, value in part.items()} for parts in product(*groups))
    kept: dict[str, Setting] = {}
    for point in points:
        allowed = {key: value for key, value in point.items() if _holds(axes.only_if.get(key, {}), point)}
        kept.setdefault(json.dumps(allowed, sort_keys=True), allowed)
    return list(kept.values())


def overrides_of(point: Setting) -> tuple[str, ...]:
    """A point as changes to an experiment file; JSON is YAML."""
    return tuple(f"{key}={json.dumps(value)}" for key, value in point.items())


def _check(axes: Axes) -> None:
    groups = [axes.grid, *axes.zips, axes.sample.keys if axes.sample is not None else {}]
    named = [key for group in groups for key in group]
    twice = [key for key in dict.fromkeys(named) if named.count(key) > 1]
    if twice:
        raise AxisError(f"{', '.join(twice)}: swept twice")
    for key, conditions in axes.only_if.items():
        for other in (key, *conditions):
            if other not in named:
                raise AxisError(f"only_if: {other} is not swept")


def _values(key: str, written: Sequence[Value] | str) -> list[Value]:
    try:
        return axis_values(written)
    except AxisError as error:
        raise AxisError(f"{key}: {error}") from error


def _linked(group: Mapping[str, Sequence[Value] | str]) -> list[dict[str, Value]]:
    columns = {key: _values(key, written) for key, written in group.items()}
    lengths = {key: len(column) for key, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise AxisError(f"keys that change together need equally many values: {told}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _drawn(sample: Sample, seed: int) -> list[dict[str, Value]]:
    """Draws of each key come from a stream of its own, so that a further key changes no other."""
    columns: dict[str, list[Value]] = {}
    for number, (key, written) in enumerate(sample.keys.items()):
        stream = np.random.default_rng([seed, _STREAM, number])
        fractions = stream.random(sample.num_points)
        if sample.is_latin:
            fractions = (stream.permutation(sample.num_points) + fractions) / sample.num_points
        columns[key] = [_at(key, written, float(fraction)) for fraction in fractions]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _at(key: str, written: Sequence[Value] | str, fraction: float) -> Value:
    if not isinstance(written, str):
        values = _values(key, written)
        return values[min(int(fraction * len(values)), len(values) - 1)]
    try:
        found: Range = parse_range(written)
    except AxisError as error:
        raise AxisError(f"{key}: {error}") from error
    return found.at(fraction)


def _holds(conditions: Mapping[str, Any], point: Setting) -> bool:
    return all(point.get(key) == value for key, value in conditions.items())


def replication_seeds(seed: int, count: int) -> Iterator[int]:
    """Seeds of the runs of a point, the same for all points: the file's own, then others made of it."""
    for number in range(count):
        if number == 0:
            yield seed
        else:
            state = np.random.SeedSequence([seed, _STREAM, number]).generate_state(1, np.uint64)
            yield int(state[0] >> 1)
