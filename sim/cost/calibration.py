"""A calibration: what one device took for steps, for deciding and for moving blocks; a folder of three files.

    calibration.json   the device, versions, date, model, and how repeatable the times were
    steps.csv          model_role, fusion, num_decode_seqs, num_new_tokens, context_tokens, step_us, spread_us
    others.csv         what, amount, time_us, spread_us: schedule by running sequences; copy and swap by
                       blocks; split by prompt chunks of one step, beyond a single one of as many tokens

Roles of `steps.csv`: `target` is a step of decoding sequences and one prompt chunk; `verify` one of
`num_decode_seqs` sequences that each compute `num_new_tokens` tokens, all but one of them drafts; `draft` one
pass of the draft model. `CalibratedCost` predicts with these (`measured.py` says how); between the measured
points times are linear, and beyond them the outermost cell goes on and says so.

Refuses to measure (`gpu_backend.calibration.grid`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.core.step import ScheduledSequence, StepPlan
from sim.cost.measured import Calibration, MeasuredCost, read_calibration
from sim.errors import ConfigError, Problem
from workloads.text import parse_json, parse_number

ABOUT, STEPS, OTHERS = "calibration.json", "steps.csv", "others.csv"
STEP_COLUMNS = (
    "model_role",
    "fusion",
    "num_decode_seqs",
    "num_new_tokens",
    "context_tokens",
    "step_us",
    "spread_us",
)
OTHER_COLUMNS = ("what", "amount", "time_us", "spread_us")
SCHEDULE, COPY, SWAP, SPLIT = "schedule", "copy", "swap", "split"


@dataclass(frozen=True, slots=True)
class Curve:
    """A time that depends on one amount, linear between measured ones, continued beyond."""

    amounts: NDArray[np.float64]  # [n], ascending
    times_ns: NDArray[np.float64]  # [n]

    def at_ns(self, amount: float) -> float:
        """The time of an amount; none takes none."""
        if amount == 0:
            return 0.0
        if len(self.amounts) == 1:
            return float(self.times_ns[0])
        low = int(np.clip(np.searchsorted(self.amounts, amount, side="right") - 1, 0, len(self.amounts) - 2))
        (x0, x1), (y0, y1) = self.amounts[low : low + 2], self.times_ns[low : low + 2]
        return max(float(y0 + (amount - x0) * (y1 - y0) / (x1 - x0)), 0.0)


_AMOUNTS = {
    SCHEDULE: ("deciding", "sequences"),
    COPY: ("copying", "blocks"),
    SWAP: ("swapping", "blocks"),
    SPLIT: ("several prompts in a step", "chunks"),
}


class NotedCurve:
    """A curve that remembers what it was asked for beyond what was measured."""

    def __init__(self, what: str, curve: Curve) -> None:
        """Args: what: `SCHEDULE`, `COPY`, `SWAP` or `SPLIT`."""
        self._what = what
        self._curve = curve
        self._num_beyond = 0
        self._farthest = 0.0

    def at_ns(self, amount: float) -> float:
        """See `Curve`."""
        if amount > self._curve.amounts[-1]:
            self._num_beyond += 1
            self._farthest = max(self._farthest, amount)
        return self._curve.at_ns(amount)

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence if anything lay beyond."""
        if not self._num_beyond:
            return ()
        name, unit = _AMOUNTS[self._what]
        most = self._curve.amounts[-1]
        warning = (
            f"{name}: {self._num_beyond:,} times beyond the measured {most:g} {unit}, up to "
            f"{self._farthest:g}: its times continue the outermost measured points"
        )
        return (warning,)


