"""From the sections of an experiment file to the values its engine runs on.

Owns which scheduler and which memory a file asks for. Refuses to judge whether parts fit together
(`sim.config.checks`).
"""

from __future__ import annotations

from typing import Any

from sim.config.checks import Fit
from sim.config.own import OwnClass
from sim.config.schema import NEWEST, PAPER, EngineSection, ExperimentFile, SwapSection
from sim.config.speculation import SpeculationSection
from sim.config.workload import ServeGenSection
from sim.core.block_pool import FreeOrder
from sim.core.engine import EngineConfig
from sim.core.group import GroupSchedulerConfig, PreemptionMode
from sim.core.kv_cache import CacheConfig
from sim.core.kv_memory import MemoryConfig
from sim.core.policy import PolicyKind
from sim.core.reservation import ContiguousConfig, Reservation
from sim.core.scheduler_config import SchedulerConfig
from sim.cost.block_moves import BlockLayout, BlockMoves
from sim.cost.host_traffic import HostTraffic
from sim.fleet.beam_search import BeamLaw
from sim.speculation.speculator import Proposer, Speculation


def engine_config(fit: Fit) -> EngineConfig:
    """Settings of each replica's core."""
    section = fit.engine
    limits: dict[str, Any] = {} if section.max_horizon is None else {"max_horizon": section.max_horizon}
    scheduler = _paper_config(fit) if section.scheduler == PAPER else _v1_config(section, fit)
    return EngineConfig(
        _memory_config(section, fit), scheduler, make_scheduler=section.scheduler_cls, **limits
    )


def host_traffic(fit: Fit) -> HostTraffic | None:
    """How blocks travel to the host and back; None where none ever does."""
    host = fit.swap or fit.file.offload
    if host is None and fit.own_memory is not None:
        host = SwapSection()  # for what its copies take; nothing goes to the host
    if host is None:
        return None
    moves = BlockMoves.of(
        fit.model,
        fit.gpu,
        block_size=fit.engine.block_size,
        tensor_parallel_size=fit.tensor_parallel_size,
        layout=BlockLayout(host.layout),
        draft=fit.draft,
        draft_tensor_parallel_size=min(fit.draft_tensor_parallel_size, fit.tensor_parallel_size),
    )
    replicas = max(1, fit.gpu.gpus_per_host_link // fit.tensor_parallel_size)
    return HostTraffic(moves, overlaps=host.overlap, replicas_per_link=replicas)


def beam_law(file: ExperimentFile) -> BeamLaw | None:
    """How often beams change parents; None where nothing searches."""
    workload = file.workload
    if isinstance(workload, ServeGenSection) or workload.beam_width is None:
        return None
    return BeamLaw(workload.beam_change_probability, file.seed)


def _memory_config(section: EngineSection, fit: Fit) -> MemoryConfig:
    own = fit.own_memory
    if own is not None:
        return own
    if fit.is_contiguous:
        return ContiguousConfig(fit.num_slots, Reservation(section.kv_allocation))
    has_eagle = fit.file.speculation is not None and fit.file.speculation.proposer == "eagle"
    is_0_33 = section.scheduler == NEWEST
    return CacheConfig(
        num_blocks=fit.num_usable_blocks,
        block_size=section.block_size,
        enable_prefix_caching=bool(section.enable_prefix_caching),
        free_order=FreeOrder(section.free_order) if section.free_order else FreeOrder.UNHASHED_FIRST,
        has_null_block=fit.has_null_block,
        num_offload_blocks=fit.num_offload_blocks,
        drops_last_hit=has_eagle and not is_0_33,
        num_key_lookahead_tokens=int(has_eagle and is_0_33),
    )


def _v1_config(section: EngineSection, fit: Fit) -> SchedulerConfig:
    drafting = fit.file.speculation
    num_drafts = drafting.how_many().most if drafting is not None else 0
    proposer = _proposer_of(drafting) if drafting is not None else None
    is_0_33 = section.scheduler == NEWEST
    return SchedulerConfig(
        max_model_len=fit.max_model_len,
        max_num_seqs=section.max_num_seqs,
        max_num_batched_tokens=fit.max_num_batched_tokens,
        max_num_scheduled_tokens=section.max_num_scheduled_tokens,
        enable_chunked_prefill=bool(section.enable_chunked_prefill),
        long_prefill_token_threshold=section.long_prefill_token_threshold,
        exempt_lone_prompt=bool(section.exempt_lone_prompt),
        policy=PolicyKind(section.scheduling_policy),
        waiting_order=section.waiting_order,
        victim_choice=section.victim_choice,
        watermark_fraction=section.watermark or 0.0,
        full_sequence_gate=bool(section.full_sequence_gate),
        async_scheduling=section.async_scheduling,
        registers_at_update=is_0_33,
        goes_on_after_self_preemption=is_0_33,
        prefill_schedule_interval=section.prefill_schedule_interval,
        batching=section.batching.value(),
        num_speculative_tokens=num_drafts,
        num_lookahead_slots=num_drafts if proposer in (Proposer.DRAFT_MODEL, Proposer.EAGLE) else 0,
        num_draft_rows=int(proposer is Proposer.DRAFT_MODEL),
    )


def speculation_of(fit: Fit) -> Speculation | None:
    """What is drafted and kept."""
    section = fit.file.speculation
    if section is None:
        return None
    return Speculation(
        _proposer_of(section),
        section.how_many(),
        section.acceptance.value(),
        seed=fit.file.seed,
        cost_fraction=section.cost_fraction or 0.05,
        draft=fit.draft,
        draft_tensor_parallel_size=fit.draft_tensor_parallel_size,
        draft_overhead_ns=section.draft_overhead,
        make_proposer=section.proposer if isinstance(section.proposer, OwnClass) else None,
    )


def _proposer_of(section: SpeculationSection) -> Proposer:
    return Proposer.OWN if isinstance(section.proposer, OwnClass) else Proposer(section.proposer)


def _paper_config(fit: Fit) -> GroupSchedulerConfig:
    section = fit.engine
    return GroupSchedulerConfig(
        max_model_len=fit.max_model_len,
        max_num_seqs=section.max_num_seqs,
        max_num_batched_tokens=fit.max_num_batched_tokens,
        max_paddings=section.max_paddings or 0,
        watermark_fraction=section.watermark or 0.0,
        num_host_blocks=fit.num_host_blocks,
        preemption=PreemptionMode(section.preemption_mode),
    )
