"""Runs side by side: which of their settings differ, and what that did to the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sim.metric_keys import definition_of
from sim.metrics import Number
from sim.results import Run

HEADLINES = (
    "completed",
    "failed",
    "duration",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "median_ttft_ms",
    "p99_ttft_ms",
    "median_tpot_ms",
    "p99_tpot_ms",
    "median_e2el_ms",
    "p99_e2el_ms",
    "sim_slo_attainment",
    "sim_mean_batch_size",
    "sim_mean_kv_usage_fraction",
    "sim_preemptions",
    "sim_prefix_hit_rate",
)
"""What is worth a column; the rest is in the runs' own summaries."""
_MISSING = "not set"


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting in which the runs differ."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One number of all runs."""

    key: str
    values: tuple[Number, ...]

    def difference(self, place: int) -> float | None:
        """How much run `place` has more than the first one."""
        first, other = self.values[0], self.values[place]
        return None if first is None or other is None else other - first

    def ratio(self, place: int) -> float | None:
        """Run `place` over the first one; None where that is undefined."""
        first, other = self.values[0], self.values[place]
        return None if not first or other is None else other / first


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two or more runs side by side; the first is what the others are measured against."""

    names: tuple[str, ...]
    settings: tuple[Setting, ...]
    rows: tuple[Row, ...]


def compare_runs(runs: Sequence[tuple[str, Run]]) -> Comparison:
    """Compare named runs.

    Raises:
        ValueError: Fewer than two runs.
    """
    if len(runs) < 2:
        raise ValueError(f"a comparison needs at least two runs, not {len(runs)}")
    configs = [flatten(run.config) for _, run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    settings = [Setting(key, tuple(str(config.get(key, _MISSING)) for config in configs)) for key in keys]
    summaries = [run.summary.values for _, run in runs]
    rows = [Row(key, tuple(values.get(key) for values in summaries)) for key in HEADLINES]
    return Comparison(
        names=tuple(name for name, _ in runs),
        settings=tuple(setting for setting in settings if len(set(setting.values)) > 1),
        rows=tuple(row for row in rows if any(value is not None for value in row.values)),
    )


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def title_of(key: str) -> str:
    """A headline's name with its statistic and unit, for people."""
    metric = definition_of(key)
    if metric is None:
        return key
    statistic = key.removeprefix("sim_").partition("_")[0] if key.endswith("_ms") else ""
    unit = f" ({metric.unit})" if metric.unit and metric.unit != "fraction" else ""
    return f"{metric.title} {statistic}".strip() + unit
