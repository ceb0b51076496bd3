"""`Front`: a recorded engine's front end - hands requests to a core under the names that the recording uses.

V1's front end makes n requests of one with n > 1; their like arrival and their order as text matter by
priority, so here they are the samples of one request again. Refuses to know steps.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from collections.abc import Sequence as AbstractSequence
from itertools import groupby
from typing import Any

from sim.conform.recorded_trace import RecordedTrace
from sim.core.engine import EngineConfig, EngineCore, PlanDetail, SubmitStatus
from sim.core.kv_cache import CacheConfig
from sim.core.policy import PolicyKind
from sim.core.request import Request, Sequence
from sim.core.scheduler_config import SchedulerConfig
from sim.errors import ConfigError, Problem

MAX_HORIZON = 2**31


class Front:
    """A core, and the recorded name of each of its sequences."""

    def __init__(self, trace: RecordedTrace, *, plans_ahead: bool) -> None:
        self.core = EngineCore(core_config(trace.config, plans_ahead=plans_ahead))
        self._trace = trace
        self._names: list[list[str]] = []
        """Of each request's samples, in the order of submission."""
        self._place_of: dict[str, tuple[int, int]] = {}
        """Request and sample, by name."""

    def submit(self, event: Mapping[str, Any]) -> bool:
        """Queue who arrives before a schedule; True if any of them may join the very next step."""
        arrivals = groupby(event.get("arrivals", []), key=lambda name: id(self._trace.requests[name]))
        return SubmitStatus.NEXT_STEP in [self._submit(list(names)) for _, names in arrivals]

    def abort(self, event: Mapping[str, Any]) -> None:
        """End who is given up before a schedule."""
        for name, _ in event.get("aborted", []):
            self.core.abort(*self._place_of[name])

    def name(self, seq: Sequence) -> str:
        """What the recording calls a sequence."""
        return self._names[seq.request.request_id][seq.sample]

    def _submit(self, names: list[str]) -> SubmitStatus:
        """Children of one request that come together are its samples: they share their arrival."""
        number = len(self._names)
        self._names.append(names)
        self._place_of |= {name: (number, sample) for sample, name in enumerate(names)}
        recorded = self._trace.requests[names[0]]
        tokens = [[*recorded["prompt"], *self._trace.outputs.get(name, [])] for name in names]
        return self.core.submit(
            Request(
                number,
                arrival_ns=number,
                num_prompt_tokens=len(recorded["prompt"]),
                max_tokens=recorded["max_tokens"],
                num_samples=len(names),
                priority=recorded.get("priority", 0),
                content=_TokenKeys(names, tokens, self._trace.config),
            )
        )


def core_config(config: Mapping[str, Any], *, plans_ahead: bool) -> EngineConfig:
    """The core's settings that stand for a recorded engine's."""
    is_0_33 = _is_0_33(config)
    return EngineConfig(
        cache=CacheConfig(
            num_blocks=config["usable_blocks"],
            block_size=config["block_size"],
            enable_prefix_caching=config["enable_prefix_caching"],
            drops_last_hit=config.get("eagle_block_drop", False) and not is_0_33,
            num_key_lookahead_tokens=_num_key_lookahead_tokens(config),
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
            registers_at_update=is_0_33,
            goes_on_after_self_preemption=is_0_33,
            prefill_schedule_interval=config.get("prefill_schedule_interval", 1),
            may_cut_drafts=True,
        ),
        max_horizon=MAX_HORIZON if plans_ahead else 1,
        detail=PlanDetail.COUNTS if plans_ahead else PlanDetail.SEQUENCES,
    )


def _is_0_33(config: Mapping[str, Any]) -> bool:
    return bool(config.get("vllm_version", "").startswith("0.33."))


def _num_key_lookahead_tokens(config: Mapping[str, Any]) -> int:
    """0.33 drops no block under EAGLE: a block's key covers the token after it instead."""
    return int(_is_0_33(config) and config.get("eagle_block_drop", False))


class _TokenKeys:
    """Content keys of samples whose tokens are all known: the chained tokens themselves."""

    def __init__(
        self,
        names: AbstractSequence[str],
        tokens: AbstractSequence[AbstractSequence[int]],
        config: Mapping[str, Any],
    ) -> None:
        self._names = names
        size, lookahead = config["block_size"], _num_key_lookahead_tokens(config)
        self._keys = [_chained(of_sample, size, lookahead) for of_sample in tokens]

    def keys(self, sample: int, start: int, stop: int) -> AbstractSequence[Hashable]:
        """The keys of blocks `start` to `stop - 1`.

        Raises:
            ConfigError: The recording ends before those tokens.
        """
        if stop > len(self._keys[sample]):
            raise ConfigError([Problem("outputs", self._names[sample], "ends before the tokens it settled")])
        return self._keys[sample][start:stop]


def _chained(tokens: AbstractSequence[int], block_size: int, lookahead: int) -> list[Hashable]:
    keys: list[Hashable] = []
    parent: Hashable = None
    for start in range(0, len(tokens) - block_size - lookahead + 1, block_size):
        covered = tokens[start : start + block_size + lookahead]
        parent = hash((parent, *covered))
        keys.append((parent, *covered))
    return keys
