"""The core against recorded engines, and the comparison against tampered recordings and a tampered core."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sim.conform import LEVELS, conform
from sim.conform.ahead import AheadReplay
from sim.conform.recorded_trace import RecordedTrace
from sim.core.block_pool import BlockPool
from sim.core.kv_cache import KVCacheManager
from sim.core.policy import FcfsQueue
from sim.core.request import Sequence
from sim.core.scheduler import Scheduler
from sim.core.steady_batch import SteadyBatch
from sim.errors import ConfigError
from tests.recordings import ABOUT, write_recording

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
    "stub_fuzz_a2_async_follow_up",
    "stub_fuzz_a_async_last_block",
    "stub_fuzz_b2_tied_children_sched",
    "stub_fuzz_b_tied_children_victim",
    "stub_fuzz_c_eleventh_child_order",
    "stub_fuzz_d_drafts_over_budget",
    "stub_fuzz_e_eagle_drops_last_hit",
    "stub_h_async_ample",
)
V0_SAMPLES = (
    "v0_c_cow_n4",
    "v0_d_swap_n4",
    "v0_fuzz_f2_beam_crash",
    "v0_fuzz_f_beam_fork_of_dropped",
    "v0_fuzz_g_max_model_len",
    "v0_h_block_boundary",
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


@pytest.mark.parametrize(
    ("name", "longest"), [("real_a_fixed_ample", 30), ("real_i_abort", 32), ("stub_c_prefix_evict", 17)]
)
def test_recordings_are_replayed_in_plans_for_many_steps_too(
    decision_traces_dir: Path, name: str, longest: int
) -> None:
    trace = RecordedTrace.read(decision_traces_dir / f"{name}.json")
    ahead = AheadReplay(trace)
    told = [ahead.apply(event).keys() for _, event in trace.compared_events()]
    assert ahead.longest_plan == longest
    assert sum("free_head" in keys for keys in told) < sum("finished" in keys for keys in told)
    outcome = conform(decision_traces_dir / f"{name}.json")
    assert outcome.num_steps_ahead == outcome.num_steps


@pytest.mark.parametrize("name", ["stub_h_async_ample", "stub_f4_spec_budget_cut", "v0_c_cow_n4"])
def test_schedulers_without_a_steady_batch_are_replayed_once(decision_traces_dir: Path, name: str) -> None:
    assert conform(decision_traces_dir / f"{name}.json").num_steps_ahead == 0


def _a_step_too_many(self: SteadyBatch, step: int, limit: int) -> int:
    return min(3, limit)


def _in_no_order(self: SteadyBatch, step: int) -> None:
    takers = self.takers(step)
    self._kv.take_one_each(reversed(takers.values()), len(takers))


def _registers_nothing(self: SteadyBatch, step: int) -> None:
    pass


@pytest.mark.plain
@pytest.mark.parametrize(
    ("method", "fault", "name"),
    [
        ("horizon", _a_step_too_many, "real_b_preempt"),
        ("grow", _in_no_order, "real_i_abort"),
        ("register", _registers_nothing, "stub_c_prefix_evict"),
    ],
)
def test_a_fault_of_the_fast_path_alone_is_found(
    decision_traces_dir: Path, monkeypatch: pytest.MonkeyPatch, method: str, fault: Any, name: str
) -> None:
    monkeypatch.setattr(SteadyBatch, method, fault)
    difference = conform(decision_traces_dir / f"{name}.json").difference
    assert difference is not None
    assert difference.is_ahead
    assert "planned ahead" in str(difference)


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
        ("schedule", "sched", lambda rows: [_changed(rows[0], 1, "resumed"), *rows[1:]], "sched", 1),
        ("schedule", "sched", lambda rows: rows[::-1] if len(rows) > 1 else [*rows, *rows], "sched", 1),
        ("schedule", "tokens", lambda count: count + 1, "tokens", 1),
        ("schedule", "preempted", lambda ids: [*ids, "r999"], "preempted", 1),
        ("schedule", "free", lambda count: count + 1, "free", 2),
        ("update", "finished", lambda rows: rows[:-1], "finished", 1),
        ("update", "n_out", lambda count: count + 1, "num_out", 1),
        ("update", "free", lambda count: count - 1, "free", 2),
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


def _most_recently_freed_first(self: BlockPool, block: int) -> None:
    self._back[block] = None
    self._back.move_to_end(block, last=False)


def _to_the_end_of_the_queue(self: FcfsQueue, seq: Sequence) -> None:
    self.push(seq)


def _one_block_more(self: KVCacheManager, num_tokens: int) -> int:
    return num_tokens // self.block_size + 1


@pytest.mark.plain
@pytest.mark.parametrize(
    ("owner", "method", "fault", "name"),
    [
        (BlockPool, "take", _take_from_the_tail, "real_a_fixed_ample"),
        (Scheduler, "_choose_victim", _victim_from_the_front, "real_b_preempt"),
        (BlockPool, "give_back", _most_recently_freed_first, "stub_c_prefix_evict"),
        (FcfsQueue, "push_preempted", _to_the_end_of_the_queue, "real_b_preempt"),
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


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", V0_SAMPLES)
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


@pytest.mark.parametrize("change", [{"usable_blocks": 0}, {"enable_chunked_prefill": False}])
def test_settings_that_no_scheduler_can_have_are_refused_in_words(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    config = ABOUT["config"] | {"max_num_scheduled_tokens": 8} | change
    path = write_recording(tmp_path, ABOUT | {"config": config})
    with pytest.raises(ConfigError, match=r"stub_tiny\.json.*config.*(num_blocks|chunked prefill)"):
        conform(path)


def test_a_missing_recording_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json"):
        conform(tmp_path / "nowhere.json")
