"""Measuring a device: how long steps take over a grid, deciding over batch sizes, and moves over blocks.

    grid     decoding sequences  x  new tokens of a prompt chunk  x  context       target, draft model if any
             verifying sequences x  drafts and one               x  context       where there is a draft model
    rounds   the whole grid, again and again, in an order of its own each time; the first round is thrown
             away, and of each visit the first step: steps that follow each other are alike, and find
             caches warm

Steps are hand-made plans, carried out by the very executor that replays; so what is measured is what a
replay pays. Rounds in different orders turn a slow drift of the machine into spread, which is reported,
instead of error, which would not be; and each time is divided by how slow a yardstick was around it,
where there is one. Owns the grid and the statistics. Refuses to predict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gpu_backend.engine import DeviceBody, TimedCore
from gpu_backend.executor import TorchExecutor
from gpu_backend.replay import Replayer
from gpu_backend.stopwatch import Stopwatch
from gpu_backend.yardstick import Yardstick
from sim.core.engine import EngineConfig, EngineCore
from sim.core.group import GroupSchedulerConfig
from sim.core.kv_cache import CacheConfig
from sim.core.request import Request
from sim.core.request import Sequence as EngineSequence
from sim.core.step import BlockCopy, ScheduledSequence, ScheduleKind, StepPlan, StepResult
from sim.cost.calibration import COPY, SCHEDULE, SWAP, Curve, DeviceCalibration
from sim.cost.measured import Calibration
from sim.crosscheck.parts import StepParts
from sim.driver import Timeline
from workloads.spec import Workload

Point = tuple[str, int, int, int]
"""What is measured: role, sequences, new tokens, context."""
NUM_REPEATS = 2
"""Steps of a visit that count."""
NUM_AROUND = 4
"""Yardsticks before and after a visit that say how fast the machine was."""
OnPoint = Callable[[int, int], None]
"""Told how many points are measured, of how many."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where to measure; each axis ascends.

    Attributes:
        num_seqs, num_new, contexts: Of steps; contexts are those of the longest sequence where `pads`.
        pads: Whether the device's attention takes as long as if all sequences were as long as the longest.
        num_blocks: Of moves.
        num_rounds: That count; one more comes before them.
    """

    num_seqs: tuple[int, ...]
    num_new: tuple[int, ...]
    contexts: tuple[int, ...]
    num_blocks: tuple[int, ...]
    num_rounds: int
    pads: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """Mean and spread of one time, over rounds.

    The mean, because what a replay pays is the mean: on a noisy machine the median is less.

    Attributes:
        spread_us: Half the distance between the quartiles.
    """

    time_us: float
    spread_us: float

    @classmethod
    def of(cls, times_ns: Sequence[float]) -> Measured:
        """Of one time for each round."""
        low, high = np.percentile(np.array(times_ns) / 1e3, (25, 75))
        return cls(float(np.mean(times_ns)) / 1e3, float(high - low) / 2)


def grid_for(experiment_engine: EngineConfig, *, is_quick: bool, pads: bool) -> Grid:
    """A grid that covers what an engine can be asked to do."""
    scheduler = experiment_engine.scheduler
    most_new, longest = scheduler.max_num_batched_tokens, scheduler.max_model_len
    few = {min(count, scheduler.max_num_seqs) for count in (1, 2, 3, 4)}  # products of few rows go by steps
    if is_quick:
        seqs, new = _powers(scheduler.max_num_seqs, 4), _powers(most_new, 8)
        seqs = tuple(
            sorted({*seqs, min(2, scheduler.max_num_seqs)})
        )  # products of one row are of another kind
        return Grid((0, *sorted({*seqs, *few})), (0, *new[1:]), _contexts(longest, 4), (1, 8, 64), 2, pads)
    seqs, new = _powers(scheduler.max_num_seqs, 2), _powers(most_new, 4)
    return Grid(
        (0, *sorted({*seqs, *few})), (0, *new[1:]), _contexts(longest, 2), (1, 4, 16, 64, 256), 3, pads
    )


def _powers(largest: int, factor: int) -> tuple[int, ...]:
    """1, factor, factor squared, ... and the largest."""
    values, value = [], 1
    while value < largest:
        values.append(value)
        value *= factor
    if len(values) > 1 and values[-1] * 1.5 > largest:
        values.pop()
    return (*values, largest)


def _contexts(longest: int, factor: int) -> tuple[int, ...]:
    """From a sixteenth block on to the longest context there can be, a token short of it."""
    blocks = _powers(max(longest // 16, 1), factor)[:-1]
    return (*(16 * value for value in blocks), longest - 1)


class Calibrator:
    """One experiment's models on one device."""

    def __init__(self, replayer: Replayer, grid: Grid, *, num_drafts: int = 0, seed: int = 0) -> None:
        self.grid = grid
        self._num_drafts = num_drafts
        self._bench = _Bench(replayer, grid)
        self.yardstick = None if replayer.place.is_cuda else Yardstick(replayer.models.target)
        self._random = np.random.default_rng(seed)

    def steps(self, on_point: OnPoint | None = None) -> dict[Point, Measured]:
        """Times of all steps; roles are those of `steps.csv`."""
        points = list(self._points())
        times: dict[Point, list[tuple[int, float]]] = {}
        num_done, num_all = 0, len(points) * (self.grid.num_rounds + 1)
        for number in range(self.grid.num_rounds + 1):
            for place in self._random.permutation(len(points)).tolist():
                visit = self._visit(points[place], 1 + NUM_REPEATS if number else 1)
                if number:
                    for key, time_ns in visit:
                        times.setdefault(key, []).append((num_done, time_ns))
                num_done += 1
                if on_point is not None:
                    on_point(num_done, num_all)
        slowness = self._slowness()
        even = {key: [taken / slowness[when] for when, taken in found] for key, found in times.items()}
        return self._as_passes({key: Measured.of(found) for key, found in even.items()})

    def _visit(self, point: Point, num_steps: int) -> list[tuple[Point, float]]:
        """Some steps of one point, without the first, behind a look at how fast the machine is just now."""
        if self.yardstick is not None:
            self.yardstick.measure()
        taken = [list(self._measured(point)) for _ in range(num_steps)]
        return [pair for step in taken[1:] for pair in step]

    def _slowness(self) -> NDArray[np.float64]:
        """How slow the machine was at each visit, by the yardsticks around it.  # [num_visits], mean 1."""
        if self.yardstick is None:
            return np.ones(len(list(self._points())) * (self.grid.num_rounds + 1))
        times = np.array(self.yardstick.times_ns, dtype=float)
        padded = np.pad(times, NUM_AROUND, mode="edge")
        smooth = np.convolve(padded, np.ones(2 * NUM_AROUND + 1), mode="valid") / (2 * NUM_AROUND + 1)
        first_counted = len(times) // (self.grid.num_rounds + 1)
        return np.asarray(smooth / times[first_counted:].mean())

    def _points(self) -> Iterator[Point]:
        grid, drafts = self.grid, self._num_drafts
        for context in grid.contexts:
            for seqs in grid.num_seqs:
                for new in grid.num_new:
                    yield "step", seqs, new, context
                if drafts and seqs:
                    for tokens in sorted({2, drafts + 1}):
                        yield "verify", seqs, tokens, context

    def _measured(self, point: Point) -> Iterator[tuple[Point, float]]:
        kind, seqs, new, context = point
        if kind == "verify":
            parts = self._bench.verify(seqs, new - 1, context)
            yield ("verify", seqs, new, context), parts.model_ns
            return
        parts = self._bench.step(seqs, new, context, self._num_drafts)
        yield ("target", seqs, new, context), parts.model_ns
        if self._num_drafts:
            yield ("draft", seqs, new, context), parts.draft_ns

    def _as_passes(self, times: dict[Point, Measured]) -> dict[Point, Measured]:
        """Proposing K drafts takes K passes; what stays of a step's draft time is its first pass."""
        passes = dict(times)
        for (role, seqs, new, context), measured in times.items():
            if role != "draft" or not seqs:
                continue
            each_us = times["draft", seqs, 0, context].time_us / self._num_drafts
            first_us = measured.time_us - (self._num_drafts - 1) * each_us
            passes[role, seqs, new, context] = Measured(max(first_us, 1e-3), measured.spread_us)
        return passes

    def others(self) -> dict[tuple[str, int], Measured]:
        """Times by (what, amount): deciding by sequences, moves by blocks."""
        found = {}
        for seqs in self.grid.num_seqs[1:]:
            found[SCHEDULE, seqs] = self._bench.schedule(seqs, self.grid.num_rounds)
        for what in (COPY, SWAP):
            for blocks in self.grid.num_blocks:
                measured = self._bench.moves(what, blocks, self.grid.num_rounds)
                if measured is not None:
                    found[what, blocks] = measured
        return found


