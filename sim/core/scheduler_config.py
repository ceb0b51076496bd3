"""`SchedulerConfig`: the limits and rules of one replica's scheduler.

What differs between releases of the reference engine is a setting here (and the free order in
`CacheConfig`), so that a claim "as vLLM does" can name the release.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sim.core.compiling import mypyc_attr
from sim.core.policy import Batching, Continuous, PolicyKind, VictimChoice, WaitingOrder


@mypyc_attr(native_class=False)
@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Limits and rules of one replica's scheduler; names and defaults are vLLM's.

    Attributes:
        max_model_len: Longest sequence, prompt and output together, in tokens. max_num_seqs: Most
        running sequences. max_num_batched_tokens: Input rows of a step: tokens and draft rows.
        max_num_scheduled_tokens: Tokens of a step; None: `max_num_batched_tokens`.
        enable_chunked_prefill: Whether a prompt may be computed in parts. long_prefill_token_threshold:
        Most tokens one sequence gets in a step; 0: no limit. exempt_lone_prompt: Whether that limit is
        off while only one sequence is here (not in vLLM 0.16 and before). policy: Waiting order and
        victim choice. watermark_fraction: Part of the pool that an admission must leave free while
        others run. full_sequence_gate: Whether a newcomer's whole known sequence must fit now (not in
        vLLM 0.16 and before). async_scheduling: Whether a step is scheduled before the one before it has
        settled. num_speculative_tokens: Draft tokens of a step and sequence; 0: no speculation.
        num_lookahead_slots: Slots kept beyond the scheduled tokens (draft model and EAGLE: one for each
        draft). num_draft_rows: Input rows each sequence takes besides its tokens (draft model: 1).
        pad_single_token_admissions: Whether an admission of one token is padded with drafts, so that the
        batch
            stays uniform (not in vLLM 0.16 and before).
        registers_at_update: Whether blocks that drafts helped to fill are registered when the step has
        settled, not when the next one is planned (vLLM 0.33). goes_on_after_self_preemption: Whether a
        sequence that was its own victim lets those behind it have their turn (vLLM 0.33).
        prefill_schedule_interval: Steps from one that computes prompts to the next, while others decode
        (vLLM 0.33); 1: every step may.
        batching: Continuous, or a fixed batch. may_cut_drafts: Whether 1 + num_speculative_tokens may
        exceed what a step holds: drafts are then cut, and a padded admission waits for ever, as in vLLM.
        waiting_order, victim_choice: Make a policy of one's own for each replica; None: as `policy` says.
    """

    max_model_len: int
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    max_num_scheduled_tokens: int | None = None
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    exempt_lone_prompt: bool = True
    policy: PolicyKind = PolicyKind.FCFS
    watermark_fraction: float = 0.0
    full_sequence_gate: bool = True
    async_scheduling: bool = False
    num_speculative_tokens: int = 0
    num_lookahead_slots: int = 0
    num_draft_rows: int = 0
    pad_single_token_admissions: bool = True
    registers_at_update: bool = False
    goes_on_after_self_preemption: bool = False
    prefill_schedule_interval: int = 1
    batching: Batching = field(default_factory=Continuous)
    waiting_order: Callable[[], WaitingOrder] | None = None
    victim_choice: Callable[[], VictimChoice] | None = None
    may_cut_drafts: bool = False

    def __post_init__(self) -> None:
        for name in (
            "max_model_len",
            "max_num_seqs",
            "max_num_batched_tokens",
            "token_budget",
            "prefill_schedule_interval",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("long_prefill_token_threshold", "num_speculative_tokens", "num_lookahead_slots"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if not 0 <= self.watermark_fraction < 1:
            raise ValueError(f"watermark must be in [0, 1), not {self.watermark_fraction}")
        if not self.enable_chunked_prefill and self.token_budget < self.max_model_len:
            raise ValueError(
                f"without chunked prefill a prompt must fit one step: max_num_batched_tokens "
                f"({self.token_budget}) is below max_model_len ({self.max_model_len})"
            )
        num_tokens, num_rows = 1 + self.num_speculative_tokens, self.num_draft_rows
        room = min(self.token_budget, self.max_num_batched_tokens - num_rows)
        if num_tokens > room and not self.may_cut_drafts:
            raise ValueError(
                f"a step must hold a sequence and its drafts, {num_tokens} tokens and {num_rows} draft rows: "
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) or the token budget "
                f"({self.token_budget}) is too small"
            )

    @property
    def max_known(self) -> int:
        """Tokens at which the longest sequence ends: when it is as long as `max_model_len`."""
        return self.max_model_len

    @property
    def token_budget(self) -> int:
        """Tokens of a step."""
        if self.max_num_scheduled_tokens is None:
            return self.max_num_batched_tokens
        return self.max_num_scheduled_tokens