@dataclass(frozen=True, slots=True)
class DeviceCalibration:
    """A calibration as it was read.

    Attributes:
        about: What `calibration.json` says.
        target: Steps of the target.
        verify, draft: Where there is a draft model.
        others: `SCHEDULE` by sequences, `COPY` and `SWAP` by blocks, `SPLIT` by chunks.
        pads: Whether the context of steps is the longest sequence's instead of the mean.
        fusion: The level that was measured.
    """

    about: Mapping[str, Any]
    target: Calibration
    verify: Calibration | None = None
    draft: Calibration | None = None
    others: Mapping[str, Curve] = field(default_factory=dict)
    pads: bool = False
    fusion: str = ""

    def slowed(self, factor: float) -> DeviceCalibration:
        """What it would have been on a machine that takes `factor` times as long for everything."""
        if factor == 1.0:
            return self
        return replace(
            self,
            target=self.target.slowed(factor),
            verify=None if self.verify is None else self.verify.slowed(factor),
            draft=None if self.draft is None else self.draft.slowed(factor),
            others={
                what: Curve(curve.amounts, curve.times_ns * factor) for what, curve in self.others.items()
            },
        )

    @property
    def name(self) -> str:
        """For people: the device and the day."""
        return f"{self.about['device']}, {self.about['date'][:10]}"


def read_device_calibration(folder: Path, fusion: str) -> DeviceCalibration:
    """A calibration's folder, at one level of fusion.

    Raises:
        ConfigError: A file is missing or wrong, or that level was not measured.
    """
    about = read_about(folder / ABOUT)
    if fusion not in about["fusions"]:
        message = f"was measured with fusion {', '.join(about['fusions'])}, not {fusion}: calibrate again"
        raise ConfigError([Problem(str(folder / ABOUT), "fusions", message)])
    steps = folder / STEPS
    drafts = about["draft"] is not None
    return DeviceCalibration(
        about,
        read_calibration(steps, model_role="target", fusion=fusion),
        read_calibration(steps, model_role="verify", fusion=fusion) if drafts else None,
        read_calibration(steps, model_role="draft", fusion=fusion) if drafts else None,
        _read_others(folder / OTHERS),
        bool(about.get("pads", {}).get(fusion)),
        fusion,
    )


def read_about(path: Path) -> dict[str, Any]:
    """What a calibration says of itself.

    Raises:
        ConfigError: The file is missing, or is none.
    """
    try:
        about = parse_json(path.read_text(encoding="utf-8"))
        if not {"device", "date", "fusions", "draft", "model"} <= set(about):
            raise ValueError("it lacks what a calibration says of itself")
    except FileNotFoundError:
        message = "is not there: pagecast calibrate makes a calibration"
        raise ConfigError([Problem(str(path), "", message)]) from None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError([Problem(str(path), "", f"is no calibration: {error}")]) from None
    return dict(about)


def _read_others(path: Path) -> dict[str, Curve]:
    times_us: dict[tuple[str, float], float] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                times_us[row["what"], parse_number(row["amount"])] = parse_number(row["time_us"])
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise ConfigError([Problem(str(path), "", f"is no table of a calibration: {error}")]) from None
    return curves_of(times_us)


def curves_of(times_us: Mapping[tuple[str, float], float]) -> dict[str, Curve]:
    """A curve for each of what was measured, by (what, amount)."""
    points: dict[str, list[tuple[float, float]]] = {}
    for (what, amount), time_us in times_us.items():
        points.setdefault(what, []).append((amount, time_us * 1e3))
    return {what: Curve(*np.array(sorted(found)).T) for what, found in points.items()}


