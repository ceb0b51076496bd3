"""Checks `EngineCore` against decisions that a real engine recorded, line by line.

A trace (`NAME.json` with configuration and requests, `NAME.jsonl` with what happened) is replayed from
its inputs alone: who arrived and who was aborted before each step, how many drafts were proposed and
kept. Everything else must follow.

    level 1   who was scheduled, how, in which order, with how many tokens; preemptions; queues; who finished
    level 2   also free blocks, prefix hits, blocks with content
    level 3   also every block id and the head of the free queue

Traces of vLLM's V0 scheduler (`v0_*`) have no block ids, so level 3 is level 2 for them.

Owns the comparison; refuses to know why a decision is right.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from sim.conform.groups import GroupReplay
from sim.conform.recorded_trace import Fields, RecordedTrace
from sim.core.engine import EngineConfig, EngineCore, PlanDetail
from sim.core.kv_cache import CacheConfig
from sim.core.policy import PolicyKind
from sim.core.request import FinishReason, Request, SeqId, Sequence
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import StepPlan, StepResult
from sim.errors import ConfigError, Problem

LEVELS = (1, 2, 3)
FREE_HEAD_LENGTH = 16
_FIELDS_BY_LEVEL = {
    1: ("sched", "tokens", "spec", "preempted", "running", "waiting", "out", "num_out", "finished"),
    2: ("free", "prefix_hits", "cached_blocks"),
    3: ("blocks", "free_head"),
}
_V0_FIELDS_BY_LEVEL = {
    1: (
        "prompt_run",
        "sched",
        "batched_tokens",
        "preempt_recompute",
        "swap_out",
        "swap_in",
        "running",
        "waiting",
        "swapped",
        "freed_seqs",
        "finished",
    ),
    2: ("group_blocks", "blocks_swapped_out", "blocks_swapped_in", "cow_copies", "free_gpu", "free_cpu"),
}
_RECORDED_REASONS = {
    FinishReason.LENGTH: "FINISHED_LENGTH_CAPPED",
    FinishReason.LENGTH_CAPPED: "FINISHED_LENGTH_CAPPED",
    FinishReason.STOP: "FINISHED_STOPPED",
    FinishReason.ABORT: "FINISHED_ABORTED",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where the core and the recorded engine part."""

    line: int
    step: int
    event: str
    field: str
    expected: Any
    got: Any

    def __str__(self) -> str:
        return (
            f"line {self.line}: {self.event} of step {self.step}: {self.field}:\n"
            f"  expected {self.expected}\n"
            f"  got      {self.got}"
        )


@dataclass(frozen=True, slots=True)
class Conformance:
    """Outcome of one replay."""

    name: str
    level: int
    num_steps: int
    num_compared: Mapping[str, int]
    """Values compared, by field."""
    difference: Difference | None

    @property
    def agrees(self) -> bool:
        """Whether every compared value was equal."""
        return self.difference is None


def conform(path: Path, level: int = 3) -> Conformance:
    """Replay a recorded trace and compare it up to `level`.

    Raises:
        ConfigError: The trace cannot be read, or lacks what the replay needs.
    """
    trace = RecordedTrace.read(path)
    replay = _replay(path, trace)
    by_level = _V0_FIELDS_BY_LEVEL if trace.is_v0 else _FIELDS_BY_LEVEL
    level = min(level, max(by_level))
    fields = [name for known in by_level if known <= level for name in by_level[known]]
    num_compared = dict.fromkeys(fields, 0)
    num_steps = 0
    for line, event in trace.compared_events():
        num_steps += event["ev"] == "schedule"
        got = replay.apply(event)
        expected = trace.fill_in(event)
        for name in fields:
            if name not in expected:
                continue
            num_compared[name] += 1
            if expected[name] != got[name]:
                difference = Difference(line, event["step"], event["ev"], name, expected[name], got[name])
                return Conformance(trace.name, level, num_steps, num_compared, difference)
    return Conformance(trace.name, level, num_steps, num_compared, None)


def _replay(path: Path, trace: RecordedTrace) -> _Replay | GroupReplay:
    try:
        return GroupReplay(trace) if trace.is_v0 else _Replay(trace)
    except ValueError as error:
        raise ConfigError([Problem(str(path), "config", str(error))]) from error


class _TokenKeys:
    """Content keys of samples whose tokens are all known: the chained tokens themselves."""

    def __init__(
        self, names: AbstractSequence[str], tokens: AbstractSequence[AbstractSequence[int]], block_size: int
    ) -> None:
        self._names = names
        self._keys = [_chained(of_sample, block_size) for of_sample in tokens]

    def keys(self, sample: int, start: int, stop: int) -> AbstractSequence[Hashable]:
        """The keys of blocks `start` to `stop - 1`.

        Raises:
            ConfigError: The recording ends before those tokens.
        """
        if stop > len(self._keys[sample]):
            raise ConfigError([Problem("outputs", self._names[sample], "ends before the tokens it settled")])
        return self._keys[sample][start:stop]


def _chained(tokens: AbstractSequence[int], block_size: int) -> list[Hashable]:
    keys: list[Hashable] = []
    parent: Hashable = None
    for start in range(0, len(tokens) - block_size + 1, block_size):
        parent = hash((parent, *tokens[start : start + block_size]))
        keys.append((parent, *tokens[start : start + block_size]))
    return keys


