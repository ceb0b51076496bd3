"""A recording of our own, two steps of one request, in the form of the recorded engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ABOUT: dict[str, Any] = {
    "name": "stub_tiny",
    "config": {
        "usable_blocks": 8,
        "block_size": 4,
        "enable_prefix_caching": True,
        "max_model_len": 32,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 64,
        "max_num_scheduled_tokens": 64,
        "enable_chunked_prefill": True,
        "long_prefill_token_threshold": 0,
        "policy": "fcfs",
        "watermark": 0.0,
        "reserve_full_isl": True,
        "async_scheduling": False,
        "num_spec_tokens": 0,
        "num_lookahead_tokens": 0,
        "draft_slots": 0,
    },
    "requests": [{"id": "a", "prompt": [1, 2, 3, 4, 5], "max_tokens": 2}],
    "outputs": {"a": [6, 7]},
}
EVENTS: list[dict[str, Any]] = [
    {"ev": "schedule", "step": 0, "arrivals": ["a"], "sched": [["a", "new", 5, 0, [1, 2]]], "tokens": 5}
    | {"running": ["a"], "free": 6},
    {"ev": "update", "step": 0, "n_out": 1, "free": 6, "cached_blocks": 1, "free_head": [3, 4, 5, 6, 7, 8]},
    {"ev": "schedule", "step": 1, "sched": [["a", "running", 1, 5, []]], "tokens": 1, "free": 6},
    {"ev": "update", "step": 1, "n_out": 1, "finished": [["a", "FINISHED_LENGTH_CAPPED"]], "free": 8}
    | {"free_head": [2, 3, 4, 5, 6, 7, 8, 1]},
    {"ev": "schedule", "step": 2, "running": [], "free": 8},
]


def write_recording(
    folder: Path, about: dict[str, Any] | None = None, events: list[dict[str, Any]] | None = None
) -> Path:
    """Write a recording, the one above where nothing else is given; returns the path of its settings."""
    path = folder / "stub_tiny.json"
    path.write_text(json.dumps(ABOUT if about is None else about))
    lines = [json.dumps(event) for event in (EVENTS if events is None else events)]
    path.with_suffix(".jsonl").write_text("\n".join(lines) + "\n")
    return path