def dump_table(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """A table as the text of a CSV file."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return file.getvalue()


class CalibratedCost:
    """Step times of the target by a calibration, time to decide included; a `CostModel`."""

    def __init__(self, calibration: DeviceCalibration, factor: float = 1.0) -> None:
        """Args: factor: How much slower the machine is than it was then."""
        calibration = calibration.slowed(factor)
        self._target = MeasuredCost(calibration.target)
        self._verify = MeasuredCost(calibration.verify) if calibration.verify is not None else None
        self._schedule, self._split = (
            NotedCurve(what, calibration.others[what]) if what in calibration.others else None
            for what in (SCHEDULE, SPLIT)
        )
        self._pads = calibration.pads
        self._base_ns = float(calibration.target.times_ns[0, 0, 0])

    def step_ends_ns(self, plan: StepPlan) -> list[int]:  # [horizon]
        """End of each step of a plan, counted from its start."""
        decide_ns = self.schedule_ns(plan)
        ends = self.model_ends_ns(plan)
        return [end + decide_ns * number for number, end in enumerate(ends, 1)] if decide_ns else ends

    def schedule_ns(self, plan: StepPlan) -> int:
        """Time to decide one step of a plan."""
        return round(self._schedule.at_ns(plan.num_running)) if self._schedule is not None else 0

    def model_ends_ns(self, plan: StepPlan) -> list[int]:  # [horizon]
        """The same without the time to decide."""
        drafted = [row for row in plan.chunks if row.num_draft_tokens]
        if self._verify is None or not drafted:
            return self._step_ends_ns(plan)
        verify_ns = self._verify.time_ns(*_verifying(drafted, pads=self._pads))
        rest = plan._replace(chunks=tuple(row for row in plan.chunks if not row.num_draft_tokens))
        if not rest.num_decode_seqs and not rest.chunks:
            return [max(round(verify_ns), 1)]
        beside_ns = max(self._step_ends_ns(rest)[0] - self._base_ns, 0)
        return [max(round(verify_ns + beside_ns), 1)]

    def _step_ends_ns(self, plan: StepPlan) -> list[int]:
        """Of steps without drafts; plans that name their sequences say which is the longest."""
        decoding = [row.num_computed_tokens for row in plan.rows if row.is_decode] if self._pads else []
        if not decoding or plan.num_steady_seqs:
            ends = self._target.step_ends_ns(plan)
        else:
            ends = self._target.ends_ns(plan, np.array([max(decoding)], dtype=float))
        if self._split is None or len(plan.chunks) < 2:
            return ends
        return [ends[0] + round(self._split.at_ns(len(plan.chunks)))]  # chunks: there is one step

    @property
    def warnings(self) -> tuple[str, ...]:
        """What lay outside what was measured, a sentence each."""
        verify = self._verify.warnings if self._verify is not None else ()
        curves = [curve for curve in (self._schedule, self._split) if curve is not None]
        return (
            *self._target.warnings,
            *(f"verifying: {warning}" for warning in verify),
            *(warning for curve in curves for warning in curve.warnings),
        )


def _verifying(rows: list[ScheduledSequence], *, pads: bool) -> tuple[float, float, float]:
    """A place in the grid of `verify`: sequences, mean tokens of each, mean (or longest) context."""
    count = len(rows)
    tokens = sum(row.num_tokens for row in rows)
    contexts = [row.num_computed_tokens for row in rows]
    return count, tokens / count, max(contexts) if pads else sum(contexts) / count


class CalibratedMoves:
    """Times of moving blocks by a calibration; a `MoveTimes`."""

    def __init__(self, others: Mapping[str, Curve]) -> None:
        self._swap, self._copy = (NotedCurve(what, others[what]) for what in (SWAP, COPY))

    def host_ns(self, num_blocks: int) -> int:
        """Moving so many blocks to the host or back."""
        return round(self._swap.at_ns(num_blocks))

    def device_ns(self, num_blocks: int) -> int:
        """Copying so many blocks within the device's memory."""
        return round(self._copy.at_ns(num_blocks))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What lay beyond what was measured, a sentence each."""
        return (*self._swap.warnings, *self._copy.warnings)


def guesses_of(target: object, draft: object = None, moves: object = None) -> tuple[str, ...]:
    """What calibrated step times and moves had to guess; others guess nothing."""
    found = []
    for prefix, times in (("", target), ("draft model: ", draft), ("", moves)):
        if isinstance(times, CalibratedCost | CalibratedMoves):
            found += [prefix + warning for warning in times.warnings]
    return tuple(found)