def core_config(config: Mapping[str, Any]) -> EngineConfig:
    """The core's settings that stand for a recorded engine's."""
    return EngineConfig(
        cache=CacheConfig(
            num_blocks=config["usable_blocks"],
            block_size=config["block_size"],
            enable_prefix_caching=config["enable_prefix_caching"],
            drops_last_hit=config.get("eagle_block_drop", False),
        ),
        scheduler=SchedulerConfig(
            max_model_len=config["max_model_len"],
            max_num_seqs=config["max_num_seqs"],
            max_num_batched_tokens=config["max_num_batched_tokens"],
            max_num_scheduled_tokens=config["max_num_scheduled_tokens"],
            enable_chunked_prefill=config["enable_chunked_prefill"],
            long_prefill_token_threshold=config["long_prefill_token_threshold"],
            policy=PolicyKind(config["policy"]),
            watermark_fraction=config["watermark"],
            full_sequence_gate=config["reserve_full_isl"],
            async_scheduling=config["async_scheduling"],
            num_speculative_tokens=config["num_spec_tokens"],
            num_lookahead_slots=config["num_lookahead_tokens"],
            num_draft_rows=config["draft_slots"],
            may_cut_drafts=True,
        ),
        max_horizon=1,
        detail=PlanDetail.SEQUENCES,
    )


class _Replay:
    """Feeds a trace's inputs to a core and reports what the core did in the trace's own words."""

    def __init__(self, trace: RecordedTrace) -> None:
        self._trace = trace
        self._core = EngineCore(core_config(trace.config))
        self._names: list[list[str]] = []
        """Of each request's samples, in the order of submission."""
        self._place_of: dict[str, tuple[int, int]] = {}
        """Request and sample, by name."""
        self._plans: dict[int, StepPlan | None] = {}

    def apply(self, event: Mapping[str, Any]) -> Fields:
        """Make the core do what the event says happened."""
        if event["ev"] == "schedule":
            return self._schedule(event)
        return self._update(event["step"])

    def _schedule(self, event: Mapping[str, Any]) -> Fields:
        arrivals = groupby(event.get("arrivals", []), key=lambda name: id(self._trace.requests[name]))
        for _, names in arrivals:
            self._submit(list(names))
        for name, _ in event.get("aborted", []):
            self._core.abort(*self._place_of[name])
        plan = self._core.begin_step(event["step"])
        self._plans[event["step"]] = plan
        rows = plan.rows if plan is not None else ()
        named = [(self._name(row.seq), row) for row in rows]
        return {
            "sched": [[name, row.kind.value, row.num_tokens] for name, row in named],
            "prefix_hits": [row.num_computed_tokens for row in rows],
            "blocks": [row.new_blocks for row in rows],
            "tokens": sum(row.num_tokens for row in rows),
            "spec": {name: row.num_draft_tokens for name, row in named if row.num_draft_tokens},
            "preempted": [self._name(seq) for seq in (plan.preempted if plan is not None else ())],
            "running": [self._name(seq) for seq in self._core.running],
            "waiting": [self._name(seq) for seq in self._core.waiting],
            "free": self._core.num_free_blocks,
        }

    def _update(self, step: int) -> Fields:
        plan = self._plans.pop(step)
        out: dict[str, int] = {}
        finished: list[list[str]] = []
        if plan is not None and plan.rows:
            before = {row.seq: row.seq.num_known for row in plan.rows}
            outcome = self._core.finish_step(plan, self._result(plan, step))
            out = {self._name(seq): seq.num_known - known for seq, known in before.items()}
            out = {name: count for name, count in out.items() if count}
            finished = [
                [self._name(seq), _RECORDED_REASONS[seq.finish_reason]]
                for seq in outcome.finished
                if seq.finish_reason is not None
            ]
        return {
            "out": out,
            "num_out": len(out),
            "finished": finished,
            "free": self._core.num_free_blocks,
            "cached_blocks": self._core.num_cached_blocks,
            "free_head": self._core.free_head(FREE_HEAD_LENGTH),
        }

    def _result(self, plan: StepPlan, step: int) -> StepResult:
        """What the model gave: an input of the replay, like the drafts that were proposed next."""
        seq_of = {self._name(row.seq): SeqId(row.seq.seq_id) for row in plan.rows}
        accepted = {
            seq_id: self._trace.accepted[name, step]
            for name, seq_id in seq_of.items()
            if (name, step) in self._trace.accepted
        }
        proposed = self._trace.drafts.get(step, {})
        drafts = {seq_of[name]: count for name, count in proposed.items() if name in seq_of}
        return StepResult([1], num_accepted=accepted, num_drafts=drafts)

    def _submit(self, names: list[str]) -> None:
        """Children of one request that come together are its samples: they share their arrival."""
        number = len(self._names)
        self._names.append(names)
        self._place_of |= {name: (number, sample) for sample, name in enumerate(names)}
        recorded = self._trace.requests[names[0]]
        tokens = [[*recorded["prompt"], *self._trace.outputs.get(name, [])] for name in names]
        self._core.submit(
            Request(
                number,
                arrival_ns=number,
                num_prompt_tokens=len(recorded["prompt"]),
                max_tokens=recorded["max_tokens"],
                num_samples=len(names),
                priority=recorded.get("priority", 0),
                content=_TokenKeys(names, tokens, self._trace.config["block_size"]),
            )
        )

    def _name(self, seq: Sequence) -> str:
        return self._names[seq.request.request_id][seq.sample]
