"""Speculative decoding: Leviathan et al. 2023, Chen et al. 2023, and vLLM's findings in serving (2024)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from sim.report.canvas import BLUE, GREEN, GREY, ORANGE, RED, Canvas
from sim.speculation.theory import expected_tokens, operations_factor, walltime_improvement
from tests.bench.papers_runs import Outcome, Range, Row, Run, commands, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVIATHAN, CHEN, SERVING = "leviathan", "chinchilla_speculation", "speculation_serving"
TABLE_1 = (
    (0.6, 2, 1.53, 1.96),
    (0.7, 3, 1.58, 2.53),
    (0.8, 2, 1.23, 2.44),
    (0.8, 5, 1.63, 3.69),
    (0.9, 2, 1.11, 2.71),
    (0.9, 10, 1.60, 6.86),
)
"""Rate, drafts, operations factor, speed; drafts are free (c = 0)."""
TABLE_2 = (
    ("En-De small, T 0", 7, 0.75, 0.02, 3.2),
    ("En-De base, T 0", 7, 0.80, 0.04, 3.3),
    ("En-De large, T 0", 7, 0.82, 0.11, 2.5),
    ("En-De small, T 1", 7, 0.62, 0.02, 2.3),
    ("En-De base, T 1", 5, 0.68, 0.04, 2.4),
    ("En-De large, T 1", 3, 0.71, 0.11, 2.0),
    ("CNN/DM small, T 0", 5, 0.65, 0.02, 2.4),
    ("CNN/DM base, T 0", 5, 0.73, 0.04, 2.6),
    ("CNN/DM large, T 0", 3, 0.74, 0.11, 2.0),
    ("CNN/DM small, T 1", 5, 0.53, 0.02, 1.9),
    ("CNN/DM base, T 1", 3, 0.55, 0.04, 1.8),
    ("CNN/DM large, T 1", 3, 0.56, 0.11, 1.6),
)
"""Task, drafts, rate, cost of a draft, expected speed (Tables 2 and 4)."""
GRID = [
    (rate, drafts, cost) for rate in (0.5, 0.7, 0.9) for drafts in (1, 3, 5, 10) for cost in (0.0, 0.05, 0.2)
]
CHEN_ROWS = (("XSum, nucleus", 0.711, 7.52), ("XSum, greedy", 0.749, 7.00), ("HumanEval", 0.851, 5.73))
PLAIN_MS = 14.1
RATES = (0.7, 0.5, 0.9)
DRAFTS = tuple(range(1, 9))
QPS = (1, 4, 8, 16, 24, 32, 40, 48, 64)

_ON_GRID = (
    "Over a grid of {count} points (rate 0.5, 0.7, 0.9; drafts 1, 3, 5, 10; cost 0, 0.05, 0.2) the "
    "simulated tokens per round, walltime improvement and operations factor are at most {worst} from the "
    "closed forms. Table 1, whose drafts are free:"
)
_ON_CHEN = (
    "Time per token in ms, with the paper's step times (14.1 and 1.8 ms) and the rates that its tokens "
    "per loop come to; so the rows show that the loop is modelled, not that acceptance is predicted."
)
_ON_SERVING = (
    "Llama-3-70B on 4 x H100, a 0.5B draft, ShareGPT lengths. vLLM found up to 1.5 times as fast at 1 "
    "request/s, and 1.4 and 1.8 times as slow at a high rate (1 / 1.4 = 0.71, 1 / 1.8 = 0.56). The "
    "draft's passes are given 2.5 ms each beside their work, an assumption. That engine verified by "
    "expanding its batch, so that a context was read once more for each draft; here it is read once, and "
    "what slows down under load is computing. Mean end-to-end latency "
    "without over with speculation, at a rate of 0.7 (in the picture also 0.5 and 0.9); below 1 it is "
    "slower:"
)
_ON_SERVING_RUNS = (
    "Without and with 4 drafts at 16 req/s; in the other columns rate and number of requests differ (150 "
    "and 15 for each request a second), in the other rows the drafts."
)


def leviathan(rate: float, drafts: int, cost: float) -> Run:
    """One sequence with this rate, number and cost of drafts; the target's step takes 100 ms."""
    acceptance = f"acceptance: {{kind: constant, rate: {rate}}}"
    count = f"num_speculative_tokens: {drafts}"
    if cost == 0:
        return Run(LEVIATHAN, (f"speculation={{proposer: ngram, {count}, {acceptance}}}",))
    draft = f"draft_model: qwen3-0.6b, {count}, {acceptance}"
    times = f"step_time={{target: 100 ms, draft: {100 * cost:g} ms}}"
    return Run(LEVIATHAN, (f"speculation={{{draft}}}", times))


