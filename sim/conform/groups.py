"""Replays a recorded run of vLLM's V0 scheduler (0.2.7) and tells it in the trace's words.

Inputs are arrivals, each sample's length and, for beam search, which beams were forked and dropped. Sequences
are named `GROUP/0`, `GROUP/1`, ... in the order of their making.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sim.conform.recorded_trace import Fields, RecordedTrace
from sim.core.group import Group, GroupSchedulerConfig
from sim.core.group_scheduler import GroupScheduler
from sim.core.kv_cache import CacheConfig, KVCacheManager
from sim.core.request import Request, RequestId, Sequence
from sim.core.step import BeamFork, ScheduledSequence, ScheduleKind, StepPlan, StepResult
from sim.core.swap import num_distinct_blocks
from sim.errors import ConfigError, Problem


class GroupReplay:
    """Feeds a trace's inputs to a scheduler."""

    def __init__(self, trace: RecordedTrace) -> None:
        self._trace = trace
        config = trace.config
        cache = CacheConfig(
            config["num_gpu_blocks"],
            config["block_size"],
            enable_prefix_caching=False,
            has_null_block=False,
        )
        self._kv = KVCacheManager(cache, max_model_len=config["max_model_len"])
        self._scheduler = GroupScheduler(
            GroupSchedulerConfig(
                max_model_len=config["max_model_len"],
                max_num_seqs=config["max_num_seqs"],
                max_num_batched_tokens=config["max_num_batched_tokens"],
                max_paddings=config["max_paddings"],
                watermark_fraction=config["watermark"],
                num_host_blocks=config["num_cpu_blocks"],
            ),
            self._kv,
        )
        self._group_name: list[str] = []
        self._seq_of: dict[str, Sequence] = {}
        self._name_of: dict[Sequence, str] = {}
        self._num_live: dict[str, int] = {}
        self._plan: StepPlan | None = None

    def apply(self, event: Mapping[str, Any]) -> Fields:
        """Make the scheduler do what the event says happened."""
        if event["ev"] == "schedule":
            return self._schedule(event)
        return self._update(event)

    def _schedule(self, event: Mapping[str, Any]) -> Fields:
        for name in event.get("arrivals", []):
            self._submit(name)
        plan = self._plan = self._scheduler.schedule(event["step"])
        rows = plan.rows if plan is not None else ()
        groups: dict[str, list[ScheduledSequence]] = {}
        for row in rows:
            groups.setdefault(self._group(row.seq), []).append(row)
        is_prompt = bool(rows) and not any(row.kind is ScheduleKind.RUNNING for row in rows)
        lengths = [row.num_tokens for row in rows]
        swapped = list(self._scheduler.groups.swapped)
        preempted = dict.fromkeys(self._group(seq) for seq in (plan.preempted if plan is not None else ()))
        swapped_names = self._names(swapped)
        return {
            "prompt_run": is_prompt,
            "sched": [
                [name, [self._name_of[row.seq] for row in of], [row.num_tokens for row in of]]
                for name, of in groups.items()
            ],
            "batched_tokens": len(lengths) * max(lengths, default=0),
            "preempt_recompute": [name for name in preempted if name not in swapped_names],
            "swap_out": [name for name in preempted if name in swapped_names],
            "swap_in": self._swapped_in(plan, is_prompt=is_prompt),
            "running": self._names(self._scheduler.groups.running),
            "waiting": self._names(self._scheduler.groups.waiting),
            "swapped": swapped_names,
            "group_blocks": [
                [num_distinct_blocks([row.seq for row in of]), sum(len(row.seq.table) for row in of)]
                for of in groups.values()
            ],
            "blocks_swapped_out": len(plan.blocks_to_swap_out) if plan is not None else 0,
            "blocks_swapped_in": len(plan.blocks_to_swap_in) if plan is not None else 0,
            "cow_copies": len(plan.blocks_to_copy) if plan is not None else 0,
            "free_gpu": self._kv.pool.num_free,
            "free_cpu": self._scheduler.num_free_host_blocks,
        }

    def _swapped_in(self, plan: StepPlan | None, *, is_prompt: bool) -> list[str]:
        """Groups that came back in this step; only swapped ones do so in a step of decodes."""
        if plan is None or is_prompt:
            return []
        back = [
            row.seq for row in plan.rows if row.seq.preemptions and row.seq.preemptions[-1][1] == plan.step
        ]
        return list(dict.fromkeys(self._group(seq) for seq in back))

    def _update(self, event: Mapping[str, Any]) -> Fields:
        ended: list[Sequence] = []
        freed: list[str] = []
        if self._plan is not None:
            beams, stopped, freed = self._beams(event)
            result = StepResult([1], beams=beams, stopped=frozenset(seq.seq_id for seq in stopped))
            ended = self._scheduler.settle(self._plan, result).finished
        finished = []
        for seq in ended:
            name = self._group(seq)
            self._num_live[name] -= 1
            if not self._num_live[name]:
                finished.append(name)
        return {
            "freed_seqs": sorted([self._name_of[seq] for seq in ended] + freed),
            "finished": sorted(finished),
            "free_gpu": self._kv.pool.num_free,
            "free_cpu": self._scheduler.num_free_host_blocks,
        }

    def _beams(
        self, event: Mapping[str, Any]
    ) -> tuple[dict[RequestId, tuple[BeamFork, ...]], list[Sequence], list[str]]:
        """What the trace says became of beams: forks, beams that ended, names of those taken over.

        A beam that was dropped goes on under the name of one that was forked; one dropped with none forked
        in its place has ended.
        """
        dropped: dict[str, list[Sequence]] = {}
        for name in event.get("freed_seqs", []):
            seq = self._seq_of[name]
            if seq.request.beam_width:
                dropped.setdefault(self._group(seq), []).append(seq)
        forks: dict[RequestId, tuple[BeamFork, ...]] = {}
        taken_over = []
        for parent_name, child_name in event.get("forks", []):
            parent = self._seq_of[parent_name]
            if parent.request.beam_width and child_name not in self._seq_of:
                child = self._dropped_for(parent_name, child_name, dropped)
                taken_over.append(self._name_of[child])
                self._introduce(child, child_name)
                request_id = parent.request.request_id
                forks[request_id] = (*forks.get(request_id, ()), BeamFork(parent, child))
        return forks, [seq for seqs in dropped.values() for seq in seqs], taken_over

    def _dropped_for(self, parent: str, child: str, dropped: dict[str, list[Sequence]]) -> Sequence:
        beams = dropped.get(self._group(self._seq_of[parent]))
        if not beams:
            message = f"{child} is forked beyond the width of its search: no beam is dropped for it"
            raise ConfigError([Problem(self._trace.name, "forks", message)])
        return beams.pop(0)

    def _submit(self, name: str) -> None:
        recorded = self._trace.requests[name]
        limits = self._scheduler.config
        lengths = tuple(recorded["lengths"])
        is_beam = bool(recorded.get("beam"))
        request = Request(
            len(self._group_name),
            arrival_ns=len(self._group_name),
            num_prompt_tokens=len(recorded["prompt"]),
            max_tokens=limits.max_model_len if is_beam else max(lengths),
            num_samples=recorded["n"] if is_beam else len(lengths),
            sample_tokens=() if is_beam else lengths,
            beam_width=recorded["n"] if is_beam else 0,
        )
        self._group_name.append(name)
        first_id = len(self._seq_of)
        seqs = [
            Sequence(first_id + sample, request, sample, limits.max_known)
            for sample in range(request.num_samples)
        ]
        for sample, seq in enumerate(seqs):
            self._introduce(seq, f"{name}/{sample}")
        self._num_live[name] = len(seqs)
        self._scheduler.enqueue(request, seqs)

    def _introduce(self, seq: Sequence, name: str) -> None:
        self._seq_of[name] = seq
        self._name_of[seq] = name

    def _group(self, seq: Sequence) -> str:
        return self._group_name[seq.request.request_id]

    def _names(self, groups: Iterable[Group]) -> list[str]:
        return [self._group_name[group.request.request_id] for group in groups]
