"""What a run rests on, as a reader sees it."""

from __future__ import annotations

from rich.console import Group

from sim.cost.hardware import Figure, Source
from sim.metrics.basis import Basis, Part
from sim.report.basis import basis_tables
from tests.report.test_tables import text_of

FIGURES = (
    Figure("memory", "80 GiB", Source.DATASHEET),
    Figure("step_overhead", "1.5 ms", Source.ASSUMED),
    Figure("curves.gemm", "median error 4.0 %", Source.MEASURED),
)
KNOWN = Part(
    "gemm", 0.123, 0.164, "nine of ten of 4,704 measured times; a_table_with_a_very_long_name.csv: n, k"
)
UNKNOWN = Part("host", None, None, "step_overhead")


def shown(basis: Basis, width: int = 80) -> list[str]:
    return text_of(Group(*basis_tables(basis)), width).splitlines()


def test_each_part_has_its_range_or_is_called_unknown() -> None:
    lines = shown(Basis(FIGURES, (KNOWN, UNKNOWN)))
    (gemm,) = [line for line in lines if "gemm" in line]
    (host,) = [line for line in lines if "host" in line]
    assert gemm.split()[:5] == ["gemm", "-12.3", "%", "+16.4", "%"]
    assert host.split()[:3] == ["host", "unknown", "unknown"]
    assert any("--confidence" in line for line in lines)


def test_nothing_known_is_unknown_and_not_zero() -> None:
    text = " ".join(" ".join(shown(Basis(FIGURES, (UNKNOWN,)))).split())
    assert "how far step times are off is unknown, not zero" in text
    assert "--confidence" not in text
    assert "0.0 %" not in text


def test_the_band_stands_in_three_columns() -> None:
    band = {"median_ttft_ms": (17.8, 20.4, 24.4), "sim_slo_attainment": (1.0, 0.97, None)}
    lines = shown(Basis(FIGURES, (KNOWN,), band))
    (ttft,) = [line for line in lines if "TTFT" in line]
    (goals,) = [line for line in lines if "goals" in line]
    assert ttft.split() == ["TTFT", "median", "(ms)", "17.80", "20.40", "24.40"]
    assert goals.split()[-5:] == ["100.0", "%", "97.0", "%", "-"]
    assert not any("twice more" in line for line in lines)


def test_what_is_unknown_may_move_the_answer_further() -> None:
    band = {"median_ttft_ms": (17.8, 20.4, 24.4)}
    words = "they may move the answer further"
    assert words in " ".join(" ".join(shown(Basis(FIGURES, (KNOWN, UNKNOWN), band))).split())
    assert words not in " ".join(" ".join(shown(Basis(FIGURES, (KNOWN,), band))).split())


def test_figures_are_listed_by_source() -> None:
    lines = shown(Basis(FIGURES, (KNOWN,)))
    assert [line.split()[0] for line in lines if "80 GiB" in line or "1.5 ms" in line] == [
        "datasheet",
        "assumed",
    ]
    assert not any("curves." in line for line in lines)


def test_no_line_is_wider_than_the_terminal_and_nothing_is_cut() -> None:
    for width in (80, 120):
        lines = shown(Basis(FIGURES, (KNOWN, UNKNOWN)), width)
        assert max(map(len, lines)) <= width
        assert "…" not in "".join(lines)
