"""The core against recorded engines, and the comparison against tampered recordings and a tampered core."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sim.conform import LEVELS, conform
from sim.core.block_pool import BlockPool
from sim.core.kv_cache import KVCacheManager
from sim.core.scheduler import Scheduler
from sim.errors import ConfigError

SAMPLES = (
    "real_a_fixed_ample",
    "real_b_preempt",
    "real_c_prefix_ample",
    "real_e_chunked",
    "real_f3_draft_model",
    "real_i_abort",
    "stub_b5_watermark_alone",
    "stub_c_prefix_evict",
    "stub_f4_spec_budget_cut",
    "stub_h_async_ample",
)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SAMPLES)
def test_the_core_decides_as_the_recorded_engine_did(
    decision_traces_dir: Path, name: str, level: int
) -> None:
    outcome = conform(decision_traces_dir / f"{name}.json", level)
    assert outcome.agrees, str(outcome.difference)
    assert outcome.num_compared["sched"] == outcome.num_steps > 0
    assert ("free_head" in outcome.num_compared) == (level == 3)


def _copy(folder: Path, name: str, target: Path) -> Path:
    for suffix in (".json", ".jsonl"):
        shutil.copy(folder / f"{name}{suffix}", target / f"{name}{suffix}")
    return target / f"{name}.json"


def _tamper(path: Path, event: str, field: str, value: Any) -> int:
    """Change a field on the last line of that kind that has it; returns that line's number."""
    log = path.with_suffix(".jsonl")
    lines = log.read_text().splitlines()
    for place in reversed(range(len(lines))):
        row = json.loads(lines[place])
        if row["ev"] == event and row.get(field):
            row[field] = value(row[field])
            lines[place] = json.dumps(row)
            log.write_text("\n".join(lines) + "\n")
            return place + 1
    raise AssertionError(f"no {event} line has {field}")


def _changed(row: list[Any], place: int, value: Any) -> list[Any]:
    return [*row[:place], value, *row[place + 1 :]]


@pytest.mark.parametrize(
    ("event", "field", "change", "reported", "level"),
    [
        ("schedule", "sched", lambda rows: [_changed(rows[0], 2, 999), *rows[1:]], "sched", 1),
        ("schedule", "sched", lambda rows: [_changed(rows[0], 3, 999), *rows[1:]], "prefix_hits", 2),
        ("schedule", "sched", lambda rows: [_changed(rows[0], 4, [999]), *rows[1:]], "blocks", 3),
        ("schedule", "running", lambda ids: [*ids, "r999"], "running", 1),
        ("schedule", "waiting", lambda ids: [*ids[::-1], "r999"], "waiting", 1),
        ("schedule", "preempted", lambda ids: [*ids, "r999"], "preempted", 1),
        ("schedule", "free", lambda count: count + 1, "free", 2),
        ("update", "finished", lambda rows: rows[:-1], "finished", 1),
        ("update", "n_out", lambda count: count + 1, "num_out", 1),
        ("update", "cached_blocks", lambda count: count + 1, "cached_blocks", 2),
        ("update", "free_head", lambda ids: [*ids[::-1], 999], "free_head", 3),
    ],
)
def test_a_changed_line_is_named_by_line_step_and_field(
    decision_traces_dir: Path, tmp_path: Path, event: str, field: str, change: Any, reported: str, level: int
) -> None:
    path = _copy(decision_traces_dir, "real_i_abort", tmp_path)
    line = _tamper(path, event, field, change)
    difference = conform(path, level).difference
    assert difference is not None
    assert (difference.line, difference.event, difference.field) == (line, event, reported)
    assert f"step {difference.step}" in str(difference)
    lower = conform(path, level - 1) if level > 1 else None
    assert lower is None or lower.agrees


def _take_from_the_tail(self: BlockPool, count: int) -> tuple[list[int], list[int]]:
    taken = self._front[:count]
    del self._front[:count]
    return taken, []


def _victim_from_the_front(self: Scheduler) -> Any:
    return next(iter(self.running))


def _one_block_more(self: KVCacheManager, num_tokens: int) -> int:
    return num_tokens // self.block_size + 1


@pytest.mark.parametrize(
    ("owner", "method", "fault", "name"),
    [
        (BlockPool, "take", _take_from_the_tail, "real_a_fixed_ample"),
        (Scheduler, "_choose_victim", _victim_from_the_front, "real_b_preempt"),
        (KVCacheManager, "num_blocks_for", _one_block_more, "real_c_prefix_ample"),
    ],
)
def test_a_fault_in_the_core_is_found(
    decision_traces_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    method: str,
    fault: Any,
    name: str,
) -> None:
    monkeypatch.setattr(owner, method, fault)
    assert not conform(decision_traces_dir / f"{name}.json").agrees


