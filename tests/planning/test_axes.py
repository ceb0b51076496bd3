"""Values of a swept key, and how they become points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.planning.axes import AxisError, axis_values, parse_range
from sim.planning.points import Axes, Sample, overrides_of, points_of, replication_seeds

STATIC = {"kind": "static", "max_batch_size": 4}


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("1..64 log 7", [1, 2, 4, 8, 16, 32, 64]),
        ("1..3 log 9", [1, 2, 3]),
        ("0..1.0 3", [0.0, 0.5, 1.0]),
        ("2 /s..20 /s 3", ["2 /s", "11 /s", "20 /s"]),
        ("10..1000 ms log 3", ["10 ms", "100 ms", "1000 ms"]),
        ("-4..4 3", [-4, 0, 4]),
        ("1e-3..1e3 log 3", [0.001, 1.0, 1000.0]),
        ([True, "a", STATIC], [True, "a", STATIC]),
    ],
)
def test_ranges_and_lists_in_words(written: Any, values: list[object]) -> None:
    assert axis_values(written) == values


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("1-64", "is no range"),
        ("64..1 3", "must be below"),
        ("0..64 log 3", "starts above 0"),
        ("1..64 log", "says not how many"),
        ("1 ms..2 s 3", "has the unit 'ms' and the upper one 's'"),
        ("1 /s..2 3", "and the upper one none"),
        ("1..2 0", "not from 1"),
        ([], "has no values"),
    ],
)
def test_what_is_no_axis_is_told(written: Any, said: str) -> None:
    with pytest.raises(AxisError, match=said):
        axis_values(written)


@given(low=st.floats(0.001, 1e3), factor=st.floats(1.01, 1e3), count=st.integers(2, 40), is_log=st.booleans())
def test_a_range_ascends_from_end_to_end(low: float, factor: float, count: int, is_log: bool) -> None:
    values = parse_range(f"{low!r}..{low * factor!r} {'log ' if is_log else ''}{count}").values()
    assert values == sorted(values)
    assert values[0] == pytest.approx(low, rel=1e-5)
    assert values[-1] == pytest.approx(low * factor, rel=1e-5)


def test_a_grid_has_every_combination_the_last_axis_fastest() -> None:
    points = points_of(Axes({"a": [1, 2], "b": ["x", "y"]}), seed=0)
    assert points == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]


def test_keys_that_change_together_do() -> None:
    points = points_of(Axes({"a": [1, 2]}, ({"b": [3, 4], "c": [5, 6]},)), seed=0)
    assert [(point["b"], point["c"]) for point in points] == [(3, 5), (4, 6)] * 2
    with pytest.raises(AxisError, match="b has 2, c has 1"):
        points_of(Axes(zips=({"b": [3, 4], "c": [5]},)), seed=0)


def test_a_condition_leaves_a_key_out_and_equal_points_become_one() -> None:
    grid = {"scheduler": ["v1", "v0"], "mode": ["swap", "recompute"]}
    assert points_of(Axes(grid, only_if={"mode": {"scheduler": "v0"}}), seed=0) == [
        {"scheduler": "v1"},
        {"scheduler": "v0", "mode": "swap"},
        {"scheduler": "v0", "mode": "recompute"},
    ]
    with pytest.raises(AxisError, match="other is not swept"):
        points_of(Axes({"a": [1]}, only_if={"a": {"other": 1}}), seed=0)
    with pytest.raises(AxisError, match="a: swept twice"):
        points_of(Axes({"a": [1]}, ({"a": [1]},)), seed=0)


def test_a_latin_hypercube_meets_each_part_of_each_range_once() -> None:
    sample = Sample({"a": "0.0..10.0", "b": "1.0..1024.0 log", "c": ["x", "y"]}, 10)
    points = points_of(Axes(sample=sample), seed=3)
    assert sorted(int(point["a"]) for point in points) == list(range(10))
    assert sorted(int(np.log2(point["b"])) for point in points) == list(range(10))
    assert sorted(point["c"] for point in points) == ["x"] * 5 + ["y"] * 5
    assert points == points_of(Axes(sample=sample), seed=3)
    assert points != points_of(Axes(sample=sample), seed=4)


def test_a_further_key_changes_no_other_draw() -> None:
    one = points_of(Axes(sample=Sample({"a": "0.0..10.0"}, 5, is_latin=False)), seed=1)
    two = points_of(Axes(sample=Sample({"a": "0.0..10.0", "b": "0..1.0"}, 5, is_latin=False)), seed=1)
    assert [point["a"] for point in one] == [point["a"] for point in two]


def test_a_point_is_written_as_changes_to_a_file() -> None:
    written = overrides_of({"a.b": "2 /s", "c": None, "d": STATIC})
    assert written == ('a.b="2 /s"', "c=null", 'd={"kind": "static", "max_batch_size": 4}')


def test_replications_have_seeds_of_their_own_and_begin_with_the_files() -> None:
    seeds = list(replication_seeds(7, 5))
    assert seeds[0] == 7
    assert len(set(seeds)) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds[:3] == list(replication_seeds(7, 3))
