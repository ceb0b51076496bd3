"""Fits that cannot run away: which rows count, how much, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sim.config.catalog import load_gpu
from sim.cost.curve_parameters import REFERENCE
from sim.cost.fit_rows import BOUNDS, from_cache, rows_to_fit, weights
from sim.cost.fitting import PoorFitError, at_bounds, fit, halves, predict_ns
from sim.cost.measured_tables import KernelTable, TableKind

GPU = load_gpu("l40s")
TRUTH = replace(REFERENCE.decode_attention, bandwidth_fraction=0.8)
WARM = 2.5
"""How much faster an L40S reads from its cache than from memory."""


def decodes(*, kv_heads: float = 8, heads: float = 32) -> KernelTable:
    """Decode attention of all batches and contexts, up to 4 GB of keys and values; from memory."""
    sizes = np.meshgrid(2.0 ** np.arange(0, 9), 2.0 ** np.arange(4, 16), indexing="ij")
    columns = {name: size.ravel() for name, size in zip(("batch_size", "context_len"), sizes, strict=True)}
    num_rows = len(columns["batch_size"])
    for name, value in (("num_heads", heads), ("num_kv_heads", kv_heads), ("head_dim", 128.0)):
        columns[name] = np.full(num_rows, value)
    table = KernelTable(TableKind.DECODE_ATTENTION, "made", columns, np.ones(num_rows))
    few = table.rows(columns["batch_size"] * columns["context_len"] <= 2.0**20)
    return replace(few, times_ns=predict_ns(few, GPU, TRUTH))


def measured_warm() -> KernelTable:
    """The same as whoever repeats a measurement finds it: what the cache holds is read from there."""
    table = decodes()
    warm = predict_ns(table, GPU, replace(TRUTH, bandwidth_fraction=0.8 * WARM))
    held = table.columns["batch_size"] * table.columns["context_len"] * 4096 <= 96 * 2**20
    return replace(table, times_ns=np.where(held, warm, table.times_ns))


def test_what_the_cache_held_does_not_make_memory_faster() -> None:
    curve = fit(measured_warm(), GPU)
    assert curve.bandwidth_fraction == pytest.approx(0.8, rel=0.03)
    assert "read from L2" in curve.spread.domain


def test_rows_that_take_as_long_with_any_cache_stay() -> None:
    table = measured_warm()
    small = table.columns["batch_size"] * table.columns["context_len"] <= 256
    assert not from_cache(table, GPU)[small].any()
    assert from_cache(table, GPU).any()


def test_a_measurement_that_goes_through_many_copies_is_from_memory() -> None:
    assert not from_cache(replace(decodes(), num_copies=np.inf), GPU).any()


def test_of_a_gpu_whose_cache_is_unknown_all_rows_count() -> None:
    assert not from_cache(decodes(), replace(GPU, name="some-gpu")).any()


def test_heads_that_share_nothing_count_only_where_there_are_no_others() -> None:
    alone = decodes(kv_heads=8, heads=8)
    assert rows_to_fit(replace(alone, num_copies=np.inf), GPU).rows.all()
    grouped = decodes()
    columns = {
        name: np.concatenate([column, alone.columns[name]]) for name, column in grouped.columns.items()
    }
    both = replace(grouped, columns=columns, times_ns=np.concatenate([grouped.times_ns, 6 * alone.times_ns]))
    chosen = rows_to_fit(replace(both, num_copies=np.inf), GPU)
    assert chosen.rows.sum() == len(grouped)
    assert fit(both, GPU).bandwidth_fraction == pytest.approx(0.8, rel=0.03)


def test_parameters_stay_where_a_device_can_be() -> None:
    table = decodes()
    impossible = replace(table, times_ns=table.times_ns / 1.5, num_copies=np.inf)
    curve = fit(impossible, GPU)
    for name, (least, most) in BOUNDS.items():
        assert least <= getattr(curve, name, least) <= most
    assert curve.bandwidth_fraction == pytest.approx(1)
    assert "bandwidth_fraction" in at_bounds(curve)


def test_no_region_is_ignored() -> None:
    """Four hundred rows of one size beside one of each other have the say of an octave."""
    table = decodes()
    once = np.ones(len(table), dtype=bool)
    many = np.flatnonzero((table.columns["batch_size"] == 1) & (table.columns["context_len"] == 64))
    rows = np.concatenate([np.flatnonzero(once), np.repeat(many, 400)])
    columns = {name: column[rows] for name, column in table.columns.items()}
    crowded = replace(table, columns=columns, times_ns=table.times_ns[rows])
    share = weights(crowded)[len(table) :].sum() / weights(crowded).sum()
    assert share < 0.2
    assert len(rows) > 4 * len(table)


def test_a_form_that_does_not_fit_is_refused_with_its_best_curve() -> None:
    table = decodes()
    wave = np.where(np.arange(len(table)) % 2 == 0, 4.0, 0.25)
    with pytest.raises(PoorFitError, match="the form of decode_attention does not fit") as refused:
        fit(replace(table, times_ns=table.times_ns * wave, num_copies=np.inf), GPU)
    assert refused.value.curve.spread.num_points == len(table)


def test_one_octave_that_is_far_off_is_enough_to_refuse() -> None:
    table = decodes()
    size = table.columns["batch_size"] * table.columns["context_len"] * 8
    bent = np.where((size >= 2**15) & (size < 2**17), 6.0, 1.0)
    copies = {name: np.repeat(column, 4) for name, column in table.columns.items()}
    crowd = replace(table, columns=copies, times_ns=np.repeat(table.times_ns * bent, 4), num_copies=np.inf)
    with pytest.raises(PoorFitError, match="points of size"):
        fit(crowd, GPU)


def test_halves_keep_rows_of_one_size_together() -> None:
    table = decodes()
    twice = replace(
        table,
        columns={name: np.tile(column, 2) for name, column in table.columns.items()},
        times_ns=np.tile(table.times_ns, 2),
    )
    one, other = (
        set(zip(half.columns["batch_size"], half.columns["context_len"], strict=True))
        for half in halves(twice, 0)
    )
    assert not one & other
    assert abs(len(one) - len(other)) <= 1
