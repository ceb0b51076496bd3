"""The form of a recorded trace, checked before it is replayed: what is missing or amiss, by file and line.

Owns which fields a trace must have and what they may hold; fields that are not known here are let pass, since
recordings carry more than a replay needs. Refuses to know what a field is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError

from sim.errors import ConfigError, Problem

MOST_PROBLEMS = 10
Count = Annotated[int, Field(ge=0, strict=True)]
Size = Annotated[int, Field(ge=1, strict=True)]
Blocks = Annotated[int, Field(ge=0, le=10_000_000, strict=True)]
"""So many ids are made at once."""
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="allow")


class _V1Config(_Form):
    usable_blocks: Blocks
    block_size: Size
    enable_prefix_caching: StrictBool
    max_model_len: Size
    max_num_seqs: Size
    max_num_batched_tokens: Size
    max_num_scheduled_tokens: Size | None
    enable_chunked_prefill: StrictBool
    long_prefill_token_threshold: Count
    policy: Literal["fcfs", "priority"]
    watermark: Fraction
    reserve_full_isl: StrictBool
    async_scheduling: StrictBool
    num_spec_tokens: Count
    num_lookahead_tokens: Count
    draft_slots: Count
    eagle_block_drop: StrictBool = False
    vllm_version: str = ""


class _V0Config(_Form):
    num_gpu_blocks: Blocks
    num_cpu_blocks: Blocks
    block_size: Size
    max_model_len: Size
    max_num_seqs: Size
    max_num_batched_tokens: Size
    max_paddings: Count
    watermark: Fraction


class _Request(_Form):
    id: str
    prompt: list[Count] = Field(min_length=1)
    n: Size = 1


class _V1Request(_Request):
    max_tokens: Size
    priority: StrictInt = 0


class _V0Request(_Request):
    lengths: list[Size] = Field(min_length=1)


class _V1About(_Form):
    name: str
    config: _V1Config
    requests: list[_V1Request]
    outputs: dict[str, list[Count]] = {}
    spec: dict[str, list[tuple[Count, Count, Count]]] = {}


class _V0About(_Form):
    name: str
    config: _V0Config
    requests: list[_V0Request]


class _V1Schedule(_Form):
    step: Count
    arrivals: list[str] = []
    aborted: list[tuple[str, Any]] = []
    sched: list[tuple[str, str, Count, Count, list[Count]]] = []
    free: Count


class _V0Schedule(_Form):
    step: Count
    arrivals: list[str] = []
    sched: list[tuple[str, list[str], list[Count], Count, Count]] = []
    swap_out: list[tuple[str, Count]] = []
    swap_in: list[tuple[str, Count]] = []
    free_gpu: Count
    free_cpu: Count


class _V1Update(_Form):
    step: Count
    free: Count


class _V0Update(_Form):
    step: Count
    forks: list[tuple[str, str]] = []
    freed_seqs: list[str] = []
    finished: list[str] = []
    free_gpu: Count
    free_cpu: Count


class _Drafts(_Form):
    step: Count
    n: dict[str, Count]


_EVENTS_OF_V1: dict[str, type[_Form]] = {"schedule": _V1Schedule, "update": _V1Update, "drafts": _Drafts}
_EVENTS_OF_V0: dict[str, type[_Form]] = {"schedule": _V0Schedule, "update": _V0Update}


class _Event(_Form):
    ev: str


def check_form(path: Path, about: Any, events: Sequence[tuple[int, Any]]) -> None:
    """Check the settings of a trace and its events, each given with its line.

    Raises:
        ConfigError: With what is wrong, the first ten things at most.
    """
    is_v0 = isinstance(about, dict) and str(about.get("name")).startswith("v0_")
    problems = list(_faults(_V0About if is_v0 else _V1About, about, str(path)))
    log = str(path.with_suffix(".jsonl"))
    forms = _EVENTS_OF_V0 if is_v0 else _EVENTS_OF_V1
    for line, event in events:
        ev = event.get("ev") if isinstance(event, dict) else None
        problems += _faults(forms.get(str(ev), _Event), event, log, line)
    refuse(problems)


def _faults(form: type[_Form], data: Any, source: str, line: int | None = None) -> Iterator[Problem]:
    try:
        form.model_validate(data)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            key = ".".join(map(str, detail["loc"]))
            message = "is missing" if detail["type"] == "missing" else detail["msg"]
            yield Problem(source, key, message, line)


def check_order(
    path: Path, requests: Mapping[str, Mapping[str, Any]], events: Sequence[tuple[int, Any]]
) -> None:
    """Check that each line speaks only of requests, sequences and steps that a line before it brought.

    Raises:
        ConfigError: With what is wrong, the first ten things at most.
    """
    order = _Order(requests)
    log = str(path.with_suffix(".jsonl"))
    faults = ((line, fault) for line, event in events for fault in order.faults(event))
    refuse([Problem(log, key, message, line) for line, (key, message) in faults])


def refuse(problems: Sequence[Problem]) -> None:
    """Stop if there are problems.

    Raises:
        ConfigError: There are; it holds the first ten.
    """
    if problems:
        raise ConfigError(problems[:MOST_PROBLEMS])


class _Order:
    """What the lines so far have brought."""

    def __init__(self, requests: Mapping[str, Mapping[str, Any]]) -> None:
        self._requests = requests
        self._arrived: set[str] = set()
        self._seqs: set[str] = set()
        self._open_steps: set[int] = set()
        self._latest_step = -1

    def faults(self, event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """What of this line hangs in the air: field and message."""
        match event["ev"]:
            case "schedule":
                yield from self._schedule(event)
            case "update":
                yield from self._update(event)

    def _schedule(self, event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if event["step"] <= self._latest_step:
            yield "step", f"{event['step']} does not follow {self._latest_step}"
        self._latest_step = event["step"]
        self._open_steps.add(event["step"])
        for name in event.get("arrivals", []):
            if name not in self._requests:
                yield "arrivals", f"there is no request {name}"
            elif name in self._arrived:
                yield "arrivals", f"{name} arrived before"
            else:
                self._arrived.add(name)
                lengths = self._requests[name].get("lengths", [])
                self._seqs |= {f"{name}/{sample}" for sample in range(len(lengths))}
        for name, _ in event.get("aborted", []):
            if name not in self._arrived:
                yield "aborted", f"{name} has not arrived"

    def _update(self, event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if event["step"] not in self._open_steps:
            yield "step", f"{event['step']} is not under way"
        self._open_steps.discard(event["step"])
        for parent, child in event.get("forks", []):
            if parent not in self._seqs:
                yield "forks", f"there is no sequence {parent}"
            self._seqs.add(child)
        for name in event.get("freed_seqs", []):
            if name not in self._seqs:
                yield "freed_seqs", f"there is no sequence {name}"
