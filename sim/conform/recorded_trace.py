"""Reads what a real engine recorded of its decisions: `NAME.json` (settings) and `NAME.jsonl` (events).

Owns what a line means by leaving a field out; refuses to know the core. `recorded_form.py` says what a
trace must look like.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sim.conform.recorded_form import check_form, check_order
from sim.errors import ConfigError, Problem
from workloads.text import parse_json

Fields = dict[str, Any]
_AT_FIRST: Fields = {"running": [], "waiting": [], "swapped": [], "free_head": [], "cached_blocks": 0}


class RecordedTrace:
    """A recorded trace in memory; what a line leaves out is as on the last line that had it."""

    def __init__(self, about: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> None:
        self.name: str = about["name"]
        self.config: Mapping[str, Any] = about["config"]
        self.requests: Mapping[str, Mapping[str, Any]] = _by_engine_id(about["requests"])
        self.is_v0 = self.name.startswith("v0_")
        """Recorded from vLLM's V0 scheduler, whose events are other ones."""
        self.outputs: Mapping[str, Sequence[int]] = about.get("outputs", {})
        self.accepted = {
            (request_id, step): accepted
            for request_id, rows in about.get("spec", {}).items()
            for step, _, accepted in rows
        }
        self.drafts = {event["step"]: event["n"] for event in events if event["ev"] == "drafts"}
        self.events = events
        self._latest: Fields = {}

    @classmethod
    def read(cls, path: Path) -> RecordedTrace:
        """Read `NAME.json` and the `NAME.jsonl` beside it.

        Raises:
            ConfigError: A file is missing or is no JSON, or its content is not that of a recorded trace.
        """
        settings, log = path.with_suffix(".json"), path.with_suffix(".jsonl")
        about = _parse(settings, _read(settings))
        lines = enumerate(_read(log).splitlines(), 1)
        events = [(line, _parse(log, text, line)) for line, text in lines if text]
        check_form(path, about, events)
        trace = cls(about, [event for _, event in events])
        check_order(path, trace.requests, events)
        return trace

    def compared_events(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Schedules and updates, from the first on, with their line in the file."""
        self._latest = dict(_AT_FIRST)
        for line, event in enumerate(self.events, 1):
            if event["ev"] in ("schedule", "update"):
                yield line, event

    def fill_in(self, event: Mapping[str, Any]) -> Fields:
        """Everything a line says, also by leaving it out."""
        if self.is_v0:
            return self._fill_in_v0(event)
        if event["ev"] == "schedule":
            return self._fill_in_schedule(event)
        filled: Fields = {"finished": event.get("finished", []), "free": event["free"]}
        if "out" in event:
            filled["out"] = event["out"]
        else:
            filled["num_out"] = event.get("n_out", 0)
        for name in ("cached_blocks", "free_head"):
            self._latest[name] = event.get(name, self._latest[name])
            filled[name] = self._latest[name]
        return filled

    def _fill_in_v0(self, event: Mapping[str, Any]) -> Fields:
        filled: Fields = {"free_gpu": event["free_gpu"], "free_cpu": event["free_cpu"]}
        if event["ev"] == "update":
            filled["freed_seqs"] = sorted(event.get("freed_seqs", []))
            filled["finished"] = sorted(event.get("finished", []))
            return filled
        for name in ("running", "waiting", "swapped"):
            self._latest[name] = event.get(name, self._latest[name])
            filled[name] = self._latest[name]
        filled |= {
            "prompt_run": event.get("prompt_run", False),
            "sched": [row[:3] for row in event.get("sched", [])],
            "batched_tokens": event.get("batched_tokens", 0),
            "preempt_recompute": event.get("preempt_recompute", []),
            "swap_out": [group for group, _ in event.get("swap_out", [])],
            "swap_in": [group for group, _ in event.get("swap_in", [])],
            "group_blocks": [row[3:] for row in event.get("sched", [])],
            "blocks_swapped_out": sum(count for _, count in event.get("swap_out", [])),
            "blocks_swapped_in": sum(count for _, count in event.get("swap_in", [])),
            "cow_copies": event.get("cow_copies", 0),
        }
        return filled

    def _fill_in_schedule(self, event: Mapping[str, Any]) -> Fields:
        filled: Fields = {
            "sched": [row[:3] for row in event.get("sched", [])],
            "prefix_hits": [row[3] for row in event.get("sched", [])],
            "blocks": [row[4] for row in event.get("sched", [])],
            "tokens": event.get("tokens", 0),
            "spec": event.get("spec", {}),
            "preempted": event.get("preempted", []),
            "free": event["free"],
        }
        for name in ("running", "waiting"):
            self._latest[name] = event.get(name, self._latest[name])
            filled[name] = self._latest[name]
        return filled


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigError([Problem(str(path), "", f"cannot read the recorded trace: {why}")]) from error


def _parse(path: Path, text: str, line: int | None = None) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise ConfigError([Problem(str(path), "", f"is not JSON: {error}", line)]) from error


def _by_engine_id(requests: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """V1's front end makes n requests of one with n > 1, named `0_ID` to `n-1_ID`; V0 keeps them together."""
    named: dict[str, Mapping[str, Any]] = {}
    for request in requests:
        if request.get("n", 1) == 1 or "lengths" in request:
            named[request["id"]] = request
        else:
            named |= {f"{sample}_{request['id']}": request for sample in range(request["n"])}
    return named
