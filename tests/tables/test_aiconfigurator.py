"""Tables of AIConfigurator: which rows become which table, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.cost.measured_tables import TableKind
from sim.errors import ConfigError
from sim.tables import aiconfigurator
from sim.tables import wheel as wheel_files
from sim.tables.aiconfigurator import Wanted, read
from sim.tables.measurements import Measurements
from sim.tables.wheel import columns_of, listing, newest, systems_folder
from tests.tables.wheel import StandIn, products, write_wheel

WANTED = Wanted("l40s", "vllm", "0.24.0")


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `systems` of a small wheel."""
    monkeypatch.setattr(aiconfigurator, "parquet_reader", lambda: StandIn)
    monkeypatch.setattr(wheel_files, "parquet_reader", lambda: StandIn)
    return systems_folder(write_wheel(tmp_path))


@pytest.fixture
def measured(wheel: Path) -> Measurements:
    """What it has of an L40S under vLLM."""
    return read(wheel, WANTED)


def kinds(measured: Measurements) -> dict[TableKind, int]:
    return {table.kind: len(table) for table in measured.tables}


def test_rows_that_a_curve_describes_become_tables(measured: Measurements) -> None:
    assert kinds(measured) == {
        TableKind.GEMM: 36,
        TableKind.FP8_GEMM: 36,
        TableKind.PREFILL_ATTENTION: 24,
        TableKind.DECODE_ATTENTION: 24,
        TableKind.ALL_REDUCE: 33,
    }
    assert measured.device == "NVIDIA L40S"


def test_units_are_ours(measured: Measurements) -> None:
    (sums,) = [table for table in measured.tables if table.kind is TableKind.ALL_REDUCE]
    assert sums.columns["num_bytes"].min() == 2 * 256  # elements of 16 bits
    assert 5_000 < sums.times_ns.min() < 6_000  # milliseconds become nanoseconds, graphs and not ten times
    (decodes,) = [table for table in measured.tables if table.kind is TableKind.DECODE_ATTENTION]
    assert set(decodes.columns["context_len"]) == {16, 1024, 8192, 65536}  # the new token counts


def test_products_were_measured_over_several_layers_in_turn(measured: Measurements) -> None:
    copies = {table.kind: table.num_copies for table in measured.tables}
    assert copies[TableKind.GEMM] == 6
    assert copies[TableKind.DECODE_ATTENTION] == 1


def test_what_has_no_curve_is_named(measured: Measurements) -> None:
    left_out = "\n".join(measured.left_out)
    assert "products: no curve for nvfp4 36 rows" in left_out
    assert "decode attention: 48 rows of 8-bit KV caches or sliding windows" in left_out
    assert "moe: the cost model has no curve for it" in left_out


def test_older_tables_fill_in_and_newer_ones_do_not(measured: Measurements) -> None:
    (sums,) = [table for table in measured.tables if table.kind is TableKind.ALL_REDUCE]
    assert sums.name.endswith("vllm 0.22.0")


def test_versions_are_in_the_order_of_their_making() -> None:
    assert newest(["0.9.0", "0.24.0", "0.3.1"]) == "0.24.0"
    assert newest(["1.3.0rc9", "1.3.0rc20"]) == "1.3.0rc20"
    assert newest(["1.3.0rc20", "1.3.0"]) == "1.3.0"
    assert newest(["0.5.10", "0.5.6.post2"]) == "0.5.10"


def test_the_list_has_every_table_and_its_rows(wheel: Path) -> None:
    rows = {(row.operator, row.version): row.num_rows for row in listing(wheel)}
    assert rows["gemm", "0.24.0"] == 108
    assert ("comm", "0.27.0") in rows


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Wanted("l4", "vllm", "0.24.0"), "--system: no tables of 'l4'; there are l40s"),
        (Wanted("l40s", "trtllm", "1.0"), "--backend: no tables of l40s under 'trtllm'; there are vllm"),
        (Wanted("l40s", "vllm", "0.2"), "--version: no tables of vllm 0.2 or older; there are 0.24.0"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(wheel: Path, wanted: Wanted, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(wheel, wanted)


def test_without_the_wheel_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel_files, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"is not installed: pip install 'pagecast\[tables\]'") as error:
        systems_folder()
    assert len(str(error.value).splitlines()) == 1


def test_without_pyarrow_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"is not installed: pip install 'pagecast\[tables\]'"):
        read(systems_folder(write_wheel(tmp_path)), WANTED)


def test_a_real_parquet_file_is_read_alike(tmp_path: Path, wheel: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pip install 'pagecast[tables]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "gemm.parquet"
    parquet.write_table(pyarrow.table(products()), path)
    columns = columns_of(parquet, path)
    stood_in = columns_of(StandIn, next(wheel.rglob("gemm_perf.parquet")))
    for name, column in stood_in.columns.items():
        assert np.array_equal(columns.columns[name], column), name