class _Bench:
    """An executor that is given hand-made steps."""

    def __init__(self, replayer: Replayer, grid: Grid) -> None:
        self._pads = grid.pads
        self._config = replayer.config
        self._longest = self._config.scheduler.max_model_len
        count = max(grid.num_seqs) + 2 * -(-max(grid.num_new) // self._longest) + 1
        dummy = Workload(
            "calibration",
            np.zeros(count, dtype=np.int64),
            np.full(count, self._longest),
            np.ones(count, dtype=np.int64),
        )
        body: DeviceBody = replayer.body(dummy)
        core = body.core(self._config)
        assert isinstance(core, TimedCore), "made by the body"
        body.executor(core, Timeline(0))
        self._executor: TorchExecutor = body.executors[0]
        self._num_blocks = core.num_blocks
        cache = self._config.cache
        assert isinstance(cache, CacheConfig), "checked by the replayer"
        self._block_size = cache.block_size
        for storage in self._executor.storages:
            for layer in storage.caches:  # nothing is ever read that was not written, but for this
                layer.key.zero_()
                layer.value.zero_()

    @property
    def _device(self) -> torch.device:
        return self._executor.target.model.device

    # Steps ----------------------------------------------------------------------------------------

    def step(self, num_seqs: int, num_new: int, context: int, num_drafts: int) -> StepParts:
        """Sequences that decode, and `num_new` tokens of prompts, all behind such a context.

        No chunk is longer than half the longest context, so more tokens are several chunks.
        """
        rows = [
            self._row(number, length, 1, num_seqs)
            for number, length in enumerate(self._spread(num_seqs, context))
        ]
        most = max(self._longest // 2, 1)
        for place in range(-(-num_new // most)):
            count = min(num_new - place * most, most)
            start = min(context, self._longest - 1 - count)
            rows.append(self._row(num_seqs + place, max(start, 0), count, num_seqs, is_chunk=True))
        return self._carried_out(rows, num_drafts)

    def verify(self, num_seqs: int, num_drafts: int, context: int) -> StepParts:
        """Sequences that verify drafts, which a decoding step before it proposed."""
        lengths = self._spread(num_seqs, min(context, self._longest - num_drafts - 2))
        rows = [self._row(number, length, 1, num_seqs) for number, length in enumerate(lengths)]
        self._carried_out(rows, num_drafts)
        drafted = [
            row._replace(
                num_tokens=1 + num_drafts,
                num_computed_tokens=row.num_computed_tokens + 1,
                num_draft_tokens=num_drafts,
            )
            for row in rows
        ]
        return self._carried_out(drafted, num_drafts, keeps_texts=True)

    def _spread(self, num_seqs: int, context: int) -> list[int]:
        """Contexts as requests in different states have them: around a mean, or up to a longest."""
        if self._pads:
            return [max(context * (place + 1) // num_seqs, 1) for place in range(num_seqs)]
        half = min(context // 2, self._longest - 1 - context)
        return np.linspace(context - half, context + half, num_seqs).astype(int).tolist() if num_seqs else []

    def _row(
        self, number: int, context: int, num_tokens: int, num_seqs: int, *, is_chunk: bool = False
    ) -> ScheduledSequence:
        room = self._longest + 1
        seq = EngineSequence(number, Request(number, 0, context + num_tokens, room), 0, 2 * room)
        num_blocks = -(-(context + num_tokens + 2 * self._num_ahead) // self._block_size)
        seq.table = [
            1 + (place * (num_seqs + 1) + number) % (self._num_blocks - 1) for place in range(num_blocks)
        ]
        return ScheduledSequence(seq, num_tokens, context, [], 0, ScheduleKind.RUNNING, not is_chunk)

    @property
    def _num_ahead(self) -> int:
        return self._config.scheduler.num_lookahead_slots + 1

    def _carried_out(
        self, rows: list[ScheduledSequence], num_drafts: int, *, keeps_texts: bool = False
    ) -> StepParts:
        executor = self._executor
        if not keeps_texts:
            for row in rows:
                name, end = (int(row.seq.seq_id), 0), row.num_computed_tokens + row.num_tokens
                executor.texts.begin(name, end)
                if executor.drafter is not None:
                    executor.drafter.take_as_read(name, end if row.yields_token else row.num_computed_tokens)
        executor.fixed_num_drafts = num_drafts
        chunks = tuple(row for row in rows if not row.is_decode)
        decodes = [row for row in rows if row.is_decode]
        executor.execute(
            StepPlan(
                step=0,
                horizon=1,
                num_decode_seqs=len(decodes),
                decode_context_tokens=sum(row.num_computed_tokens + 1 for row in decodes),
                chunks=chunks,
                preempted=(),
                num_running=len(rows),
                rows=tuple(rows),
                num_steady_seqs=0,
            )
        )
        return executor.parts.pop()

    # Others ---------------------------------------------------------------------------------------

    def schedule(self, num_seqs: int, num_rounds: int) -> Measured:
        """Deciding a step of so many decoding sequences, by the real brain."""
        times: list[float] = []
        for number in range(num_rounds + 1):
            core = TimedCore(self._config, None, by_thread=self._device.type != "cuda")
            found = _decided_ns(core, num_seqs)
            if number:
                times.append(found)
        return Measured.of(times)

    def moves(self, what: str, num_blocks: int, num_rounds: int) -> Measured | None:
        """Copying blocks, or swapping them out and in; None where the pools are too small for it."""
        storages = self._executor.storages
        num_host = storages[0].num_host_blocks
        if (what == SWAP and num_host < num_blocks) or self._num_blocks < 2 * num_blocks + 1:
            return None
        device = [1 + number for number in range(num_blocks)]
        there = tuple(BlockCopy(block, block - 1) for block in device)
        back = tuple(BlockCopy(move.dst, move.src) for move in there)
        copies = tuple(BlockCopy(block, num_blocks + block) for block in device)
        empty = StepPlan(0, 1, 0, 0, (), (), 0, (), 0)
        plans = (
            (empty._replace(blocks_to_copy=copies),)
            if what == COPY
            else (empty._replace(blocks_to_swap_out=there), empty._replace(blocks_to_swap_in=back))
        )
        watch = Stopwatch(self._device)
        times: list[float] = []
        with torch.inference_mode():
            for number in range(2 * num_rounds + 1):
                watch.restart()
                for plan in plans:
                    for storage in storages:
                        storage.apply(plan)
                taken_ns = watch.lap_ns() / len(plans)
                if number:
                    times.append(taken_ns)
        return Measured.of(times)


_NUM_DECIDED_STEPS = 24


def _decided_ns(core: EngineCore, num_seqs: int) -> float:
    """Mean time to decide a step once all of them decode."""
    assert isinstance(core, TimedCore), "made here"
    scheduler = core.config.scheduler
    prompt = max(min(8, scheduler.max_model_len - _NUM_DECIDED_STEPS - 4), 1)
    for number in range(num_seqs):
        core.submit(Request(number, 0, prompt, _NUM_DECIDED_STEPS + 64))
    settled = 0
    while settled < _NUM_DECIDED_STEPS:
        plan = core.begin_step(0)
        if plan is None:
            break
        core.finish_step(plan, StepResult([1]))
        if not plan.chunks:
            settled += 1
        else:
            core.take_spent_ns()
    return core.take_spent_ns() / max(settled, 1)


def calibration_of(
    about: Mapping[str, Any],
    steps: Mapping[Point, Measured],
    others: Mapping[tuple[str, int], Measured],
) -> DeviceCalibration:
    """A calibration as it stands, before it is written."""
    grids = {role: _grid_of(role, steps) for role in ("target", "verify", "draft")}
    curves: dict[str, list[tuple[float, float]]] = {}
    for (what, amount), measured in others.items():
        curves.setdefault(what, []).append((amount, measured.time_us * 1e3))
    target = grids["target"]
    assert target is not None, "every calibration measures the target"
    return DeviceCalibration(
        about,
        target,
        grids["verify"],
        grids["draft"],
        {what: Curve(*np.array(sorted(points)).T) for what, points in curves.items()},
    )


def _grid_of(role: str, steps: Mapping[Point, Measured]) -> Calibration | None:
    points = {point[1:]: measured.time_us * 1e3 for point, measured in steps.items() if point[0] == role}
    if not points:
        return None
    seqs, new, contexts = (
        np.array(sorted({point[axis] for point in points}), dtype=float) for axis in range(3)
    )
    times = [[[points[int(a), int(b), int(c)] for c in contexts] for b in new] for a in seqs]
    return Calibration((seqs, new, contexts), np.array(times))


def table_of_steps(fusion: str, steps: Mapping[Point, Measured]) -> list[tuple[Any, ...]]:
    """Rows of `steps.csv`."""
    return [
        (role, fusion, seqs, new, context, round(found.time_us, 3), round(found.spread_us, 3))
        for (role, seqs, new, context), found in sorted(steps.items())
    ]


def swaps(config: EngineConfig) -> bool:
    """Whether an engine moves blocks to the host."""
    scheduler, cache = config.scheduler, config.cache
    has_host = isinstance(scheduler, GroupSchedulerConfig) and scheduler.num_host_blocks > 0
    return has_host or (isinstance(cache, CacheConfig) and cache.num_offload_blocks > 0)
