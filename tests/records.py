"""Run records made by hand, for tests of what is computed from them: no simulator needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.record.run_record import COUNTERS, REQUEST_COLUMNS, STEP_COLUMNS, RunRecord

MS = 1_000_000
S = 1_000_000_000
NEVER = None


@dataclass(frozen=True)
class Served:
    """One request: when it came, and the token times of each of its samples, in milliseconds."""

    arrival_ms: float
    scheduled_ms: float | None
    samples_ms: tuple[tuple[float, ...], ...]
    prompt_tokens: int = 10
    reason: str = "length"
    finished_ms: float | None = None
    requeue_ms: float = 0.0
    num_preemptions: int = 0
    prefix_hit_tokens: int = 0
    replica: int = 0


@dataclass(frozen=True)
class StepRow:
    """One engine step, in milliseconds."""

    start_ms: float
    end_ms: float
    num_decode_seqs: int = 1
    num_prefill_seqs: int = 0
    num_prefill_tokens: int = 0
    num_running: int = 1
    num_waiting: int = 0
    used_blocks: int = 0
    filled_slots: int = 0
    reserved_slots: int = 0
    drafting_ms: float = 0
    num_preempted: int = 0
    replica: int = 0


def times_ns(values_ms: Sequence[float | None]) -> NDArray[np.timedelta64]:
    """Milliseconds to columns of time; None is never."""
    return np.array(
        [round(ms * MS) if ms is not None else "NaT" for ms in values_ms], dtype="timedelta64[ns]"
    )


NOTHING = ("saved_blocks", "num_swapped_out_blocks", "num_swapped_in_blocks", "num_copied_blocks")


def make_record(
    requests: Sequence[Served],
    steps: Sequence[StepRow] = (),
    *,
    num_blocks: int = 100,
    num_replicas: int = 1,
    counters: Mapping[str, int] | None = None,
) -> RunRecord:
    """A checked record of these requests and steps, with blocks of four slots."""
    streams = [sample for request in requests for sample in request.samples_ms]
    owners = [row for row, request in enumerate(requests) for _ in request.samples_ms]
    tokens = [round(ms * MS) for sample in streams for ms in sample]
    return RunRecord(
        requests=_typed(_request_columns(requests), REQUEST_COLUMNS),
        steps=_typed(_step_columns(steps), STEP_COLUMNS),
        token_offsets=np.cumsum([0, *map(len, streams)], dtype=np.int64),
        token_times=np.array(tokens, dtype=np.int64),
        stream_request=np.array(owners, dtype=np.int64),
        num_blocks=num_blocks,
        block_size=4,
        num_replicas=num_replicas,
        counters=dict.fromkeys(COUNTERS, 0) | dict(counters or {}),
        cpu_s=0.5,
    ).check()


def _typed(columns: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    return {name: np.asarray(columns[name], dtype=column.dtype) for name, column in schema.items()}


def _request_columns(requests: Sequence[Served]) -> dict[str, Any]:
    firsts = [min((sample[0] for sample in r.samples_ms if sample), default=NEVER) for r in requests]
    lasts = [max((sample[-1] for sample in r.samples_ms if sample), default=NEVER) for r in requests]
    ends = [last if r.finished_ms is None else r.finished_ms for r, last in zip(requests, lasts, strict=True)]
    return {
        "request_id": range(len(requests)),
        "replica": [r.replica for r in requests],
        "arrival": times_ns([r.arrival_ms for r in requests]),
        "first_scheduled": times_ns([r.scheduled_ms for r in requests]),
        "first_token": times_ns(firsts),
        "last_token": times_ns(lasts),
        "finished": times_ns(ends),
        "requeue": times_ns([r.requeue_ms for r in requests]),
        "prompt_tokens": [r.prompt_tokens for r in requests],
        "output_tokens": [sum(map(len, r.samples_ms)) for r in requests],
        "longest_sample_tokens": [max(map(len, r.samples_ms), default=0) for r in requests],
        "num_samples": [max(1, len(r.samples_ms)) for r in requests],
        "priority": [0 for _ in requests],
        "num_preemptions": [r.num_preemptions for r in requests],
        "prefix_hit_tokens": [r.prefix_hit_tokens for r in requests],
        "finish_reason": np.array([r.reason for r in requests], dtype="U16"),
    }


def _step_columns(steps: Sequence[StepRow]) -> dict[str, Any]:
    return {
        "replica": [step.replica for step in steps],
        "step": range(len(steps)),
        "start": times_ns([step.start_ms for step in steps]),
        "end": times_ns([step.end_ms for step in steps]),
        "num_decode_seqs": [step.num_decode_seqs for step in steps],
        "decode_context_tokens": [0 for _ in steps],
        "num_prefill_seqs": [step.num_prefill_seqs for step in steps],
        "num_prefill_tokens": [step.num_prefill_tokens for step in steps],
        "num_running": [step.num_running for step in steps],
        "num_waiting": [step.num_waiting for step in steps],
        "used_blocks": [step.used_blocks for step in steps],
        "filled_slots": [step.filled_slots for step in steps],
        "drafting": times_ns([step.drafting_ms for step in steps]),
        "reserved_slots": [step.reserved_slots for step in steps],
        "num_preempted": [step.num_preempted for step in steps],
        **{name: [0 for _ in steps] for name in NOTHING},
    }


@dataclass
class _Live:
    prompt_tokens: int
    output_tokens: int
    arrival_ms: float
    scheduled_ms: float
    tokens_ms: list[float]


def toy_run(num_requests: int, rate_per_s: float, *, seed: int = 0, max_running: int = 24) -> RunRecord:
    """A plausible run: Poisson arrivals into a toy engine that admits one prompt a step."""
    generator = np.random.default_rng(seed)
    arrivals_ms = np.cumsum(generator.exponential(1000 / rate_per_s, num_requests))
    prompts = generator.lognormal(6.2, 0.8, num_requests).astype(int) + 1
    outputs = generator.lognormal(4.2, 0.7, num_requests).astype(int) + 1
    served: dict[int, _Live] = {}
    running: dict[int, _Live] = {}
    steps: list[StepRow] = []
    now, waiting = 0.0, list(range(num_requests))
    while waiting or running:
        if not running and waiting and arrivals_ms[waiting[0]] > now:
            now = float(arrivals_ms[waiting[0]])
        arrived = int(np.searchsorted(arrivals_ms, now, side="right")) - (num_requests - len(waiting))
        newcomer = waiting.pop(0) if arrived > 0 and len(running) < max_running else None
        if newcomer is not None:
            running[newcomer] = _Live(
                int(prompts[newcomer]), int(outputs[newcomer]), float(arrivals_ms[newcomer]), now, []
            )
        prefill = running[newcomer].prompt_tokens if newcomer is not None else 0
        end = now + 12 + 0.08 * len(running) + 0.03 * prefill
        filled = sum(live.prompt_tokens + len(live.tokens_ms) for live in running.values())
        steps.append(
            StepRow(
                start_ms=now,
                end_ms=end,
                num_decode_seqs=len(running) - (newcomer is not None),
                num_prefill_seqs=int(newcomer is not None),
                num_prefill_tokens=prefill,
                num_running=len(running),
                num_waiting=max(0, arrived - (newcomer is not None)),
                used_blocks=sum(
                    (live.prompt_tokens + len(live.tokens_ms)) // 4 + 1 for live in running.values()
                ),
                filled_slots=filled,
            )
        )
        now = end
        for name, live in list(running.items()):
            live.tokens_ms.append(now)
            if len(live.tokens_ms) == live.output_tokens:
                served[name] = running.pop(name)
    rows = [
        Served(live.arrival_ms, live.scheduled_ms, (tuple(live.tokens_ms),), live.prompt_tokens)
        for _, live in sorted(served.items())
    ]
    return make_record(rows, steps, num_blocks=12_000)
