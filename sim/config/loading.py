"""Experiment files: YAML to a checked, frozen `Experiment`, with all errors of a file at once.

    read_yaml -> overrides -> form (pydantic) -> do the parts fit? -> Experiment

Each error reads `file:line:column: key: what is wrong`, in file order. The form of a file is judged
first; whether its parts fit together only when the form is right. Owns how sections become the values
that the simulator works with; the sections themselves are in `sim.config.schema`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from sim.config.catalog import load_attention, load_gpu, load_model
from sim.config.checks import Fit
from sim.config.engine import beam_law, engine_config, host_traffic, speculation_of
from sim.config.errors import in_file_order, problem_at, problems_of
from sim.config.overrides import apply_override
from sim.config.paths import Surroundings
from sim.config.roles import construction_faults, own_classes, with_known
from sim.config.schema import ExperimentFile, json_schema
from sim.config.sweep import SweepSection
from sim.config.yaml_source import Document, read_yaml
from sim.cost.fixed import FixedCost
from sim.cost.kernels import Fusion
from sim.cost.model import ModelShape
from sim.cost.step_times import OwnCost, StepTimes, calibrated_step_times
from sim.errors import ConfigError, Problem
from sim.experiment import Experiment

__all__ = ["Experiment", "json_schema", "load_experiment"]


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file, with changes such as `engine.block_size=32`.

    Paths in the file, and in overrides, are relative to the file.

    Raises:
        ConfigError: Something is wrong; it holds everything found.
    """
    path = Path(path)
    document = _read(path, overrides)
    file = _read_form(document, path.parent)
    if file.name is None:
        file = file.model_copy(update={"name": _name_from(path)})
    return _compose(file, document, path)


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> SweepSection | None:
    """What an experiment file says is to be varied; None where it says nothing.

    Raises:
        ConfigError: Something is wrong with the file.
    """
    path = Path(path)
    return _read_form(_read(path, overrides), path.parent).sweep


def _read(path: Path, overrides: Sequence[str]) -> Document:
    document = read_yaml(path)
    if document.data is None:
        document.data = {}
    for override in overrides:
        apply_override(document, override)
    return document


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
    model, gpu = load_model(file.model, path.parent), load_gpu(file.hardware, path.parent)
    fit = Fit.of(file, model, gpu, _draft_of(file, path))
    fit = replace(fit, file=with_known(fit.file, fit.known))
    found = [*fit.faults(), *construction_faults(fit.file)]
    faults = [problem_at(document.value_mark(key), key, message) for key, message in found]
    if faults:
        raise ConfigError(in_file_order(faults))
    settings = fit.engine.model_copy(update={"max_model_len": fit.max_model_len})
    file = fit.file.model_copy(update={"engine": settings, "swap": fit.swap})
    step_times = _step_times(file)
    return Experiment(
        name=str(file.name),
        seed=file.seed,
        model=fit.model,
        gpu=fit.gpu,
        tensor_parallel_size=fit.tensor_parallel_size,
        cluster=file.cluster.value(),
        engine=step_times.engine(engine_config(fit)) if step_times else engine_config(fit),
        workload=file.workload.value(),
        slo=file.slo.value(),
        results_dir=Path(file.results.dir),
        settings=file.model_dump(mode="json", exclude_none=True, exclude={"sweep"}),
        source=path,
        warnings=(*fit.warnings(), *(step_times.warnings() if step_times else ())),
        traffic=step_times.traffic(host_traffic(fit)) if step_times else host_traffic(fit),
        beams=beam_law(file),
        speculation=speculation_of(fit),
        step_times=step_times,
        sampling=file.sampling.value(),
        crosscheck=file.crosscheck.value(),
        attention=load_attention(str(fit.engine.attention_backend), path.parent),
        fusion=None if file.engine.fusion == "roofline" else Fusion(file.engine.fusion),
        pipeline_parallel_size=fit.pipeline_parallel_size,
        own_files=tuple(own.source for _, own in own_classes(file) if own.source is not None),
    )


def _draft_of(file: ExperimentFile, path: Path) -> ModelShape | None:
    section = file.speculation
    if section is None or section.draft_model is None:
        return None
    return load_model(section.draft_model, path.parent)


def _step_times(file: ExperimentFile) -> StepTimes | None:
    section = file.step_time
    if section is None:
        return None
    if section.calibration is not None:
        model = file.model_dump(mode="json", include={"model"})["model"]
        return calibrated_step_times(Path(section.calibration), file.engine.fusion, model, _drafts(file))
    draft = FixedCost(section.draft) if section.draft is not None else None
    if section.cost is not None:
        own = section.cost
        predicts_horizons = bool(getattr(own.made, "predicts_horizons", False))
        return StepTimes(OwnCost(own, own.short_name, predicts_horizons), draft)
    assert section.target is not None, "checked by the section"
    return StepTimes(FixedCost(section.target), draft)


def _drafts(file: ExperimentFile) -> bool:
    return file.speculation is not None and file.speculation.draft_model is not None


def _name_from(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "experiment"