def chen(rate: float) -> Run:
    """Chinchilla with this rate."""
    return Run(CHEN, (f"speculation.acceptance.rate={rate}",))


def serving(qps: float, drafts: int | None, rate: float = 0.7) -> Run:
    """Llama-3-70B at this request rate, with so many drafts or without any."""
    load = (
        f"workload.arrivals={{kind: poisson, rate: {qps} /s}}",
        f"workload.num_requests={150 + 15 * int(qps)}",
    )
    if drafts is None:
        return Run(SERVING, ("speculation=null", *load))
    changes = (f"speculation.num_speculative_tokens={drafts}", f"speculation.acceptance.rate={rate}")
    return Run(SERVING, (*changes, *load))


def runs() -> list[Run]:
    """Everything the section needs."""
    wanted = [leviathan(*point) for point in GRID]
    wanted += [leviathan(rate, drafts, 0.0) for rate, drafts, _, _ in TABLE_1]
    wanted += [chen(rate) for _, rate, _ in CHEN_ROWS]
    wanted += [serving(qps, None) for qps in QPS]
    return wanted + [serving(qps, drafts, rate) for qps in QPS for drafts in DRAFTS for rate in RATES]


def section(outcomes: Mapping[Run, Outcome]) -> list[str]:
    """The section as Markdown."""
    worst = max(abs(row.difference) for row in grid(outcomes) if isinstance(row, Row))
    return [
        "## Speculative decoding",
        "",
        "### Leviathan et al. (2023): closed forms, and the simulator",
        "",
        _ON_GRID.format(count=len(GRID), worst=f"{worst:.2%}"),
        "",
        *table(table_1(outcomes)),
        *commands([leviathan(rate, drafts, 0.0) for rate, drafts, _, _ in TABLE_1]),
        "A point of the grid whose drafts cost something: a rate of 0.7, 3 drafts, a cost of 0.05.",
        "",
        *commands([leviathan(0.7, 3, 0.05)]),
        "Tables 2 and 4, the expected speed, by the closed form alone:",
        "",
        *table(table_2()),
        "### Chen et al. (2023): Chinchilla 70B with a 4B draft",
        "",
        _ON_CHEN,
        "",
        *table(chen_rows(outcomes)),
        *commands([chen(rate) for _, rate, _ in CHEN_ROWS]),
        "![Half the time](papers_chinchilla.svg)",
        "",
        "### In serving: faster at a low request rate, slower at a high one",
        "",
        _ON_SERVING,
        "",
        *serving_table(outcomes),
        _ON_SERVING_RUNS,
        "",
        *commands([serving(16, None), serving(16, 4)]),
        "![Speed-up over request rate](papers_speculation_serving.svg)",
        "",
    ]


def grid(outcomes: Mapping[Run, Outcome]) -> list[Row | Range]:
    """Tokens of a round, walltime and operations at each point, closed form against simulation."""
    rows: list[Row | Range] = []
    for rate, drafts, cost in GRID:
        found = outcomes[leviathan(rate, drafts, cost)]
        length, where = found.acceptance_length, f"{rate}, {drafts}, {cost}"
        operations = (found.drafts_per_run * (cost + 1) + 1) / length
        for what, closed, ours in (
            ("tokens", expected_tokens(rate, drafts), length),
            ("speed", walltime_improvement(rate, drafts, cost), 100 / found.tpot_ms),
            ("operations", operations_factor(rate, drafts, cost), operations),
        ):
            rows.append(Row(f"{what} at {where}", closed, ours, "", 0.01, is_relative=True))
    return rows


def table_1(outcomes: Mapping[Run, Outcome]) -> list[Row | Range]:
    """Operations and speed with free drafts."""
    rows: list[Row | Range] = []
    for rate, drafts, operations, speed in TABLE_1:
        found, where = outcomes[leviathan(rate, drafts, 0.0)], f"rate {rate}, {drafts} drafts"
        ours = (found.drafts_per_run + 1) / found.acceptance_length
        rows.append(Row(f"{where}: operations", operations, ours, "x", 0.01, is_relative=True))
        rows.append(Row(f"{where}: speed", speed, 100 / found.tpot_ms, "x", 0.01, is_relative=True))
    return rows


def table_2() -> list[Row | Range]:
    """Expected speed of real drafts."""
    return [
        Row(f"{task}, {drafts} drafts", speed, walltime_improvement(rate, drafts, cost), "x", 0.07)
        for task, drafts, rate, cost, speed in TABLE_2
    ]


