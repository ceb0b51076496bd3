"""Writes results/tables.md: curves fitted to half of every GPU's measured tables, judged by the rest."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sim.cli.fit_source import Asked, gpu_of, read_source
from sim.cost.fit_rows import in_order, rows_to_fit
from sim.cost.fitting import PoorFitError, errors, fit, halves, with_curve
from sim.cost.hardware import Gpu
from sim.cost.measured_tables import KernelTable, TableKind
from sim.errors import ConfigError
from sim.tables.wheel import Listed, listing, newest, systems_folder

SEED = 0
PAGE = Path("results/tables.md")
GOALS = {
    TableKind.GEMM: 0.07,
    TableKind.DECODE_ATTENTION: 0.09,
    TableKind.PREFILL_ATTENTION: 0.08,
}
"""Largest mean absolute error (MAPE) of a held-out half that would do, for the rows that a fit looks at."""
NAMES = {
    TableKind.GEMM: "products, bf16",
    TableKind.FP8_GEMM: "products, fp8",
    TableKind.NARROW_GEMM: "products, int8 weights",
    TableKind.DECODE_ATTENTION: "decode attention",
    TableKind.PREFILL_ATTENTION: "prompt attention",
    TableKind.ALL_REDUCE: "all-reduce",
    TableKind.ELEMENTWISE: "elementwise",
}
BASES = {"b60": None}
"""Systems that the catalogue has neither a file of nor of their kin."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One table: what its held-out half says of the curve of the other half."""

    system: str
    version: str
    kind: TableKind
    num_points: int
    mape: float
    bias: float
    p90: float
    everything: float
    refused: bool

    @property
    def verdict(self) -> str:
        """Against the goal."""
        if self.kind not in GOALS:
            return ""
        return "yes" if self.mape <= GOALS[self.kind] and not self.refused else "**no**"

    @property
    def row(self) -> str:
        """In Markdown."""
        goal = f"{100 * GOALS[self.kind]:.0f} %" if self.kind in GOALS else ""
        refused = " (refused)" if self.refused else ""
        return (
            f"| {NAMES[self.kind]}{refused} | {self.num_points:,} | {100 * self.mape:.1f} % | {goal} "
            f"| {self.verdict} | {100 * self.p90:.1f} % | {100 * self.bias:+.1f} % "
            f"| {100 * self.everything:.1f} % |"
        )


def judged(table: KernelTable, gpu: Gpu, system: str, version: str) -> tuple[Judged, Gpu]:
    """Fit on a half, look at the rest; the GPU with the curve for its own."""
    fitted_on, held_out = halves(table, SEED)
    refused = False
    try:
        curve = fit(fitted_on, gpu)
    except PoorFitError as error:
        curve, refused = error.curve, True
    chosen = rows_to_fit(held_out, gpu)
    left, all_left = errors(held_out.rows(chosen.rows), gpu, curve), errors(held_out, gpu, curve)
    found = Judged(
        system=system,
        version=version,
        kind=table.kind,
        num_points=left.num_points,
        mape=left.mean,
        bias=left.bias,
        p90=left.p90,
        everything=all_left.mean,
        refused=refused,
    )
    return found, with_curve(gpu, table.kind, curve)


def versions(tables: Iterator[Listed]) -> dict[str, str]:
    """The newest version of vLLM that each system has products of."""
    found: dict[str, list[str]] = {}
    for table in tables:
        if (table.backend, table.operator) == ("vllm", "gemm"):
            found.setdefault(table.system, []).append(table.version)
    return {system: newest(of) for system, of in sorted(found.items()) if system not in BASES}


def all_judged(folder: Path) -> Iterator[Judged]:
    """Every table of every GPU under vLLM."""
    for system, version in versions(listing(folder)).items():
        asked = Asked("aiconfigurator", folder, system=system, version=version)
        for collectives in ("custom", "nccl"):
            measured, base = read_source(replace(asked, collectives=collectives))
            gpu = gpu_of(base)
            for table in in_order(measured.tables):
                if collectives == "custom" or table.kind is TableKind.ALL_REDUCE:
                    found, gpu = judged(table, gpu, system, version)
                    yield found


def page(rows: list[Judged]) -> str:
    """The whole of it."""
    with_goal = [row for row in rows if row.kind in GOALS]
    met = sum(row.verdict == "yes" for row in with_goal)
    lines = [*_INTRODUCTION, f"{met} of {len(with_goal)} rows with a goal meet it.", ""]
    for system in dict.fromkeys(row.system for row in rows):
        of = [row for row in rows if row.system == system]
        lines += [f"## {system}, vLLM {of[0].version}", "", *_HEAD, *(row.row for row in of), ""]
    return "\n".join([*lines, *_WHY])


_HEAD = (
    "| kernels | points | MAPE | goal | met | nine of ten within | bias | MAPE, all rows |",
    "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
)
_INTRODUCTION = (
    "# Curves against measured tables",
    "",
    "Made by `make tables` from `aiconfigurator-core` 0.12 (NVIDIA's measured operators; the wheel's sample",
    "of serving runs is not read). Each table of each GPU under its newest vLLM is split at random (seed",
    f"{SEED}; rows of one size stay together). A curve is fitted to one half as `pagecast fit --from` does,",
    "and judged by the other: nothing in a row was fitted to what it is judged by. The forms of the curves",
    "were chosen with an H100's older tables in sight.",
    "",
    "MAPE, nine of ten and bias (signed median) are of the rows that a fit looks at: products from 1,024",
    "wide, prompts from 512 tokens with heads of 128, decode attention with heads of 128 whose query heads",
    "share KV heads, each without what was read from the L2 cache (`sim/cost/fit_rows.py` says why). The",
    "last column is the MAPE of the whole half, rows outside of that included. All-reduce is there twice:",
    "vLLM's own in CUDA graphs, then NCCL's.",
    "",
)
_WHY = (
    "## What misses, and why",
    "",
    "- Decode attention with FlashAttention 2 (A100, L40S, RTX PRO 6000): launches that the form has no term",
    "  for. With grouped heads and more than one sequence a step takes longer from the first token on (A100,",
    "  32 heads on 8: 12.5 us for one sequence, 18.7 for two); from 256 tokens of context on it takes some 4",
    "  us more, as a second kernel that combines parts would. The misses are short steps: from half a",
    "  million tokens x KV heads on the error is below 9 %.",
    "- Products on an A100: from 128 to 2,048 rows times go up by whole tiles and waves, which a smooth form",
    "  goes through the middle of.",
    "- Products on an L40S and a GB200: long ones take longer a FLOP than shorter ones, as if the clock went",
    "  down; the curve is 8 and 30 % short at 32,768 rows.",
    "- Products in fp8 (no goal): activations are quantised within the measured time, by a second kernel.",
    "- All rows: narrow products, short prompts, heads of 64, 192 and 256, and above all what was read from",
    "  L2, at up to twice the bandwidth of memory on an L40S. Serving finds no weights and contexts there.",
    "",
)


def main() -> None:
    """Compose the page."""
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    try:
        rows = list(all_judged(systems_folder(given)))
    except ConfigError as error:
        sys.exit(str(error))
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
