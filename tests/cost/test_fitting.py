from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim.config.catalog import load_gpu
from sim.cost.curve_parameters import REFERENCE
from sim.cost.fit_rows import rows_to_fit
from sim.cost.fitting import errors, fit, predict_ns
from sim.cost.measured_tables import KernelTable, TableKind, read_table
from sim.errors import ConfigError
from tests.command_line import pagecast, refused

GPU = load_gpu("h100-sxm")


def made_table(noise: float = 0.0) -> KernelTable:
    sizes = np.meshgrid([1, 16, 256, 1024, 8192], [1024, 4096, 8192], [1024, 4096, 16384])
    columns = {name: size.ravel().astype(float) for name, size in zip("mnk", sizes, strict=True)}
    table = KernelTable(TableKind.GEMM, "made", columns, np.ones(45))
    truth = replace(REFERENCE.gemm, floor_ns=5_000, compute_fraction=0.7, bandwidth_fraction=0.8)
    factors = np.exp(noise * np.random.default_rng(1).normal(size=45))
    return replace(table, times_ns=predict_ns(table, GPU, truth) * factors)


def test_a_fit_finds_the_curve_that_made_the_times() -> None:
    curve = fit(made_table(), GPU)
    assert curve.floor_ns == pytest.approx(5_000, rel=0.01)
    assert curve.compute_fraction == pytest.approx(0.7, rel=0.01)
    assert curve.bandwidth_fraction == pytest.approx(0.8, rel=0.01)


def test_the_spread_is_that_of_the_noise() -> None:
    table = made_table(noise=0.1)
    curve = fit(table, GPU)
    assert 0.04 < curve.spread.median_fraction < 0.1
    assert curve.spread.median_fraction == errors(table.rows(rows_to_fit(table, GPU).rows), GPU, curve).median


def test_bad_tables_are_named_by_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("m,n,k,latency_ms\n1,2,3,0.1\n1,2,-3,0.1\n")
    with pytest.raises(ConfigError, match=r"t.csv:3: k: must be a number above 0, not '-3'"):
        read_table(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="no table of a known kind"):
        read_table(path)


def test_the_command_writes_a_section_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table, rows = made_table(), ["m,n,k,latency_ms"]
    for m, n, k, time in zip(*table.columns.values(), table.times_ns, strict=True):
        rows.append(f"{m:g},{n:g},{k:g},{time / 1e6}")
    Path("few.csv").write_text("\n".join(rows[:4]))
    assert "3 points" in refused("fit", "few.csv", "--hardware", "h100-sxm", "--out", "c.yaml")
    Path("t.csv").write_text("\n".join(rows))
    assert "not in the catalogue" in refused("fit", "t.csv", "--hardware", "h100", "--out", "c.yaml")
    pagecast("fit", "t.csv", "--hardware", "h100-sxm", "--out", "c.yaml")
    assert "compute_fraction: 0.7" in Path("c.yaml").read_text()


def test_products_are_of_the_number_type_that_their_table_names(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    kinds = {"": TableKind.GEMM, "fp8": TableKind.FP8_GEMM, "int8_wo": TableKind.NARROW_GEMM}
    for dtype, kind in kinds.items():
        column, value = (",dtype", f",{dtype}") if dtype else ("", "")
        path.write_text(f"m,n,k,latency_ms,num_copies{column}\n1,4096,4096,0.1,5{value}\n")
        table = read_table(path)
        assert (table.kind, table.num_copies) == (kind, 5)
    path.write_text("m,n,k,latency_ms,dtype\n1,2,3,0.1,fp8\n1,2,3,0.1,bf16\n")
    with pytest.raises(ConfigError, match=r"t.csv:3: dtype: 'bf16' in a table of another number type"):
        read_table(path)


def test_narrow_weights_are_half_as_many_bytes_and_no_faster_arithmetic() -> None:
    table = replace(made_table(), times_ns=np.ones(45))
    wide = predict_ns(table, GPU, REFERENCE.gemm)
    narrow = predict_ns(replace(table, kind=TableKind.NARROW_GEMM), GPU, REFERENCE.gemm)
    fp8 = predict_ns(replace(table, kind=TableKind.FP8_GEMM), GPU, REFERENCE.gemm)
    small, large = table.columns["m"] == 1, table.columns["m"] == 8192
    assert (narrow[small] < wide[small]).all()
    assert narrow[large] == pytest.approx(wide[large], rel=0.02)
    assert (fp8[large] < 0.7 * wide[large]).all()


def test_products_in_8_bits_need_a_rate() -> None:
    table = replace(made_table(), kind=TableKind.FP8_GEMM)
    with pytest.raises(ValueError, match="the file of a100-80gb-sxm has no fp8_compute"):
        fit(table, load_gpu("a100-80gb-sxm"))
