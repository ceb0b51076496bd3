"""Tiny recordings written by hand from the rules, for what the sampled ones do not show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sim.conform import conform
from tests.recordings import ABOUT


def _check(folder: Path, config: dict[str, Any], requests: list[Any], events: list[Any], **more: Any) -> None:
    """Replay a recording and compare all of it."""
    defaults = ABOUT["config"] | {"num_gpu_blocks": 9, "max_num_seqs": 8, "enable_prefix_caching": False}
    about = {"name": "stub_own", "config": defaults | config, "requests": requests, "outputs": {}} | more
    (folder / "stub_own.json").write_text(json.dumps(about))
    (folder / "stub_own.jsonl").write_text("\n".join(json.dumps(event) for event in events) + "\n")
    outcome = conform(folder / "stub_own.json")
    assert outcome.agrees, str(outcome.difference)
    assert outcome.num_steps == sum(event["ev"] == "schedule" for event in events)


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


def _update(step: int, n_out: int, free: int, free_head: list[int], **more: Any) -> dict[str, Any]:
    row = {"ev": "update", "step": step, "n_out": n_out, "free": free, "free_head": free_head}
    return row | more


def test_priority_preempts_the_least_urgent_though_that_be_the_one_in_need(tmp_path: Path) -> None:
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
    _check(tmp_path, {"policy": "priority"}, [low, high], events)


def test_samples_of_one_prompt_share_its_full_blocks_in_the_same_step(tmp_path: Path) -> None:
    """A prompt of nine tokens is two full blocks and one token: the second sample computes just that."""
    request = {"id": "r0", "prompt": list(range(9)), "max_tokens": 2, "n": 2}
    events = [
        _schedule(0, ["0_r0", "1_r0"],
                  [["0_r0", "new", 9, 0, [1, 2, 3]], ["1_r0", "new", 1, 8, [1, 2, 4]]], 4,
                  running=["0_r0", "1_r0"], waiting=[]),
        {"ev": "update", "step": 0, "n_out": 2, "free": 4, "cached_blocks": 2, "free_head": [5, 6, 7, 8]},
    ]  # fmt: skip
    _check(tmp_path, {"enable_prefix_caching": True}, [request], events)


def test_an_equal_prompt_of_whole_blocks_is_recomputed_by_one_block_and_kept_twice(tmp_path: Path) -> None:
    requests = [{"id": name, "prompt": list(range(8)), "max_tokens": 2} for name in "ab"]
    events = [
        _schedule(0, ["a", "b"], [["a", "new", 8, 0, [1, 2]], ["b", "new", 4, 4, [1, 3]]], 5,
                  running=["a", "b"], waiting=[]),
        _update(0, 2, 5, [4, 5, 6, 7, 8], cached_blocks=3),
    ]  # fmt: skip
    _check(tmp_path, {"enable_prefix_caching": True}, requests, events)


def test_a_victim_that_was_scheduled_earlier_in_the_step_is_undone(tmp_path: Path) -> None:
    """Five blocks. `low` stands first and takes its token in step 3; then `high` needs a block."""
    low = {"id": "low", "prompt": list(range(9)), "max_tokens": 9, "priority": 5}
    high = {"id": "high", "prompt": list(range(7)), "max_tokens": 5, "priority": 1}
    events = [
        _schedule(0, ["low"], [["low", "new", 9, 0, [1, 2, 3]]], 2, running=["low"], waiting=[]),
        _update(0, 1, 2, [4, 5]),
        _schedule(1, ["high"], [["low", "running", 1, 9, []], ["high", "new", 7, 0, [4, 5]]], 0,
                  running=["low", "high"]),
        _update(1, 2, 0, []),
        _schedule(2, [], [["low", "running", 1, 10, []], ["high", "running", 1, 7, []]], 0),
        _update(2, 2, 0, []),
        # The three blocks of `low` come free, the last of its table first.
        _schedule(3, [], [["high", "running", 1, 8, [3]]], 2,
                  preempted=["low"], running=["high"], waiting=["low"]),
        _update(3, 1, 2, [2, 1]),
        # Twelve tokens of `low` are known: three blocks, and two are free.
        _schedule(4, [], [["high", "running", 1, 9, []]], 2),
        _update(4, 1, 2, [2, 1]),
        _schedule(5, [], [["high", "running", 1, 10, []]], 2),
        _update(5, 1, 5, [3, 5, 4, 2, 1], finished=[["high", "FINISHED_LENGTH_CAPPED"]]),
        _schedule(6, [], [["low", "resumed", 12, 0, [3, 5, 4]]], 2, running=["low"], waiting=[]),
    ]  # fmt: skip
    _check(tmp_path, {"policy": "priority", "usable_blocks": 5, "num_gpu_blocks": 6}, [low, high], events)


def test_the_watermark_of_a_quarter_holds_two_of_nine_blocks_back(tmp_path: Path) -> None:
    first = {"id": "a", "prompt": list(range(20)), "max_tokens": 2}
    second = {"id": "b", "prompt": list(range(8)), "max_tokens": 2}
    events = [
        # Nothing runs when `a` comes. `b` would leave one block of the two that must stay free.
        _schedule(0, ["a", "b"], [["a", "new", 20, 0, [1, 2, 3, 4, 5]]], 3, running=["a"], waiting=["b"]),
        _update(0, 1, 3, [6, 7, 8]),
        _schedule(1, [], [["a", "running", 1, 20, [6]]], 2),
        _update(1, 1, 8, [6, 5, 4, 3, 2, 1, 7, 8], finished=[["a", "FINISHED_LENGTH_CAPPED"]]),
        _schedule(2, [], [["b", "new", 8, 0, [6, 5]]], 6, running=["b"], waiting=[]),
    ]  # fmt: skip
    _check(tmp_path, {"watermark": 0.25}, [first, second], events)


def test_who_is_given_up_running_or_waiting_makes_room_in_the_same_step(tmp_path: Path) -> None:
    requests = [
        {"id": "a", "prompt": list(range(20)), "max_tokens": 9},
        {"id": "b", "prompt": list(range(16)), "max_tokens": 9},
        {"id": "c", "prompt": list(range(4)), "max_tokens": 9},
    ]
    events = [
        _schedule(0, ["a", "b"], [["a", "new", 20, 0, [1, 2, 3, 4, 5]]], 3, running=["a"], waiting=["b"]),
        _update(0, 1, 3, [6, 7, 8]),
        _schedule(1, ["c"], [["c", "new", 4, 0, [5]]], 7, running=["c"], waiting=[],
                  aborted=[["a", "FINISHED_ABORTED"], ["b", "FINISHED_ABORTED"]]),
        _update(1, 1, 7, [4, 3, 2, 1, 6, 7, 8]),
    ]  # fmt: skip
    _check(tmp_path, {}, requests, events)


def test_a_preempted_sequence_hits_what_is_left_of_its_own_blocks(tmp_path: Path) -> None:
    """Five blocks with prefix caching; `a` evicts `b`, and later the deeper one of `b`'s two blocks."""
    requests = [
        {"id": "a", "prompt": list(range(8)), "max_tokens": 6},
        {"id": "b", "prompt": list(range(100, 108)), "max_tokens": 6},
    ]
    outputs = {"a": list(range(8, 14)), "b": list(range(108, 114))}
    events = [
        _schedule(0, ["a", "b"], [["a", "new", 8, 0, [1, 2]], ["b", "new", 8, 0, [3, 4]]], 1,
                  running=["a", "b"], waiting=[]),
        _update(0, 2, 1, [5], cached_blocks=4),
        _schedule(1, [], [["a", "running", 1, 8, [5]]], 2, preempted=["b"], running=["a"], waiting=["b"]),
        _update(1, 1, 2, [4, 3]),
        # `b` could hit both its blocks, but taking them leaves none for its ninth token.
        _schedule(2, [], [["a", "running", 1, 9, []]], 2),
        _update(2, 1, 2, [4, 3]),
        _schedule(3, [], [["a", "running", 1, 10, []]], 2),
        _update(3, 1, 2, [4, 3]),
        _schedule(4, [], [["a", "running", 1, 11, []]], 2),
        _update(4, 1, 2, [4, 3], cached_blocks=5),
        _schedule(5, [], [["a", "running", 1, 12, [4]]], 1),
        _update(5, 1, 5, [4, 3, 5, 2, 1], cached_blocks=4, finished=[["a", "FINISHED_LENGTH_CAPPED"]]),
        _schedule(6, [], [["b", "resumed", 5, 4, [3, 4, 5]]], 2, running=["b"], waiting=[]),
        _update(6, 1, 2, [2, 1], cached_blocks=4),
    ]  # fmt: skip
    config = {"enable_prefix_caching": True, "usable_blocks": 5, "num_gpu_blocks": 6}
    _check(tmp_path, config, requests, events, outputs=outputs)


