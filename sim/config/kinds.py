"""Which settings mean something for which scheduler and which memory.

A setting that would be ignored is refused: whoever wrote it expects something of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from sim.config.own import OwnClass
from sim.config.schema import NEWEST, PAPER, ContinuousSection, ExperimentFile
from sim.config.workload import ServeGenSection
from sim.config.yaml_source import KeyPath

Fault = tuple[KeyPath, str]

_NOT_OF_THE_PAPER = {
    "enable_prefix_caching": ("prefix caching", (None, False)),
    "enable_chunked_prefill": ("chunked prefill", (None, False)),
    "long_prefill_token_threshold": ("limit for one prompt", (0,)),
    "max_num_scheduled_tokens": ("budget but max_num_batched_tokens", (None,)),
    "prefill_schedule_interval": ("interval of this kind", (1,)),
    "scheduling_policy": ("policy but fcfs", ("fcfs",)),
    "full_sequence_gate": ("gate of this kind", (None,)),
    "exempt_lone_prompt": ("limit for one prompt", (None,)),
    "free_order": ("free order but last freed first", (None,)),
    "waiting_order": ("order but fcfs", (None,)),
    "victim_choice": ("choice of victims", (None,)),
    "scheduler_cls": ("class in its place", (None,)),
    "async_scheduling": ("overlap of scheduling", (False,)),
    "kv_allocation": ("memory but a paged one", ("paged",)),
}
"""Keys that vLLM 0.2.7's scheduler does not know: what it lacks, and the values that ask for nothing."""


def allocation_name(file: ExperimentFile) -> str:
    """Of how KV memory is given out, for messages."""
    allocation = file.engine.kv_allocation
    return (
        f"{allocation.reference}, an allocator of your own"
        if isinstance(allocation, OwnClass)
        else allocation
    )


def kind_faults(file: ExperimentFile) -> Iterator[Fault]:
    """Settings that the chosen scheduler or memory does not have."""
    if file.engine.scheduler == PAPER:
        yield from _paper_faults(file)
    else:
        yield from _v1_faults(file)
    if file.offload is not None and not file.engine.enable_prefix_caching:
        yield ("offload",), "keeps what the prefix cache evicts, and enable_prefix_caching is false"
    if file.engine.kv_allocation != "paged" and file.engine.enable_prefix_caching:
        message = f"needs paged memory, and kv_allocation is {allocation_name(file)}"
        yield ("engine", "enable_prefix_caching"), message


def _paper_faults(file: ExperimentFile) -> Iterator[Fault]:
    for key, (lacks, inert) in _NOT_OF_THE_PAPER.items():
        if getattr(file.engine, key) not in inert:
            yield ("engine", key), f"scheduler {PAPER} has no {lacks}: leave it out, or choose another"
    if not isinstance(file.engine.batching, ContinuousSection):
        yield ("engine", "batching"), f"scheduler {PAPER} has continuous batching only"


def _v1_faults(file: ExperimentFile) -> Iterator[Fault]:
    scheduler = file.engine.scheduler
    if file.engine.waiting_order is not None and file.engine.scheduling_policy != "fcfs":
        yield ("engine", "scheduling_policy"), "is replaced by engine.waiting_order: leave one of them out"
    if file.engine.prefill_schedule_interval > 1 and scheduler != NEWEST:
        message = f"scheduler {scheduler} has no such setting: set scheduler to {NEWEST}"
        yield ("engine", "prefill_schedule_interval"), message
    for key in ("preemption_mode", "max_paddings"):
        if getattr(file.engine, key) is not None:
            yield ("engine", key), f"scheduler {scheduler} has no such setting: set scheduler to {PAPER}"
    if file.swap is not None:
        message = f"scheduler {scheduler} preempts by recompute only: set engine.scheduler to {PAPER}"
        yield ("swap",), message
    if not isinstance(file.workload, ServeGenSection) and file.workload.beam_width is not None:
        message = f"scheduler {scheduler} cannot fork sequences: set engine.scheduler to {PAPER}"
        yield ("workload", "beam_width"), message
