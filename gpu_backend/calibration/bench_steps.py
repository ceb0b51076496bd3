"""`Bench`: hand-made steps, decisions and moves, carried out by the very executor that replays, and timed.

Owns how a step of so many sequences, new tokens and context is made up: block tables that alternate,
contexts as requests in different states have them, texts of the right length. Refuses to know what is
done with the times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gpu_backend.engine import DeviceBody, TimedCore
from gpu_backend.executor import TorchExecutor
from gpu_backend.replay import Replayer
from gpu_backend.stopwatch import Stopwatch
from sim.core.engine import EngineCore
from sim.core.kv_cache import CacheConfig
from sim.core.request import Request
from sim.core.request import Sequence as EngineSequence
from sim.core.step import BlockCopy, ScheduledSequence, ScheduleKind, StepPlan, StepResult
from sim.cost.calibration import COPY, SWAP
from sim.crosscheck.parts import StepParts
from sim.fleet.driver import Timeline
from workloads.spec import Workload


@dataclass(frozen=True, slots=True)
class Grid:
    """Where to measure; each axis ascends.

    Attributes:
        num_seqs, num_new, contexts: Of steps; contexts are those of the longest sequence where `pads`.
        pads: Whether the device's attention takes as long as if all sequences were as long as the longest.
        num_blocks: Of moves.
        num_rounds: That count; one more comes before them.
        num_requests: Of the calibrator's own, which are served last (`in_situ.py`).
    """

    num_seqs: tuple[int, ...]
    num_new: tuple[int, ...]
    contexts: tuple[int, ...]
    num_blocks: tuple[int, ...]
    num_rounds: int
    num_requests: int
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


class Bench:
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

    def release(self) -> None:
        """Give the memory of keys, values and graphs back; no step can follow."""
        self._executor.release()

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

    def splits(self, num_rounds: int) -> dict[int, Measured]:
        """What several prompt chunks of a step take beyond one of as many tokens, by how many they are.

        They differ in length, as the end of one prompt and the beginning of the next do.
        """
        scheduler = self._config.scheduler
        num_tokens = min(_SPLIT_TOKENS, scheduler.max_num_batched_tokens, self._longest // 2)
        counts = [count for count in _SPLITS if count <= min(scheduler.max_num_seqs, num_tokens // count)]
        times: dict[int, list[float]] = {count: [] for count in (1, *counts)}
        for number in range(_STEPS_OF_A_SPLIT * num_rounds + 1):
            for count, taken in times.items():
                rows = [
                    self._row(place, self._longest // 4, length, count, is_chunk=True)
                    for place, length in enumerate(_unequal(num_tokens, count))
                ]
                model_ns = self._carried_out(rows, 0).model_ns
                if number:
                    taken.append(model_ns)
        alone = Measured.of(times[1])
        extra = {1: Measured(0.0, 0.0)}
        for count in counts:
            found = Measured.of(times[count])
            beyond_us = max(found.time_us - alone.time_us, 0.0)
            extra[count] = Measured(beyond_us, found.spread_us + alone.spread_us)
        return extra

    def verify(self, num_seqs: int, num_drafts: int, context: int) -> StepParts:
        """Sequences that verify drafts, which a decoding step before it proposed."""
        most = self._longest - num_drafts - 2
        lengths = [min(length, most) for length in self._spread(num_seqs, min(context, most))]
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
        most = self._longest + self._config.scheduler.num_lookahead_slots  # no table is ever longer
        num_blocks = -(-min(context + num_tokens + 2 * self._num_ahead, most) // self._block_size)
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
_SPLIT_TOKENS = 64
_SPLITS = (2, 4)
"""Chunks whose time beyond a single one's is measured."""
_STEPS_OF_A_SPLIT = 6


def _unequal(total: int, count: int) -> list[int]:
    """Parts of a whole, each longer than the one before it where there is room."""
    shares = [max(total * part // sum(range(count + 1)), 1) for part in range(1, count)]
    return [*shares, total - sum(shares)]


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