def _write(folder: Path, name: str, config: dict[str, Any], requests: list[Any], events: list[Any]) -> Path:
    """A tiny recording of our own, its decisions derived by hand from the rules."""
    defaults = {
        "block_size": 4,
        "num_gpu_blocks": 9,
        "usable_blocks": 8,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 64,
        "max_num_scheduled_tokens": 64,
        "max_model_len": 32,
        "enable_prefix_caching": False,
        "enable_chunked_prefill": True,
        "long_prefill_token_threshold": 0,
        "policy": "fcfs",
        "watermark": 0.0,
        "reserve_full_isl": True,
        "async_scheduling": False,
        "num_spec_tokens": 0,
        "num_lookahead_tokens": 0,
        "draft_slots": 0,
    }
    about = {"name": name, "config": defaults | config, "requests": requests, "outputs": {}}
    (folder / f"{name}.json").write_text(json.dumps(about))
    (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(event) for event in events) + "\n")
    return folder / f"{name}.json"


def _schedule(
    step: int, arrivals: list[str], sched: list[list[Any]], free: int, **more: Any
) -> dict[str, Any]:
    tokens = sum(row[2] for row in sched)
    row = {
        "ev": "schedule",
        "step": step,
        "arrivals": arrivals,
        "sched": sched,
        "tokens": tokens,
        "free": free,
    }
    return row | more


def test_priority_preempts_the_least_urgent_and_undoes_what_it_was_given(tmp_path: Path) -> None:
    """Eight blocks. `low` runs first, `high` joins; at step 2 both need a block and only one is free."""
    low = {"id": "low", "prompt": list(range(15)), "max_tokens": 9, "priority": 5}
    high = {"id": "high", "prompt": list(range(11)), "max_tokens": 9, "priority": 1}
    events = [
        _schedule(0, ["low", "high"],
                  [["high", "new", 11, 0, [1, 2, 3]], ["low", "new", 15, 0, [4, 5, 6, 7]]], 1,
                  running=["high", "low"], waiting=[]),
        {"ev": "update", "step": 0, "n_out": 2, "free": 1, "free_head": [8]},
        _schedule(1, [], [["high", "running", 1, 11, []], ["low", "running", 1, 15, []]], 1),
        {"ev": "update", "step": 1, "n_out": 2, "free": 1, "free_head": [8]},
        # Both outgrow their tables; `high` takes the last block, `low` is its own victim.
        _schedule(2, [], [["high", "running", 1, 12, [8]]], 4,
                  preempted=["low"], running=["high"], waiting=["low"]),
        {"ev": "update", "step": 2, "n_out": 1, "free": 4, "free_head": [7, 6, 5, 4]},
    ]  # fmt: skip
    outcome = conform(_write(tmp_path, "real_priority", {"policy": "priority"}, [low, high], events))
    assert outcome.agrees, str(outcome.difference)


def test_samples_of_one_prompt_share_its_full_blocks_in_the_same_step(tmp_path: Path) -> None:
    """A prompt of nine tokens is two full blocks and one token: the second sample computes just that."""
    request = {"id": "r0", "prompt": list(range(9)), "max_tokens": 2, "n": 2}
    events = [
        _schedule(0, ["0_r0", "1_r0"],
                  [["0_r0", "new", 9, 0, [1, 2, 3]], ["1_r0", "new", 1, 8, [1, 2, 4]]], 4,
                  running=["0_r0", "1_r0"], waiting=[]),
        {"ev": "update", "step": 0, "n_out": 2, "free": 4, "cached_blocks": 2, "free_head": [5, 6, 7, 8]},
    ]  # fmt: skip
    path = _write(tmp_path, "real_samples", {"enable_prefix_caching": True}, [request], events)
    outcome = conform(path)
    assert outcome.agrees, str(outcome.difference)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["v0_c_cow_n4", "v0_d_swap_n4", "v0_h_block_boundary"])
def test_the_group_scheduler_decides_as_the_paper_s_did(
    decision_traces_dir: Path, name: str, level: int
) -> None:
    outcome = conform(decision_traces_dir / f"{name}.json", level)
    assert outcome.agrees, str(outcome.difference)
    assert outcome.level == min(level, 2), "these traces hold no block ids"


@pytest.mark.parametrize(
    ("event", "field", "change", "reported"),
    [
        ("schedule", "cow_copies", lambda count: count + 1, "cow_copies"),
        ("schedule", "swap_out", lambda rows: [[rows[0][0], rows[0][1] + 1]], "blocks_swapped_out"),
        ("schedule", "swapped", lambda ids: ids[::-1][:-1], "swapped"),
        ("update", "free_cpu", lambda count: count - 1, "free_cpu"),
    ],
)
def test_a_changed_line_of_the_paper_s_scheduler_is_named(
    decision_traces_dir: Path, tmp_path: Path, event: str, field: str, change: Any, reported: str
) -> None:
    path = _copy(decision_traces_dir, "v0_d_swap_n4", tmp_path)
    line = _tamper(path, event, field, change)
    difference = conform(path).difference
    assert difference is not None
    assert (difference.line, difference.field) == (line, reported)


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "real_x"}', "\udcff"])
def test_what_is_no_recording_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "real_x.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    (tmp_path / "real_x.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"real_x\.json"):
        conform(tmp_path / "real_x.json")


def test_a_missing_recording_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json"):
        conform(tmp_path / "nowhere.json")