def chen_rows(outcomes: Mapping[Run, Outcome]) -> list[Row | Range]:
    """Milliseconds per token."""
    return [
        Row(task, published, outcomes[chen(rate)].tpot_ms, "ms", 0.03, is_relative=True)
        for task, rate, published in CHEN_ROWS
    ]


def speed_up(outcomes: Mapping[Run, Outcome], qps: float, drafts: int, rate: float) -> float:
    """Mean latency without over with speculation."""
    return outcomes[serving(qps, None)].e2el_ms / outcomes[serving(qps, drafts, rate)].e2el_ms


def serving_table(outcomes: Mapping[Run, Outcome]) -> list[str]:
    """Speed-up by drafts and request rate."""
    lines = [
        "| drafts | " + " | ".join(f"{qps} req/s" for qps in QPS) + " |",
        "| --- |" + " ---: |" * len(QPS),
    ]
    for drafts in DRAFTS:
        found = (f"{speed_up(outcomes, qps, drafts, 0.7):.2f}" for qps in QPS)
        lines.append(f"| {drafts} | " + " | ".join(found) + " |")
    return [*lines, ""]


# The pictures -----------------------------------------------------------------------------------------


def pictures(outcomes: Mapping[Run, Outcome]) -> dict[str, Callable[[], Figure]]:
    """What to draw, by name."""
    return {
        "chinchilla": lambda: _draw_chinchilla(outcomes),
        "speculation_serving": lambda: _draw_serving(outcomes),
    }


def _draw_chinchilla(outcomes: Mapping[Run, Outcome]) -> Figure:
    canvas = Canvas(1, 1, height=3.2, title="Chinchilla 70B, a 4B draft, 4 drafts a run: about half the time")
    (axes,) = canvas.axes
    rows: list[tuple[str, float, float | None]] = [("plain decoding", PLAIN_MS, None)]
    rows += [(task, outcomes[chen(rate)].tpot_ms, published) for task, rate, published in CHEN_ROWS]
    for place, (_, ours, published) in enumerate(reversed(rows)):
        axes.barh(place, ours, height=0.55, color=GREY if published is None else BLUE)
        text = f"{ours:.2f} ms" + (
            f", {PLAIN_MS / ours:.2f} x (paper {published:.2f} ms)" if published else ""
        )
        axes.text(ours + 0.15, place, text, va="center")
        if published is not None:
            axes.plot([published, published], [place - 0.38, place + 0.38], color=RED, lw=2)
    axes.axvline(PLAIN_MS / 2, color=GREY, ls=":", lw=1.2)
    axes.text(PLAIN_MS / 2, len(rows) - 0.45, "half", ha="center", color=GREY)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in reversed(rows)])
    axes.set_xlim(0, 18)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("Time per token (ms); red: the paper")
    return canvas.figure


def _draw_serving(outcomes: Mapping[Run, Outcome]) -> Figure:
    canvas = Canvas(1, 3, height=4.2, title="Speculation in serving: Llama-3-70B on 4 x H100, 0.5B draft")
    colours = {1: GREEN, 2: BLUE, 4: ORANGE, 8: RED}
    for axes, rate in zip(canvas.axes, sorted(RATES), strict=True):
        for drafts in DRAFTS:
            found = [speed_up(outcomes, qps, drafts, rate) for qps in QPS]
            is_named = drafts in colours
            colour = colours.get(drafts, "#C8C8C8")
            name = f"K = {drafts}" if is_named else "3, 5, 6, 7" if drafts == 3 else None
            width, layer = (1.8, 3) if is_named else (0.9, 2)
            axes.plot(QPS, found, color=colour, lw=width, zorder=layer, label=name)
            crossing = crossover(found)
            if crossing is not None and is_named:
                axes.plot([crossing], [1], marker="o", markersize=5, color=colour, zorder=4)
        axes.axhline(1, color="#404040", lw=1)
        axes.set_ylim(0, 2.5)
        axes.set_xlabel("Request rate (1/s)")
        axes.set_title(f"Acceptance rate {rate}", fontsize=10, loc="left")
    canvas.axes[0].set_ylabel("Speed-up of mean latency; dots: where it turns")
    canvas.axes[-1].legend(frameon=False, fontsize=8.5, loc="upper right")
    return canvas.figure


def crossover(found: list[float]) -> float | None:
    """The request rate where a speed-up falls through 1, by linear interpolation."""
    for place in range(len(found) - 1):
        if found[place] >= 1 > found[place + 1]:
            return float(np.interp(1, [found[place + 1], found[place]], [QPS[place + 1], QPS[place]]))
    return None
