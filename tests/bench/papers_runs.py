"""One run behind a row of the page of published numbers: which file, which changes, and what came of it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim.config import load_experiment
from sim.metrics.occupancy import measure_occupancy
from sim.metrics.waste import SlotShares, slot_shares
from sim.record.run_record import RunRecord
from sim.simulation import simulate

REPO = Path(__file__).resolve().parents[2]
PAPERS = REPO / "configs" / "papers"
_SETTLED_FRACTION = 0.2
"""Of the span of arrivals that is left out, while queues fill."""
_NS = 1e9


@dataclass(frozen=True, slots=True)
class Run:
    """One experiment of `configs/papers/`, with changes."""

    config: str
    changes: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What to type to see it."""
        changes = "".join(f" --set {shlex.quote(change)}" for change in self.changes)
        return f"pagecast simulate configs/papers/{self.config}.yaml{changes}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to, from the time when its queues had filled until the last arrival.

    Attributes:
        mean_batched: Running sequences, each step once.
        completed_per_s: Requests that ended.
        saved_fraction: Blocks saved by sharing, of those held without; over the whole run.
        normalized_latency_ms: Mean over requests of end-to-end latency over output length.
    """

    shares: SlotShares
    mean_batched: float
    completed_per_s: float
    saved_fraction: float
    normalized_latency_ms: float
    num_preemptions: int
    tpot_ms: float
    """Mean over requests; whatever is drafted takes part in it."""
    e2el_ms: float
    acceptance_length: float
    """Tokens of a verified round; 1 where nothing is drafted."""
    drafts_per_run: float


def execute(run: Run) -> Outcome:
    """Simulate, and take the figures."""
    record = simulate(load_experiment(PAPERS / f"{run.config}.yaml", run.changes))
    last_ns = int(record.requests["arrival"].astype(np.int64).max())
    first_ns = int(_SETTLED_FRACTION * last_ns)
    if not last_ns:  # a closed loop: every request arrives when another ends
        last_ns = int(record.requests["finished"].astype(np.int64).max())
    shares = slot_shares(record, start_ns=first_ns, end_ns=last_ns)
    assert shares is not None, "steps fill the run"
    ends = record.steps["end"].astype(np.int64)
    inside = (ends > first_ns) & (ends <= last_ns)
    finished = record.requests["finished"].astype(np.int64)
    num_completed = int(((finished > first_ns) & (finished <= last_ns)).sum())
    return Outcome(
        shares=shares,
        mean_batched=float(record.steps["num_running"][inside].mean()),
        completed_per_s=num_completed * _NS / (last_ns - first_ns),
        saved_fraction=measure_occupancy(record).shared_fraction or 0.0,
        normalized_latency_ms=_normalized_latency_ms(record),
        num_preemptions=record.counters["preemptions"],
        tpot_ms=_tpot_ms(record),
        e2el_ms=float((finished - record.requests["arrival"].astype(np.int64)).mean() / 1e6),
        acceptance_length=1 + _per_run(record, "accepted_tokens") - _per_run(record, "runs_ended_by_draft"),
        drafts_per_run=_per_run(record, "drafted_tokens"),
    )


def _per_run(record: RunRecord, counter: str) -> float:
    runs = record.counters["draft_runs"]
    return record.counters[counter] / runs if runs else 0.0


def _tpot_ms(record: RunRecord) -> float:
    requests = record.requests
    tokens = requests["longest_sample_tokens"]
    spans = (requests["last_token"] - requests["first_token"]).astype(np.float64)
    return float((spans / np.maximum(tokens - 1, 1))[tokens > 1].mean() / 1e6)


def _normalized_latency_ms(record: RunRecord) -> float:
    requests = record.requests
    tokens = requests["longest_sample_tokens"]
    latency_ns = (requests["finished"] - requests["arrival"]).astype(np.float64)
    return float((latency_ns / np.maximum(tokens, 1))[tokens > 0].mean() / 1e6)


@dataclass(frozen=True, slots=True)
class Row:
    """One published number beside ours."""

    what: str
    paper: float
    ours: float
    unit: str
    tolerance: float | None = None
    """In the unit of the row's difference; None: shown, not judged."""
    is_relative: bool = False
    """Whether the difference is a fraction of the paper's number."""

    @property
    def difference(self) -> float:
        """Ours less the paper's; in points, or as a fraction."""
        return self.ours / self.paper - 1 if self.is_relative else self.ours - self.paper

    @property
    def is_within(self) -> bool:
        """Whether it is as near as it should be."""
        return self.tolerance is None or abs(self.difference) <= self.tolerance

    def line(self) -> str:
        """The row as Markdown."""
        if self.is_relative:
            difference, limit = f"{self.difference:+.1%}", f"{self.tolerance or 0:.0%}"
        else:
            difference, limit = f"{self.difference:+.2f}", f"{self.tolerance or 0:g}"
        verdict = "not judged" if self.tolerance is None else f"within {limit}"
        if not self.is_within:
            verdict = f"**NOT within {limit}**"
        cells = (
            self.what,
            f"{self.paper:g} {self.unit}",
            f"{self.ours:.2f} {self.unit}",
            difference,
            verdict,
        )
        return f"| {' | '.join(cell.strip() for cell in cells)} |"


@dataclass(frozen=True, slots=True)
class Range:
    """A published range beside ours."""

    what: str
    low: float
    high: float
    ours: float

    @property
    def is_within(self) -> bool:
        """Whether ours lies in it."""
        return self.low <= self.ours <= self.high

    def line(self) -> str:
        """The row as Markdown."""
        verdict = "within" if self.is_within else "**NOT within**"
        return f"| {self.what} | {self.low:g} to {self.high:g} x | {self.ours:.2f} x | | {verdict} |"


def commands(runs: Sequence[Run]) -> list[str]:
    """What to type to see each of some runs, for the page."""
    typed = dict.fromkeys(f"    {run.command}" for run in runs)
    return ["Runs:" if len(typed) > 1 else "Run:", "", *typed, ""]


HEADER = ("| | paper | ours | difference | |", "| --- | ---: | ---: | ---: | --- |")


def table(rows: list[Row | Range]) -> list[str]:
    """A Markdown table."""
    return [*HEADER, *(row.line() for row in rows), ""]
