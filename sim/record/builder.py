"""Expands a `Recorder`'s logs into a `RunRecord`: steps become times, plans become steps, runs become tokens.

Everything is vectorised; nothing here is part of the simulation.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.core.engine import EngineCore
from sim.core.step import DraftRun
from sim.record.recorder import (
    FINISH_REASONS,
    PLAN_FIELDS,
    PREEMPTION_FIELDS,
    SEQUENCE_FIELDS,
    Recorder,
    ReplicaLog,
)
from sim.record.run_record import TIME, RunRecord

Ints = NDArray[np.int64]
Table = dict[str, Ints]
_REASON_NAMES = np.array([reason.value for reason in FINISH_REASONS], dtype="U16")
_TOKENS_AT_ONCE = 1_000_000
_LAST = np.iinfo(np.int64).max


def build_record(recorder: Recorder, cores: list[EngineCore], cpu_s: float) -> RunRecord:
    """The record of a run that is over."""
    clocks = [_Clock(log) for log in recorder.replicas]
    step_base = np.cumsum([0, *[len(clock.end_ns) for clock in clocks]])[:-1]
    start_ns = np.concatenate([clock.start_ns for clock in clocks])
    end_ns = np.concatenate([clock.end_ns for clock in clocks])
    sequences = _sorted_sequences(recorder, step_base)
    tokens = _Tokens(sequences, end_ns)
    requeue_ns, num_preemptions = _requeue(recorder, sequences, start_ns)
    waiting = _num_waiting(recorder, sequences, start_ns, clocks)
    steps = [_steps(replica, clock, waiting[replica]) for replica, clock in enumerate(clocks)]
    requests = _requests(sequences, tokens, start_ns, requeue_ns, num_preemptions)
    return RunRecord(
        requests=requests,
        steps=_merge_steps(steps),
        token_offsets=tokens.offsets,
        token_times=tokens.times_ns,
        stream_request=np.cumsum(_starts_request(sequences)) - 1,
        num_blocks=cores[0].num_blocks,
        block_size=cores[0].config.cache.block_size,
        num_replicas=len(cores),
        counters=_counters(cores, recorder, requests),
        cpu_s=cpu_s,
    ).check()


def _table(log: array[int], fields: tuple[str, ...]) -> Table:
    columns = np.frombuffer(log, dtype=np.int64).reshape(-1, len(fields)) if len(log) else None
    if columns is None:
        return {name: np.zeros(0, dtype=np.int64) for name in fields}
    return {name: columns[:, place].copy() for place, name in enumerate(fields)}


def _ints(log: array[int], dtype: type = np.int64) -> NDArray[Any]:
    return np.array(log, dtype=dtype)


def _time(ns: Ints, never: NDArray[np.bool_] | None = None) -> NDArray[Any]:
    times = ns.astype(TIME)
    if never is not None:
        times[never] = np.timedelta64("NaT")
    return times


class _Clock:
    """Start and end of every step of one replica, and its plans expanded to steps."""

    def __init__(self, log: ReplicaLog) -> None:
        self.plans = _table(log.plans, PLAN_FIELDS)
        self.num_steps = self.plans["num_steps"]
        first_step = np.cumsum(self.num_steps) - self.num_steps
        self.ahead = np.arange(self.num_steps.sum()) - np.repeat(first_step, self.num_steps)
        """How many steps of its plan came before each step."""
        start_ns = self.each_step("start_ns")
        self.end_ns: Ints = start_ns + _ints(log.step_ends_ns)
        self.start_ns: Ints = np.where(self.ahead == 0, start_ns, np.roll(self.end_ns, 1))
        self.used_blocks = _ints(log.used_blocks, np.int32)

    def each_step(self, name: str) -> Ints:
        """A plan's value for each of its steps."""
        return np.repeat(self.plans[name], self.num_steps)


