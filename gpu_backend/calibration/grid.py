"""Measuring a device: how long steps take over a grid, deciding over batch sizes, and moves over blocks.

    grid     decoding sequences  x  new tokens of a prompt chunk  x  context       target, draft model if any
             verifying sequences x  drafts and one               x  context       where there is a draft model
    rounds   the whole grid, again and again, in an order of its own each time; the first round is thrown
             away, and of each visit the first step: steps that follow each other are alike, and find
             caches warm. Steps that only decode are visited more often: most of a replay is made of them

Steps are hand-made plans, carried out by the very executor that replays; so what is measured is what a
replay pays. Rounds in different orders turn a slow drift of the machine into spread, which is reported,
instead of error, which would not be; and each time is divided by how slow a yardstick was around it,
where there is one. Owns the grid and the statistics. Refuses to predict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_backend.calibration.bench_steps import Bench, Grid, Measured
from gpu_backend.devices import pads
from gpu_backend.replay import Replayer
from gpu_backend.yardstick import Yardstick
from sim.core.engine import EngineConfig
from sim.cost.calibration import COPY, SCHEDULE, SPLIT, SWAP, DeviceCalibration, curves_of
from sim.cost.measured import grid_of

Point = tuple[str, int, int, int]
"""What is measured: role, sequences, new tokens, context."""
NUM_REPEATS = 2
"""Steps of a visit that count."""
NUM_VISITS_OF_DECODES = 3
"""In each round, of points without a chunk; others have one."""
NUM_AROUND = 4
"""Yardsticks before and after a visit that say how fast the machine was."""
OnPoint = Callable[[int, int], None]
"""Told how many points are measured, of how many."""


def grid_for(config: EngineConfig, *, is_quick: bool, pads: bool, uses_graphs: bool) -> Grid:
    """A grid that covers what an engine can be asked to do.

    Steps that only decode may be graphs; the least chunk beside them is measured where they are, since from
    there on nothing is.
    """
    scheduler = config.scheduler
    most_new, longest = scheduler.max_num_batched_tokens, scheduler.max_model_len
    few = {min(count, scheduler.max_num_seqs) for count in (1, 2, 3, 4)}  # their products are of other kinds
    num_blocks: tuple[int, ...]
    if is_quick:
        seqs, new, contexts = _powers(scheduler.max_num_seqs, 4), _powers(most_new, 8), _contexts(longest, 4)
        num_blocks, num_rounds, num_requests = (1, 8, 64), 2, 15
    else:
        seqs, new, contexts = _powers(scheduler.max_num_seqs, 2), _powers(most_new, 4), _contexts(longest, 2)
        num_blocks, num_rounds, num_requests = (1, 4, 16, 64, 256), 3, 40
    return Grid(
        num_seqs=(0, *sorted({*seqs, *few})),
        num_new=(0, *(new if uses_graphs else new[1:])),
        contexts=contexts,
        num_blocks=num_blocks,
        num_rounds=num_rounds,
        num_requests=num_requests,
        pads=pads,
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
    """None, as a prompt's first chunk has; some blocks; and the longest there can be, a token short of it."""
    blocks = _powers(max(longest // 16, 1), factor)[:-1]
    return (0, *(16 * value for value in blocks[1:]), longest - 1)


class Calibrator:
    """One experiment's models on one device."""

    def __init__(self, replayer: Replayer, grid: Grid, *, num_drafts: int = 0, seed: int = 0) -> None:
        self.grid = grid
        self._num_drafts = num_drafts
        self._bench = Bench(replayer, grid)
        self.yardstick = None if replayer.place.is_cuda else Yardstick(replayer.models.target)
        self._random = np.random.default_rng(seed)

    @classmethod
    def of(cls, replayer: Replayer, *, is_quick: bool) -> Calibrator:
        """For all that an experiment's engine can be asked to do on its device."""
        place, speculation = replayer.place, replayer.experiment.speculation
        grid = grid_for(
            replayer.config,
            is_quick=is_quick,
            pads=pads(place.kind, place.fusion),
            uses_graphs=place.uses_graphs,
        )
        return cls(replayer, grid, num_drafts=speculation.how_many.most if speculation is not None else 0)

    def steps(self, on_point: OnPoint | None = None) -> dict[Point, Measured]:
        """Times of all steps; roles are those of `steps.csv`."""
        visits = [point for point in self._points() for _ in range(_num_visits(point))]
        times: dict[Point, list[tuple[int, float]]] = {}
        num_done, num_all = 0, len(visits) * (self.grid.num_rounds + 1)
        for number in range(self.grid.num_rounds + 1):
            for place in self._random.permutation(len(visits)).tolist():
                visit = self._visit(visits[place], 1 + NUM_REPEATS if number else 1)
                if number:
                    for key, time_ns in visit:
                        times.setdefault(key, []).append((num_done, time_ns))
                num_done += 1
                if on_point is not None:
                    on_point(num_done, num_all)
        slowness = self._slowness(num_all)
        even = {key: [taken / slowness[when] for when, taken in found] for key, found in times.items()}
        return self._as_passes({key: Measured.of(found) for key, found in even.items()})

    def carry_out_all(self) -> None:
        """Every step once, and moves of a block; nothing is measured."""
        for point in self._points():
            list(self._measured(point))
        for what in (COPY, SWAP):
            self._bench.moves(what, 1, 1)
        self.release()

    def release(self) -> None:
        """Give the memory back; nothing can be measured afterwards."""
        self._bench.release()

    def _visit(self, point: Point, num_steps: int) -> list[tuple[Point, float]]:
        """Some steps of one point, without the first, behind a look at how fast the machine is just now."""
        if self.yardstick is not None:
            self.yardstick.measure()
        taken = [list(self._measured(point)) for _ in range(num_steps)]
        return [pair for step in taken[1:] for pair in step]

    def _slowness(self, num_visits: int) -> NDArray[np.float64]:
        """How slow the machine was at each visit, by the yardsticks around it.  # [num_visits], mean 1."""
        if self.yardstick is None:
            return np.ones(num_visits)
        times = self.yardstick.relative()
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

    def others(self, on_point: OnPoint | None = None) -> dict[tuple[str, int], Measured]:
        """Times by (what, amount): deciding by sequences, moves by blocks, more than one chunk by chunks."""
        rounds, bench = self.grid.num_rounds, self._bench
        found: dict[tuple[str, int], Measured] = {}
        moves = [(what, blocks) for what in (COPY, SWAP) for blocks in self.grid.num_blocks]
        num_all = len(self.grid.num_seqs) - 1 + len(moves) + 1
        for num_done, seqs in enumerate(self.grid.num_seqs[1:], 1):
            found[SCHEDULE, seqs] = bench.schedule(seqs, rounds)
            if on_point is not None:
                on_point(num_done, num_all)
        for num_done, (what, blocks) in enumerate(moves, len(found) + 1):
            measured = bench.moves(what, blocks, rounds)
            if measured is not None:
                found[what, blocks] = measured
            if on_point is not None:
                on_point(num_done, num_all)
        found |= {(SPLIT, count): measured for count, measured in bench.splits(rounds).items()}
        return found


def _num_visits(point: Point) -> int:
    kind, seqs, new, _ = point
    return NUM_VISITS_OF_DECODES if kind == "step" and seqs and not new else 1


def calibration_of(
    about: Mapping[str, Any],
    steps: Mapping[Point, Measured],
    others: Mapping[tuple[str, int], Measured],
    *,
    pads: bool,
) -> DeviceCalibration:
    """A calibration as it stands, before it is written."""
    grids = {
        role: grid_of({point[1:]: found.time_us for point, found in steps.items() if point[0] == role})
        for role in ("target", "verify", "draft")
    }
    target = grids["target"]
    assert target is not None, "every calibration measures the target"
    curves = curves_of({place: found.time_us for place, found in others.items()})
    return DeviceCalibration(about, target, grids["verify"], grids["draft"], curves, pads)


def table_of_steps(fusion: str, steps: Mapping[Point, Measured]) -> list[tuple[Any, ...]]:
    """Rows of `steps.csv`."""
    return [
        (role, fusion, seqs, new, context, round(found.time_us, 3), round(found.spread_us, 3))
        for (role, seqs, new, context), found in sorted(steps.items())
    ]
