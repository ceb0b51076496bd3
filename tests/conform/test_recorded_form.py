"""A recorded trace that is damaged is refused with its place; what it may leave out it may leave out."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.conform import conform
from sim.errors import ConfigError
from tests.recordings import ABOUT, EVENTS, write_recording


def test_what_a_line_leaves_out_is_empty_or_as_before(tmp_path: Path) -> None:
    outcome = conform(write_recording(tmp_path))
    assert outcome.agrees, str(outcome.difference)
    assert outcome.num_steps == 3


def _refusal(folder: Path, about: dict[str, Any], events: list[dict[str, Any]]) -> str:
    path = write_recording(folder, about, events)
    with pytest.raises(ConfigError) as caught:
        conform(path)
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (1, {"sched": [["a", "new"]]}, "stub_tiny.jsonl:1: sched.0.2: is missing"),
        (1, {"free": None}, "stub_tiny.jsonl:1: free: Input should be a valid integer"),
        (1, {"arrivals": ["b"]}, "stub_tiny.jsonl:1: arrivals: there is no request b"),
        (3, {"arrivals": ["a"]}, "stub_tiny.jsonl:3: arrivals: a arrived before"),
        (1, {"aborted": [["b", "x"]]}, "stub_tiny.jsonl:1: aborted: b has not arrived"),
        (2, {"step": 7}, "stub_tiny.jsonl:2: step: 7 is not under way"),
        (3, {"step": 0}, "stub_tiny.jsonl:3: step: 0 does not follow 0"),
        (2, {"ev": None}, "stub_tiny.jsonl:2: ev: Input should be a valid string"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: int, change: dict[str, Any], message: str) -> None:
    events = copy.deepcopy(EVENTS)
    events[line - 1] |= change
    assert message in _refusal(tmp_path, ABOUT, events)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("config", {"usable_blocks": 10**30}, "stub_tiny.json: config.usable_blocks: "),
        ("config", {"policy": "lifo"}, "stub_tiny.json: config.policy: Input should be 'fcfs' or 'priority'"),
        ("config", {"block_size": True}, "stub_tiny.json: config.block_size: "),
        ("outputs", {"a": [6.5]}, "stub_tiny.json: outputs.a.0: "),
        ("outputs", {"a": None}, "stub_tiny.json: outputs.a: "),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, section: str, change: dict[str, Any], message: str) -> None:
    about = copy.deepcopy(ABOUT)
    about[section] |= change
    assert message in _refusal(tmp_path, about, EVENTS)


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    about = copy.deepcopy(ABOUT)
    del about["config"]["watermark"]
    assert _refusal(tmp_path, about, EVENTS) == "stub_tiny.json: config.watermark: is missing"


def test_outputs_that_end_too_soon_are_named(tmp_path: Path) -> None:
    about = copy.deepcopy(ABOUT)
    about["requests"][0] |= {"max_tokens": 6}
    events = copy.deepcopy(EVENTS[:4])
    del events[3]["finished"], events[3]["free_head"]
    events[3]["free"] = 6
    for step in (2, 3):
        events += [
            {
                "ev": "schedule",
                "step": step,
                "sched": [["a", "running", 1, 4 + step, []]],
                "tokens": 1,
                "free": 6,
            },
            {"ev": "update", "step": step, "n_out": 1, "free": 6},
        ]
    assert "outputs: a: ends before the tokens it settled" in _refusal(tmp_path, about, events)


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = write_recording(tmp_path)
    log = path.with_suffix(".jsonl")
    log.write_text(log.read_text() + "\n{oops\n")
    with pytest.raises(ConfigError, match=r"stub_tiny\.jsonl:7: is not JSON"):
        conform(path)


def test_no_more_than_ten_problems_are_told(tmp_path: Path) -> None:
    refusal = _refusal(tmp_path, ABOUT, [{"ev": "update"}] * 50)
    assert len(refusal.splitlines()) == 10


def _places(data: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(place for key, value in inner for place in _places(value, (*path, key)))]


WHOLE = {"about": ABOUT, "events": EVENTS}


@given(
    place=st.sampled_from([place for place in _places(WHOLE) if len(place) > 1]),
    value=st.sampled_from([None, -1, 0, "x", [], {}, True, 1.5, 10**30, "gone"]),
)
def test_no_damage_of_one_value_is_more_than_a_refusal_or_a_difference(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[str | int, ...], value: Any
) -> None:
    whole: Any = json.loads(json.dumps(WHOLE))
    *way, last = place
    around = whole
    for key in way:
        around = around[key]
    if value == "gone":
        del around[last]
    else:
        around[last] = value
    path = write_recording(tmp_path_factory.mktemp("damaged"), whole["about"], whole["events"])
    with suppress(ConfigError):
        assert conform(path).num_steps <= len(EVENTS)
