"""Runs side by side: which of their settings differ, and what that did to the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sim.metrics.summary import Number
from sim.results.run_folder import Run

_MISSING = "not set"
_NAMES = ("name", "results.dir")
"""Settings that say what a run is called, not what it does."""
_WORKLOAD = ("workload.", "seed")


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
    """Every number that at least one run has, in the order of a summary."""
    notes: tuple[str, ...]
    """What to know before trusting the differences."""

    def row(self, key: str) -> Row | None:
        """The numbers of all runs for one key."""
        return next((row for row in self.rows if row.key == key), None)


def compare_runs(runs: Sequence[tuple[str, Run]]) -> Comparison:
    """Compare named runs.

    Raises:
        ValueError: Fewer than two runs.
    """
    if len(runs) < 2:
        raise ValueError(f"a comparison needs at least two runs, not {len(runs)}")
    settings = differing_settings([run.config for _, run in runs])
    summaries = [run.summary.values for _, run in runs]
    keys = dict.fromkeys(key for values in summaries for key in values)
    rows = [Row(key, tuple(values.get(key) for values in summaries)) for key in keys]
    return Comparison(
        names=tuple(name for name, _ in runs),
        settings=settings,
        rows=tuple(row for row in rows if any(value is not None for value in row.values)),
        notes=(*_workload_note(settings), *_notes_of_runs([run for _, run in runs])),
    )


def differing_settings(configs: Sequence[Mapping[str, Any]]) -> tuple[Setting, ...]:
    """The settings in which configurations differ, in the order of the files; names do not count."""
    flat = [flatten(config) for config in configs]
    keys = dict.fromkeys(key for config in flat for key in config if key not in _NAMES)
    settings = (Setting(key, tuple(str(config.get(key, _MISSING)) for config in flat)) for key in keys)
    return tuple(setting for setting in settings if len(set(setting.values)) > 1)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _workload_note(settings: Sequence[Setting]) -> Iterator[str]:
    keys = [setting.key for setting in settings if setting.key.startswith(_WORKLOAD)]
    if keys:
        yield f"The runs did not serve the same requests ({', '.join(keys)} differ)."


def _notes_of_runs(runs: Sequence[Run]) -> Iterator[str]:
    """What each run's own summary warns of; once if all say the same."""
    spoken: dict[str, list[int]] = {}
    for place, run in enumerate(runs, 1):
        for note in run.summary.notes:
            spoken.setdefault(note, []).append(place)
    for note, places in spoken.items():
        yield note if len(places) == len(runs) else f"{' '.join(f'[{p}]' for p in places)} {note}"