def test_drafts_are_kept_dropped_and_cut_by_the_end_and_an_admission_is_padded(tmp_path: Path) -> None:
    requests = [
        {"id": "a", "prompt": list(range(5)), "max_tokens": 6},
        {"id": "b", "prompt": [9], "max_tokens": 2},
    ]
    spec = {"a": [[1, 2, 1], [3, 2, 2]], "b": [[2, 2, 0]]}
    events = [
        _schedule(0, ["a"], [["a", "new", 5, 0, [1, 2]]], 6, running=["a"], waiting=[]),
        {"ev": "update", "step": 0, "out": {"a": 1}, "free": 6, "free_head": [3, 4, 5, 6, 7, 8]},
        {"ev": "drafts", "step": 0, "n": {"a": 2}},
        _schedule(1, [], [["a", "running", 3, 5, []]], 6, spec={"a": 2}),
        {"ev": "update", "step": 1, "out": {"a": 2}, "free": 6},
        {"ev": "drafts", "step": 1, "n": {}},
        _schedule(2, ["b"], [["a", "running", 1, 7, []], ["b", "new", 3, 0, [3]]], 5,
                  spec={"b": 2}, running=["a", "b"]),
        {"ev": "update", "step": 2, "out": {"a": 1, "b": 1}, "free": 5, "free_head": [4, 5, 6, 7, 8]},
        {"ev": "drafts", "step": 2, "n": {"a": 2}},
        # Both drafts of `a` are kept, but its output ends with the second of the three tokens.
        _schedule(3, [], [["a", "running", 3, 8, [4]], ["b", "running", 1, 1, []]], 4, spec={"a": 2}),
        {"ev": "update", "step": 3, "out": {"a": 2, "b": 1}, "free": 8, "free_head": [3, 4, 2, 1, 5, 6, 7, 8],
         "finished": [["a", "FINISHED_LENGTH_CAPPED"], ["b", "FINISHED_LENGTH_CAPPED"]]},
    ]  # fmt: skip
    _check(tmp_path, {"num_spec_tokens": 2}, requests, events, spec=spec)