def _sorted_sequences(recorder: Recorder, step_base: Ints) -> Table:
    """Sequences by (request, sample); engine steps counted through all replicas; runs in the same order."""
    table = _table(recorder.sequences, SEQUENCE_FIELDS)
    order = np.lexsort((table["sample"], table["request_id"]))
    num_runs = table["num_runs"]
    first_run = np.cumsum(num_runs) - num_runs
    table["row"] = np.empty(len(order), dtype=np.int64)
    sequences = {name: column[order] for name, column in table.items()}
    sequences["row"] = order
    base = step_base[sequences["replica"]]
    sequences["base"] = base
    sequences["first_scheduled_step"] = sequences["first_scheduled_step"] + base
    runs = _table(recorder.runs, ("first_step", "num_steps", "tokens_per_step"))
    picked = _spread(first_run[order], num_runs[order])
    sequences["run_first_step"] = runs["first_step"][picked] + np.repeat(base, num_runs[order])
    sequences["run_num_steps"] = runs["num_steps"][picked]
    sequences["run_tokens_per_step"] = runs["tokens_per_step"][picked]
    return sequences


def _spread(starts: Ints, counts: Ints) -> Ints:
    """`start, start + 1, ...` (`count` of them) for each pair, one after the other."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - counts), counts) + np.arange(total)


class _Tokens:
    """When each token of each stream came out."""

    def __init__(self, sequences: Table, end_ns: Ints) -> None:
        self.offsets: Ints = np.concatenate([[0], np.cumsum(sequences["output_tokens"])]).astype(np.int64)
        self.times_ns: Ints = np.empty(self.offsets[-1], dtype=np.int64)
        first_step, num_steps = sequences["run_first_step"], sequences["run_num_steps"]
        tokens_per_step = sequences["run_tokens_per_step"]
        run_stop = np.cumsum(num_steps * tokens_per_step)
        first, token = 0, 0
        while first < len(run_stop):
            # Some runs at a time: indices of all tokens at once would take several times their memory.
            last = max(int(np.searchsorted(run_stop, token + _TOKENS_AT_ONCE, side="right")), first + 1)
            some = slice(first, last)
            times_ns = end_ns[_spread(first_step[some], num_steps[some])]
            repeats = np.repeat(tokens_per_step[some], num_steps[some])
            self.times_ns[token : run_stop[last - 1]] = np.repeat(times_ns, repeats)
            first, token = last, int(run_stop[last - 1])


def _starts_request(sequences: Table) -> Ints:
    """1 where a sequence is the first of its request."""
    ids = sequences["request_id"]
    starts = np.ones(len(ids), dtype=np.int64)
    starts[1:] = ids[1:] != ids[:-1]
    return starts


def _requests(
    sequences: Table, tokens: _Tokens, start_ns: Ints, requeue_ns: Ints, num_preemptions: Ints
) -> dict[str, NDArray[Any]]:
    first = np.flatnonzero(_starts_request(sequences))
    if not len(first):
        first = np.zeros(0, dtype=np.int64)
    scheduled = sequences["was_scheduled"] == 1
    has_tokens = sequences["output_tokens"] > 0
    first_token, last_token = np.full((2, len(scheduled)), _LAST, dtype=np.int64)
    first_token[has_tokens] = tokens.times_ns[tokens.offsets[:-1][has_tokens]]
    last_token[has_tokens] = tokens.times_ns[tokens.offsets[1:][has_tokens] - 1]
    last_token[~has_tokens] = -1
    scheduled_ns = np.full(len(scheduled), _LAST, dtype=np.int64)
    scheduled_ns[scheduled] = start_ns[sequences["first_scheduled_step"][scheduled]]

    def earliest(values: Ints) -> NDArray[Any]:
        least = np.minimum.reduceat(values, first) if len(first) else values
        return _time(least, least == _LAST)

    def total(values: Ints) -> Ints:
        return np.add.reduceat(values, first) if len(first) else values

    def largest(values: Ints) -> Ints:
        return np.maximum.reduceat(values, first) if len(first) else values

    latest_token = largest(last_token)
    return {
        "request_id": sequences["request_id"][first],
        "replica": sequences["replica"][first].astype(np.int32),
        "arrival": _time(sequences["arrival_ns"][first]),
        "first_scheduled": earliest(scheduled_ns),
        "first_token": earliest(first_token),
        "last_token": _time(latest_token, latest_token < 0),
        "finished": _time(largest(sequences["finish_ns"])),
        "requeue": _time(total(requeue_ns)),
        "prompt_tokens": sequences["prompt_tokens"][first],
        "output_tokens": total(sequences["output_tokens"]),
        "longest_sample_tokens": largest(sequences["output_tokens"]),
        "num_samples": sequences["num_samples"][first].astype(np.int32),
        "priority": sequences["priority"][first],
        "num_preemptions": total(num_preemptions).astype(np.int32),
        "prefix_hit_tokens": total(sequences["prefix_hit_tokens"]),
        "finish_reason": _REASON_NAMES[largest(sequences["finish_reason"])],
    }


def _preemptions(recorder: Recorder, sequences: Table) -> Table:
    """Preemptions with the place of their sequence in the sorted table."""
    table = _table(recorder.preemptions, PREEMPTION_FIELDS)
    place = np.empty(len(sequences["row"]), dtype=np.int64)
    place[sequences["row"]] = np.arange(len(place))
    table["place"] = place[table["sequence_row"]]
    return table


def _requeue(recorder: Recorder, sequences: Table, start_ns: Ints) -> tuple[Ints, Ints]:
    """Per sequence: time back in the queue, and number of preemptions."""
    table = _preemptions(recorder, sequences)
    place, base = table["place"], sequences["base"][table["place"]]
    was_resumed = table["was_resumed"] == 1
    until = sequences["finish_ns"][place]
    until[was_resumed] = start_ns[(table["resumed_step"] + base)[was_resumed]]
    waited = until - start_ns[table["preempted_step"] + base] if len(place) else until
    requeue_ns = np.zeros(len(sequences["row"]), dtype=np.int64)
    np.add.at(requeue_ns, place, waited)
    counts = np.bincount(place, minlength=len(requeue_ns)).astype(np.int64)
    return requeue_ns, counts


def _num_waiting(
    recorder: Recorder, sequences: Table, start_ns: Ints, clocks: list[_Clock]
) -> list[NDArray[np.int32]]:
    """Sequences left in each queue once a step was planned: who came, less who was let in or left."""
    preemptions = _preemptions(recorder, sequences)
    waiting = []
    for replica, clock in enumerate(clocks):
        mine = sequences["replica"] == replica
        base = sequences["base"][mine]
        change = np.zeros(len(clock.start_ns) + 1, dtype=np.int64)
        np.add.at(change, np.searchsorted(clock.start_ns, sequences["arrival_ns"][mine]), 1)
        gone = np.searchsorted(clock.start_ns, sequences["finish_ns"][mine])
        scheduled = sequences["was_scheduled"][mine] == 1
        left = np.where(scheduled, sequences["first_scheduled_step"][mine] - base, gone)
        np.add.at(change, left, -1)
        theirs = mine[preemptions["place"]]
        np.add.at(change, preemptions["preempted_step"][theirs], 1)
        ended = np.searchsorted(clock.start_ns, sequences["finish_ns"][preemptions["place"][theirs]])
        resumed = preemptions["was_resumed"][theirs] == 1
        np.add.at(change, np.where(resumed, preemptions["resumed_step"][theirs], ended), -1)
        waiting.append(np.cumsum(change)[:-1].astype(np.int32))
    return waiting


def _steps(replica: int, clock: _Clock, num_waiting: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
    ahead = clock.ahead
    count = len(ahead)
    decode = clock.each_step("num_decode_seqs")
    filled = clock.each_step("filled_slots") + ahead * clock.each_step("filled_slots_per_step")
    return {
        "replica": np.full(count, replica, dtype=np.int32),
        "step": np.arange(count, dtype=np.int64),
        "start": _time(clock.start_ns),
        "end": _time(clock.end_ns),
        "num_decode_seqs": decode.astype(np.int32),
        "decode_context_tokens": clock.each_step("decode_context_tokens") + ahead * decode,
        "num_prefill_seqs": clock.each_step("num_prefill_seqs").astype(np.int32),
        "num_prefill_tokens": clock.each_step("num_prefill_tokens").astype(np.int32),
        "num_running": clock.each_step("num_running").astype(np.int32),
        "num_waiting": num_waiting,
        "used_blocks": clock.used_blocks,
        "drafting": clock.each_step("draft_ns").astype(TIME),  # such a plan is for one step
        "saved_blocks": clock.each_step("saved_blocks").astype(np.int32),
        "filled_slots": filled,
        "reserved_slots": np.maximum(clock.each_step("promised_slots") - filled, 0),
        # Plans that preempt or move anything are for one step.
        "num_preempted": clock.each_step("num_preempted").astype(np.int32),
        "num_swapped_out_blocks": clock.each_step("num_swapped_out_blocks").astype(np.int32),
        "num_swapped_in_blocks": clock.each_step("num_swapped_in_blocks").astype(np.int32),
        "num_copied_blocks": clock.each_step("num_copied_blocks").astype(np.int32),
    }


def _merge_steps(tables: list[dict[str, NDArray[Any]]]) -> Mapping[str, NDArray[Any]]:
    merged = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    if len(tables) > 1:
        order = np.lexsort((merged["replica"], merged["start"]))
        merged = {name: column[order] for name, column in merged.items()}
    return merged


def _draft_counters(cores: list[EngineCore]) -> dict[str, int]:
    """Drafts verified and kept, in all and at each place of a run."""
    runs: dict[DraftRun, int] = {}
    for core in cores:
        for run, count in core.draft_runs.items():
            runs[run] = runs.get(run, 0) + count
    most = max((run.num_tested for run in runs), default=0)
    counters = {
        "draft_runs": sum(runs.values()),
        "drafted_tokens": sum(run.num_drafts * count for run, count in runs.items()),
        "drafted_past_end_tokens": sum(
            (run.num_drafts - run.num_tested) * count for run, count in runs.items()
        ),
        "accepted_tokens": sum(run.num_kept * count for run, count in runs.items()),
        "runs_ended_by_draft": sum(count for run, count in runs.items() if run.num_tokens == run.num_kept),
    }
    for place in range(1, most + 1):
        at = [(run.num_kept, count) for run, count in runs.items() if run.num_tested >= place]
        counters[f"drafted_at_{place}"] = sum(count for _, count in at)
        counters[f"accepted_at_{place}"] = sum(count for kept, count in at if kept >= place)
    return counters


def _counters(
    cores: list[EngineCore], recorder: Recorder, requests: dict[str, NDArray[Any]]
) -> dict[str, int]:
    reasons = requests["finish_reason"]
    return {
        "prefix_queries_tokens": sum(core.prefix_stats.queries for core in cores),
        "prefix_hits_tokens": sum(core.prefix_stats.hits for core in cores),
        "preempted_prefix_queries_tokens": sum(core.prefix_stats.preempted_queries for core in cores),
        "preempted_prefix_hits_tokens": sum(core.prefix_stats.preempted_hits for core in cores),
        "host_hits_tokens": sum(core.prefix_stats.host_hits for core in cores),
        "preemptions": sum(core.num_preemptions for core in cores),
        "recomputed_tokens": sum(core.num_recomputed_tokens for core in cores),
        "rejected": int((reasons == "rejected").sum()),
        "aborted": int((reasons == "abort").sum()),
        "num_plans": sum(len(log.plans) // len(PLAN_FIELDS) for log in recorder.replicas),
        "num_steps": sum(len(log.step_ends_ns) for log in recorder.replicas),
        "blocks_allocated": sum(core.num_blocks_allocated for core in cores),
        **_draft_counters(cores),
        "blocks_swapped_out": sum(core.num_swapped_out_blocks for core in cores),
        "blocks_swapped_in": sum(core.num_swapped_in_blocks for core in cores),
        "blocks_copied": sum(core.num_copied_blocks for core in cores),
        "swap_fallbacks": sum(core.num_swap_fallbacks for core in cores),
    }
