"""Quantities: exact, never guessed, and printed so that reading them back gives the same."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.units import Dimension, UnitError, format_quantity, parse_duration_ns, parse_quantity


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("80 GiB", Dimension.MEMORY, 80 * 2**30),
        ("80 GB", Dimension.MEMORY, 80 * 10**9),
        ("46068MiB", Dimension.MEMORY, 46068 * 2**20),
        ("25 us", Dimension.TIME, 25_000),
        ("2.0 TB/s", Dimension.BANDWIDTH, 2 * 10**12),
        ("400 GB/s", Dimension.BANDWIDTH, 400 * 10**9),
        ("10 /s", Dimension.RATE, 10),
        ("600/min", Dimension.RATE, 10),
        ("312 TFLOP/s", Dimension.COMPUTE, 312 * 10**12),
        ("312 TFLOPS", Dimension.COMPUTE, 312 * 10**12),
        (" 1e3 ms ", Dimension.TIME, 10**9),
    ],
)
def test_quantities_are_read_exactly(text: str, dimension: Dimension, value: int) -> None:
    assert parse_quantity(text, dimension) == value


def test_decimal_fractions_of_a_second_become_whole_nanoseconds_without_rounding() -> None:
    assert parse_duration_ns("0.123456789 s") == 123_456_789
    assert parse_duration_ns("1.1 us") == 1_100
    with pytest.raises(UnitError, match="whole number of nanoseconds"):
        parse_duration_ns("0.5 ns")


@pytest.mark.parametrize("bare", [5, 0.5, "5", "0.5", 10**30])
def test_a_number_without_unit_is_refused_with_an_example(bare: object) -> None:
    with pytest.raises(UnitError, match=r"has no unit: a time is written like '50 ms'"):
        parse_quantity(bare, Dimension.TIME)


@pytest.mark.parametrize("text", ["nan /s", "inf /s", "-inf /s", ".nan", float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(text: object) -> None:
    with pytest.raises(UnitError, match="must be finite"):
        parse_quantity(text, Dimension.RATE)


def test_negative_quantities_are_refused_and_zero_only_where_it_is_not_sensible() -> None:
    with pytest.raises(UnitError, match="must be positive, not '-10 /s'"):
        parse_quantity("-10 /s", Dimension.RATE)
    with pytest.raises(UnitError, match="must be positive"):
        parse_quantity("0 /s", Dimension.RATE)
    assert parse_duration_ns("0 s", allow_zero=True) == 0
    with pytest.raises(UnitError, match="must not be negative"):
        parse_duration_ns("-1 s", allow_zero=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5 GB", "'GB' is a unit of memory, not of time"),
        ("5 sec", r"unknown unit 'sec' of time \(did you mean 's'\?\)"),
        ("5 MS", r"did you mean 'ms'\?"),
        ("5 furlong", "unknown unit 'furlong' of time: write it like '50 ms'"),
        ("soon", "'soon' is not a time"),
        ("", "'' is not a time"),
        ("1 2 ms", "not a time|unknown unit"),
    ],
)
def test_a_wrong_unit_is_named_with_what_to_write(text: str, message: str) -> None:
    with pytest.raises(UnitError, match=message):
        parse_quantity(text, Dimension.TIME)


@pytest.mark.parametrize("value", [None, True, [], {}])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(UnitError, match="is not a time"):
        parse_quantity(value, Dimension.TIME)


@pytest.mark.parametrize("text", ["1e999 s", "1e999999999999999999999 s", "9" * 60 + " s"])
def test_absurd_numbers_are_refused_quickly_and_briefly(text: str) -> None:
    with pytest.raises(UnitError, match="out of range") as caught:
        parse_quantity(text, Dimension.TIME)
    assert len(str(caught.value)) < 100


def test_durations_that_do_not_fit_64_bits_are_refused() -> None:
    with pytest.raises(UnitError, match="longer than 146 years"):
        parse_duration_ns("1e8 h")


@pytest.mark.parametrize(
    ("value", "dimension", "text"),
    [
        (50_000_000, Dimension.TIME, "50 ms"),
        (100_000_000, Dimension.TIME, "100 ms"),
        (1_500_000_000, Dimension.TIME, "1.5 s"),
        (0, Dimension.TIME, "0 ns"),
        (80 * 2**30, Dimension.MEMORY, "80 GiB"),
        (192 * 10**9, Dimension.MEMORY, "192 GB"),
        (3.35e12, Dimension.BANDWIDTH, "3.35 TB/s"),
        (989e12, Dimension.COMPUTE, "989 TFLOP/s"),
        (0.25, Dimension.RATE, "0.25 /s"),
        (Fraction(1, 3), Dimension.RATE, "0.3333333333333333 /s"),
    ],
)
def test_values_are_printed_in_the_shortest_unit(value: float, dimension: Dimension, text: str) -> None:
    assert format_quantity(value, dimension) == text


@given(st.integers(0, 1 << 61))
def test_every_duration_survives_printing_and_reading(value: int) -> None:
    assert parse_duration_ns(format_quantity(value, Dimension.TIME), allow_zero=True) == value


@given(st.floats(1e-9, 1e15), st.sampled_from(Dimension))
def test_every_float_survives_printing_and_reading(value: float, dimension: Dimension) -> None:
    assert float(parse_quantity(format_quantity(value, dimension), dimension)) == value
