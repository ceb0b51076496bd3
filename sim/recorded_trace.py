"""Reads what a real engine recorded of its decisions: `NAME.json` (settings) and `NAME.jsonl` (events).

Owns the files' form, including what a line means by leaving a field out; refuses to know the core.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sim.errors import ConfigError, Problem

Fields = dict[str, Any]


class RecordedTrace:
    """A recorded trace in memory; what a line leaves out is as on the last line that had it."""

    def __init__(self, about: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> None:
        self.name: str = about["name"]
        self.config: Mapping[str, Any] = about["config"]
        self.requests: Mapping[str, Mapping[str, Any]] = _by_engine_id(about["requests"])
        self.outputs: Mapping[str, Sequence[int]] = about["outputs"]
        self.accepted = {
            (request_id, step): accepted
            for request_id, rows in about.get("spec", {}).items()
            for step, _, accepted in rows
        }
        self.drafts = {event["step"]: event["n"] for event in events if event["ev"] == "drafts"}
        self.events = events
        self._latest: Fields = {"running": [], "waiting": [], "free_head": [], "cached_blocks": 0}

    @classmethod
    def read(cls, path: Path) -> RecordedTrace:
        """Read `NAME.json` and the `NAME.jsonl` beside it.

        Raises:
            ConfigError: A file is missing, is no JSON, lacks a key, or the trace is of another family.
        """
        log = path.with_suffix(".jsonl")
        try:
            about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line]
            if str(about["name"]).startswith("v0_"):
                message = (
                    "this trace is of vLLM's V0 scheduler; real_* and stub_* traces (V1) can be replayed"
                )
                raise ConfigError([Problem(str(path), "name", message)])
            return cls(about, events)
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError([Problem(str(path), "", f"cannot read the recorded trace: {error}")]) from error
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            message = f"not a recorded trace (NAME.json with NAME.jsonl beside it): {error!r}"
            raise ConfigError([Problem(str(path), "", message)]) from error

    def compared_events(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Schedules and updates, with their line in the file."""
        for line, event in enumerate(self.events, 1):
            if event["ev"] in ("schedule", "update"):
                yield line, event

    def fill_in(self, event: Mapping[str, Any]) -> Fields:
        """Everything a line says, also by leaving it out."""
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

    def _fill_in_schedule(self, event: Mapping[str, Any]) -> Fields:
        filled: Fields = {
            "sched": [row[:3] for row in event["sched"]],
            "prefix_hits": [row[3] for row in event["sched"]],
            "blocks": [row[4] for row in event["sched"]],
            "tokens": event["tokens"],
            "spec": event.get("spec", {}),
            "preempted": event.get("preempted", []),
            "free": event["free"],
        }
        for name in ("running", "waiting"):
            self._latest[name] = event.get(name, self._latest[name])
            filled[name] = self._latest[name]
        return filled


def _by_engine_id(requests: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The engine's front end makes n requests of one with n > 1, named `0_ID` to `n-1_ID`."""
    named: dict[str, Mapping[str, Any]] = {}
    for request in requests:
        if request.get("n", 1) == 1:
            named[request["id"]] = request
        else:
            named |= {f"{sample}_{request['id']}": request for sample in range(request["n"])}
    return named
