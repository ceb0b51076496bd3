"""A run on disk, `results/<experiment>/<run>/`: written whole or not at all, and read back equal.

    config.yaml        the resolved configuration; loads as an equal experiment
    environment.json   code, machine, inputs, times (`environment.py`)
    requests.npz       one row a request        } the tables of `sim.record`,
    steps.npz          one row an engine step   } column by column
    tokens.npz         token_times, token_offsets, stream_request
    record.json        what of the record is no table: sizes and counters
    summary.json       every number, then notes and definitions (`sim.metrics`)
    bench.json         the same in vLLM's schema (`bench_file.py`)
    plots/*.svg, png   pictures                      } drawn by
    report.html        all of that on one page       } `sim.report`

The same experiment with the same seed gives the same bytes in every file but `environment.json`, and
`bench.json` but for its `date` (set `SOURCE_DATE_EPOCH` to fix that too).

A run is written under a hidden name beside its own, flushed to the disk and renamed; a run that dies leaves
at most a folder whose name starts with a dot. An existing run is never overwritten, and none is lost because
another has its name (`whole_folder.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from sim.config.yaml_dump import dump_yaml
from sim.config.yaml_source import read_yaml
from sim.errors import ConfigError, Problem
from sim.metrics.summary import Summary
from sim.record.column_files import read_columns, write_columns
from sim.record.run_record import TIME, RunRecord, RunRecordError
from sim.results.bench_file import Traffic, bench_document, dump_bench
from sim.results.whole_folder import WholeFolder, is_taken
from workloads.text import parse_json

RECORD_SCHEMA_VERSION = 1
_NO_TIMES = np.zeros(0, dtype=TIME)


@dataclass(frozen=True, slots=True)
class Run:
    """Everything kept of one run."""

    config: Mapping[str, Any]
    """The resolved configuration: plain data."""
    record: RunRecord
    summary: Summary
    environment: Mapping[str, Any]


Draw = Callable[[Path, Run], None]
"""Adds pictures and pages of a run to its folder."""


def unique_run_name(config: Mapping[str, Any], now: datetime) -> str:
    """When the run began (UTC) and eight digits of its configuration's hash."""
    canonical = json.dumps(config, sort_keys=True, default=str)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest[:8]}"


def write_run(
    folder: Path,
    run: Run,
    traffic: Traffic,
    *,
    draw: Draw | None = None,
    attachments: Mapping[str, bytes] = MappingProxyType({}),
    renames: bool = False,
) -> Path:
    """Write a run, further files by name, and what `draw` makes of it, as `folder`.

    Args:
        folder: What it is to be called.
        run: What to write.
        traffic: The rate and the like, for `bench.json`.
        draw: Adds pictures and pages.
        attachments: Further files by name.
        renames: Whether a run whose name is taken before it is written gets another, as it does when that
            happens while it is written.

    Returns:
        What the folder is called.

    Raises:
        ConfigError: The folder is there before, and not empty, or cannot be written.
    """
    if is_taken(folder) and not renames:
        raise ConfigError([Problem(str(folder), "", "this run exists already, and runs are not overwritten")])
    writing = WholeFolder(folder)
    with writing as partial:
        _write_files(partial, run, traffic)
        for name, content in attachments.items():
            (partial / name).write_bytes(content)
        if draw is not None:
            draw(partial, run)
    return writing.folder


def _write_files(folder: Path, run: Run, traffic: Traffic) -> None:
    record = run.record
    write_columns(folder / "requests.npz", record.requests)
    write_columns(folder / "steps.npz", record.steps)
    tokens = {
        "token_times": record.token_times.astype(TIME),
        "token_offsets": record.token_offsets,
        "stream_request": record.stream_request,
    }
    write_columns(folder / "tokens.npz", tokens)
    bench = bench_document(record, run.summary, traffic, _date(run.environment))
    texts = {
        "config.yaml": dump_yaml(dict(run.config)),
        "environment.json": dump_json(run.environment),
        "record.json": dump_json(_record_facts(record)),
        "summary.json": dump_summary(run.summary),
        "bench.json": dump_bench(bench),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _record_facts(record: RunRecord) -> dict[str, Any]:
    return {
        "schema_version": RECORD_SCHEMA_VERSION,
        "num_blocks": record.num_blocks,
        "block_size": record.block_size,
        "num_replicas": record.num_replicas,
        "counters": dict(sorted(record.counters.items())),
    }


def _date(environment: Mapping[str, Any]) -> datetime:
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    return datetime.fromtimestamp(int(fixed), UTC) if fixed.isdecimal() else _started(environment)


def _started(environment: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(environment["started"])


def dump_json(document: Mapping[str, Any]) -> str:
    """JSON for people and programs alike; refuses NaN."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def dump_summary(summary: Summary) -> str:
    """The text of `summary.json`."""
    return dump_json(summary.to_json())


def load_run(folder: Path) -> Run:
    """Read a run back.

    Raises:
        ConfigError: The folder is no run, or one of its files is missing or damaged.
    """
    if not folder.is_dir():
        raise ConfigError([Problem(str(folder), "", "is not the folder of a run")])
    environment = _read_json(folder / "environment.json")
    config = read_yaml(folder / "config.yaml")
    if config.problems:
        raise ConfigError(config.problems)
    if not isinstance(config.data, dict):
        raise ConfigError([Problem(str(folder / "config.yaml"), "", "is no experiment: it has no keys")])
    return Run(
        config=config.data,
        record=_read_record(folder, environment),
        summary=_read_summary(folder / "summary.json"),
        environment=environment,
    )


def _read_summary(path: Path) -> Summary:
    try:
        return Summary.from_json(_read_json(path))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError([Problem(str(path), "", f"is no summary of this version: {error}")]) from error


def _read_record(folder: Path, environment: Mapping[str, Any]) -> RunRecord:
    facts = _read_json(folder / "record.json")
    tokens = read_columns(folder / "tokens.npz")
    if tokens.get("token_times", _NO_TIMES).dtype != _NO_TIMES.dtype:
        raise ConfigError([Problem(str(folder / "tokens.npz"), "token_times", "holds no times")])
    try:
        return RunRecord(
            requests=read_columns(folder / "requests.npz"),
            steps=read_columns(folder / "steps.npz"),
            token_offsets=tokens["token_offsets"],
            token_times=tokens["token_times"].astype(np.int64),
            stream_request=tokens["stream_request"],
            num_blocks=facts["num_blocks"],
            block_size=facts["block_size"],
            num_replicas=facts["num_replicas"],
            counters=facts["counters"],
            cpu_s=environment["simulation_cpu_s"],
        ).check()
    except KeyError as error:
        raise ConfigError([Problem(str(folder), str(error.args[0]), "is missing from the files")]) from error
    except RunRecordError as error:
        raise ConfigError([Problem(str(folder), "", str(error))]) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError([Problem(str(path), "", "is missing")]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {error}")]) from error
    except json.JSONDecodeError as error:
        problem = Problem(str(path), "", f"is damaged: {error.msg}", error.lineno, error.colno)
        raise ConfigError([problem]) from error
    if not isinstance(document, dict):
        raise ConfigError([Problem(str(path), "", "is not a JSON object")])
    return document
