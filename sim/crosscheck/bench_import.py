"""Reading somebody's benchmark of a real server: `vllm bench serve --save-detailed`, or AIPerf.

    vLLM    one JSON object; ttfts and itls in seconds, one entry a request; start_times where it has them
    AIPerf  profile_export.jsonl: one record a request, metrics with their unit and value

What is read becomes an `Observed`, and where it says when requests were sent, a `Workload`, so that the same
requests can be simulated. Refuses files without per-request data: their percentiles cannot be compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.crosscheck.observed import Observed
from sim.errors import ConfigError, Problem
from workloads.spec import Workload
from workloads.text import parse_json

_NS_PER_S = 1e9
_MS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3, "sec": 1e3, "seconds": 1e3, "milliseconds": 1.0}
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Imported:
    """A benchmark that was read.

    Attributes:
        observed: Its latencies.
        workload: Its requests; None where it does not say when they were sent.
        server: What it says of the server and the client, for people.
    """

    observed: Observed
    workload: Workload | None
    server: Mapping[str, str]


def import_bench(path: Path) -> Imported:
    """Read a benchmark's result.

    Raises:
        ConfigError: It cannot be read, is of neither kind, or has no per-request data.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(path, f"cannot be read: {error}") from None
    documents = _documents(path, text)
    if len(documents) == 1 and "ttfts" in documents[0]:
        return _vllm(path, documents[0])
    if documents and all("metrics" in document for document in documents):
        return _aiperf(path, documents)
    if len(documents) == 1 and "request_throughput" in documents[0]:
        message = "has no per-request data: run vllm bench serve with --save-result --save-detailed"
        raise _wrong(path, message)
    raise _wrong(path, "is neither a result of vllm bench serve nor AIPerf's profile_export.jsonl")


def _documents(path: Path, text: str) -> list[dict[str, Any]]:
    """One JSON object, or one a line."""
    try:
        whole = parse_json(text)
        found = [whole]
    except json.JSONDecodeError as fault:
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            found = [parse_json(line) for line in lines]
        except json.JSONDecodeError:
            message = f"is not JSON: {fault.msg}"
            raise ConfigError([Problem(str(path), "", message, fault.lineno, fault.colno)]) from None
    if not found or not all(isinstance(document, dict) for document in found):
        raise _wrong(path, "holds no JSON object")
    return found


# vLLM ---------------------------------------------------------------------------------------------


def _vllm(path: Path, document: Mapping[str, Any]) -> Imported:
    try:
        ttfts = np.array(document["ttfts"], dtype=float)
        outputs = np.array(document["output_lens"], dtype=float)
        inputs = np.array(document["input_lens"], dtype=float)
        itls: Sequence[Sequence[float]] = document["itls"]
        duration_s = float(document["duration"])
        if not len(ttfts) == len(outputs) == len(inputs) == len(itls):
            raise ValueError("its lists differ in length")
        completed = (outputs > 0) & ~_has_error(document, len(outputs))
        decode_s = np.array([sum(gaps) for gaps in itls], dtype=float)
    except (KeyError, TypeError, ValueError) as error:
        raise _wrong(path, f"lacks what a detailed result has: {error}") from None
    if not completed.any():
        raise _wrong(path, "has no request that completed")
    further = np.where(outputs > 1, outputs - 1, np.nan)
    observed = Observed(
        "measured",
        {
            "ttft": 1e3 * ttfts[completed],
            "tpot": 1e3 * (decode_s / further)[completed],
            "e2el": 1e3 * (ttfts + decode_s)[completed],
        },
        float(outputs[completed].sum() / duration_s),
        notes=_failures(completed),
    )
    keys = ("backend", "model_id", "request_rate", "max_concurrency", "burstiness", "date")
    server = {key: str(document[key]) for key in keys if document.get(key) is not None}
    return Imported(observed, _vllm_workload(path, document, inputs, outputs, completed), server)


def _has_error(document: Mapping[str, Any], count: int) -> NDArray[np.bool_]:
    errors = document.get("errors") or [""] * count
    return np.array([bool(error) for error in errors])


def _vllm_workload(
    path: Path, document: Mapping[str, Any], inputs: Floats, outputs: Floats, completed: NDArray[np.bool_]
) -> Workload | None:
    starts = document.get("start_times")
    concurrency = document.get("max_concurrency")
    if isinstance(starts, list) and len(starts) == len(inputs):
        sent = np.array(starts, dtype=float)[completed]
    elif str(document.get("request_rate")) == "inf":
        sent = np.zeros(int(completed.sum()))
    else:
        return None
    return _workload(path, sent, inputs[completed], outputs[completed], concurrency)


# AIPerf -------------------------------------------------------------------------------------------


def _aiperf(path: Path, records: Sequence[Mapping[str, Any]]) -> Imported:
    records = [record for record in records if not _is_warm_up(record)]
    kept = [record for record in records if not record.get("error")]
    try:
        columns = {
            name: np.array([_metric(record, key) for record in kept])
            for name, key in (
                ("ttft", "time_to_first_token"),
                ("e2el", "request_latency"),
                ("outputs", "output_sequence_length"),
                ("inputs", "input_sequence_length"),
            )
        }
        sent = np.array([float(record["metadata"]["request_start_ns"]) for record in kept]) / _NS_PER_S
    except (KeyError, TypeError, ValueError) as error:
        raise _wrong(path, f"lacks what a record of AIPerf has: {error}") from None
    if not kept:
        raise _wrong(path, "has no request that completed")
    outputs = columns["outputs"]
    further = np.where(outputs > 1, outputs - 1, np.nan)
    ends_s = sent + columns["e2el"] / 1e3
    observed = Observed(
        "measured",
        {
            "ttft": columns["ttft"],
            "tpot": (columns["e2el"] - columns["ttft"]) / further,
            "e2el": columns["e2el"],
        },
        float(outputs.sum() / (ends_s.max() - sent.min())),
        notes=_failures(np.arange(len(records)) < len(kept)),
    )
    return Imported(observed, _workload(path, sent, columns["inputs"], outputs, None), {"client": "AIPerf"})


def _is_warm_up(record: Mapping[str, Any]) -> bool:
    return str(record.get("metadata", {}).get("benchmark_phase", "profiling")) == "warmup"


def _metric(record: Mapping[str, Any], key: str) -> float:
    """A metric's value; times in milliseconds."""
    entry = record["metrics"][key]
    return float(entry["value"]) * _MS.get(str(entry.get("unit", "")).lower(), 1.0)


# Both ---------------------------------------------------------------------------------------------


def _workload(
    path: Path, sent_s: Floats, inputs: Floats, outputs: Floats, concurrency: int | None
) -> Workload:
    """The requests in the order in which they were sent, from the first on."""
    order = np.argsort(sent_s, kind="stable")
    arrival_ns = np.round((sent_s[order] - sent_s.min()) * _NS_PER_S).astype(np.int64)
    return Workload(
        path.name,
        arrival_ns,
        np.maximum(inputs[order], 1).astype(np.int64),
        np.maximum(outputs[order], 1).astype(np.int64),
        concurrency=None if arrival_ns.any() else concurrency,
    )


def _failures(completed: NDArray[np.bool_]) -> tuple[str, ...]:
    num_failed = int((~completed).sum())
    return (f"{num_failed} of {len(completed)} requests failed and are left out",) if num_failed else ()


def _wrong(path: Path, message: str) -> ConfigError:
    return ConfigError([Problem(str(path), "", message)])
