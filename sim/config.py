"""Experiment files: YAML to a checked, frozen `Experiment`, with all errors of a file at once.

    read_yaml -> overrides -> form (pydantic) -> do the parts fit? -> Experiment

Each error reads `file:line:column: key: what is wrong`, in file order. The form of a file is judged
first; whether its parts fit together only when the form is right. Owns how sections become the values
that the simulator works with; the sections themselves are in `sim.config_schema`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sim.config_catalog import load_gpu, load_model
from sim.config_checks import Fit
from sim.config_errors import in_file_order, problem_at, problems_of
from sim.config_overrides import apply_override
from sim.config_paths import Surroundings
from sim.config_schema import EngineSection, ExperimentFile, json_schema
from sim.core.block_pool import FreeOrder
from sim.core.engine import EngineConfig
from sim.core.kv_cache import CacheConfig
from sim.core.policy import PolicyKind
from sim.core.scheduler_config import SchedulerConfig
from sim.errors import ConfigError, Problem
from sim.experiment import Experiment
from sim.yaml_source import Document, read_yaml

__all__ = ["Experiment", "json_schema", "load_experiment"]


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file, with changes such as `engine.block_size=32`.

    Paths in the file, and in overrides, are relative to the file.

    Raises:
        ConfigError: Something is wrong; it holds everything found.
    """
    path = Path(path)
    document = read_yaml(path)
    if document.data is None:
        document.data = {}
    for override in overrides:
        apply_override(document, override)
    file = _read_form(document, path.parent)
    if file.name is None:
        file = file.model_copy(update={"name": _name_from(path)})
    return _compose(file, document, path)


def _read_form(document: Document, folder: Path) -> ExperimentFile:
    problems = list(document.problems)
    try:
        file = ExperimentFile.model_validate(document.data, context=Surroundings(folder))
    except ValidationError as error:
        places = {_place(problem) for problem in problems}
        found = problems_of(error, ExperimentFile, document)
        problems += [problem for problem in found if _place(problem) not in places]
        raise ConfigError(in_file_order(problems)) from error
    if problems:
        raise ConfigError(in_file_order(problems))
    return file


def _place(problem: Problem) -> tuple[object, ...]:
    """Where a problem is; one that the YAML reader found is not reported again as a wrong value."""
    return problem.source, problem.line, problem.column, problem.key if problem.line is None else ""


def _compose(file: ExperimentFile, document: Document, path: Path) -> Experiment:
    fit = Fit(file, load_model(file.model, path.parent), load_gpu(file.hardware, path.parent))
    faults = [problem_at(document.value_mark(key), key, message) for key, message in fit.faults()]
    if faults:
        raise ConfigError(in_file_order(faults))
    settings = file.engine.with_release_rules().model_copy(update={"max_model_len": fit.max_model_len})
    file = file.model_copy(update={"engine": settings})
    return Experiment(
        name=str(file.name),
        seed=file.seed,
        model=fit.model,
        gpu=fit.gpu,
        tensor_parallel_size=fit.tensor_parallel_size,
        cluster=file.cluster.value(),
        engine=_engine_config(settings, fit),
        workload=file.workload.value(),
        slo=file.slo.value(),
        results_dir=Path(file.results.dir),
        settings=file.model_dump(mode="json", exclude_none=True),
        source=path,
        warnings=tuple(fit.warnings()),
    )


def _engine_config(section: EngineSection, fit: Fit) -> EngineConfig:
    cache = CacheConfig(
        num_blocks=fit.num_usable_blocks,
        block_size=section.block_size,
        enable_prefix_caching=section.enable_prefix_caching,
        free_order=FreeOrder(section.free_order),
    )
    scheduler = SchedulerConfig(
        max_model_len=fit.max_model_len,
        max_num_seqs=section.max_num_seqs,
        max_num_batched_tokens=section.max_num_batched_tokens,
        max_num_scheduled_tokens=section.max_num_scheduled_tokens,
        enable_chunked_prefill=section.enable_chunked_prefill,
        long_prefill_token_threshold=section.long_prefill_token_threshold,
        exempt_lone_prompt=bool(section.exempt_lone_prompt),
        policy=PolicyKind(section.scheduling_policy),
        watermark_fraction=section.watermark,
        full_sequence_gate=bool(section.full_sequence_gate),
        async_scheduling=section.async_scheduling,
        batching=section.batching.value(),
    )
    limits: dict[str, Any] = {} if section.max_horizon is None else {"max_horizon": section.max_horizon}
    return EngineConfig(cache, scheduler, **limits)


def _name_from(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "experiment"
