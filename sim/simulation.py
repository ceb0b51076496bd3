"""One run, from what is asked for to its `RunRecord`; simulated, or in another body."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sim.core.engine import EngineConfig, EngineCore, PlanDetail
from sim.cost.cost_model import CostModel
from sim.cost.hardware import Gpu
from sim.cost.model import ModelShape
from sim.cost.roofline import RooflineCost
from sim.cost.spread import ScaledCost, moved_curves, range_of
from sim.cost.step_time import KernelCost
from sim.errors import ConfigError, Problem
from sim.experiment import Experiment
from sim.fleet.cluster import Body, Cluster, ClusterConfig, Physics, Progress
from sim.fleet.driver import SimulationTooLongError
from sim.metrics.confidence import Grounds, kernel_parts
from sim.record.builder import build_record
from sim.record.run_record import RunRecord
from sim.speculation.acceptance import Recorded, RecordingTooShortError
from sim.speculation.acceptance_file import check_recorded
from workloads.generate import build
from workloads.spec import Workload


def simulate(
    experiment: Experiment,
    *,
    workload: Workload | None = None,
    cost: CostModel | None = None,
    draft_cost: CostModel | None = None,
    on_progress: Progress | None = None,
) -> RunRecord:
    """Simulate an experiment.

    Args:
        experiment: What to simulate.
        workload: Its workload, if that has been made already.
        cost: Step times; None: those of its model on its GPU.
        draft_cost: Likewise of its draft model.
        on_progress: Called now and then with simulated nanoseconds, requests ended, requests in all.

    Raises:
        WorkloadError: The workload cannot be read or made.
        ConfigError: A recording of accepted drafts is shorter than the run, or not of such a run; or more
            time passes than can be told.
        SimulationError: See `run`.
    """
    if workload is None:
        workload = build(experiment.workload, seed=experiment.seed)
    if cost is None:
        cost = experiment_cost(experiment)
    _check_recording(experiment, workload)
    if draft_cost is None:
        draft_cost = experiment_draft_cost(experiment)
    physics = Physics(cost, experiment.traffic, experiment.beams, experiment.speculation, draft_cost)
    try:
        return run(workload, experiment.engine, physics, experiment.cluster, on_progress)
    except SimulationTooLongError as error:
        raise ConfigError([Problem(str(experiment.source), "", str(error))]) from error
    except RecordingTooShortError as error:
        request, sample = error.key
        key = f"accepted.{request}[{sample}]"
        raise ConfigError([Problem(str(_recording_of(experiment)), key, error.message)]) from error


def simulate_at_the_end(experiment: Experiment, workload: Workload, *, slower: bool) -> RunRecord:
    """Simulate with all fitted step times at one end of where nine of ten measured times lie."""
    gpu, cost = experiment.gpu, None
    if gpu.step_spread is not None:
        cost = ScaledCost(experiment_cost(experiment), range_of(gpu.step_spread)[slower])
    else:
        parts = kernel_parts(grounds_of(experiment))
        known = {part.name for part in parts if part.longer_fraction is not None}
        curves = moved_curves(gpu.curves, slower=slower, names=known)
        experiment = replace(experiment, gpu=replace(gpu, curves=curves))
    return simulate(experiment, workload=workload, cost=cost)


def grounds_of(experiment: Experiment) -> Grounds:
    """What the step times of an experiment are made of."""
    times = experiment.step_times
    return Grounds(
        experiment.model,
        experiment.gpu,
        experiment.attention,
        experiment_cost(experiment),
        experiment.tensor_parallel_size,
        drafts=experiment.speculation is not None,
        known_times=None if times is None else times.origin,
    )


def _check_recording(experiment: Experiment, workload: Workload) -> None:
    speculation = experiment.speculation
    if speculation is not None and isinstance(speculation.acceptance, Recorded):
        path = _recording_of(experiment)
        check_recorded(speculation.acceptance, path, workload, speculation.how_many.most)


def _recording_of(experiment: Experiment) -> Path:
    return Path(experiment.settings["speculation"]["acceptance"]["path"])


def experiment_cost(experiment: Experiment) -> CostModel:
    """Step times of an experiment's model on its GPU."""
    if experiment.step_times is not None:
        return experiment.step_times.target_cost()
    return _model_cost(
        experiment,
        experiment.model,
        experiment.gpu,
        tensor_parallel_size=experiment.tensor_parallel_size,
    )


def _model_cost(
    experiment: Experiment,
    model: ModelShape,
    gpu: Gpu,
    *,
    tensor_parallel_size: int,
) -> CostModel:
    """By kernels, or by one roofline where the experiment asks for that."""
    fusion, block_size = experiment.fusion, experiment.paged_block_size
    stages = experiment.pipeline_parallel_size
    if fusion is None:
        return RooflineCost(
            model,
            gpu,
            tensor_parallel_size=tensor_parallel_size,
            block_size=block_size,
            attention=experiment.attention,
        )
    return KernelCost(
        model,
        gpu,
        tensor_parallel_size=tensor_parallel_size,
        pipeline_parallel_size=stages,
        block_size=block_size,
        attention=experiment.attention,
        fusion=fusion,
        overlaps_host=experiment.engine.scheduler.async_scheduling,
    )


def experiment_draft_cost(experiment: Experiment) -> CostModel | None:
    """Step times of an experiment's draft model, where it has one; its steps follow the model's at once."""
    speculation = experiment.speculation
    if speculation is None or speculation.draft is None:
        return None
    if experiment.step_times is not None:
        return experiment.step_times.draft_cost()
    return _model_cost(
        experiment,
        speculation.draft,
        replace(experiment.gpu, step_overhead_ns=speculation.draft_overhead_ns),
        tensor_parallel_size=speculation.draft_tensor_parallel_size,
    )


def run(
    workload: Workload,
    engine: EngineConfig,
    body: CostModel | Body,
    config: ClusterConfig | None = None,
    on_progress: Progress | None = None,
) -> RunRecord:
    """Have a fleet serve a workload until every request has ended.

    Args:
        workload: What it is asked to do.
        engine: Settings of each replica.
        body: What carries plans out; step times alone are all that a simulated one needs.
        config: Of the fleet; None: one replica.
        on_progress: See `simulate`.

    Raises:
        SimulationError: Requests stand still, blocks are held at the end, or a step takes no time.
    """
    cluster = Cluster(workload, engine, _as_body(body), config or ClusterConfig(), on_progress)
    with no_garbage_collection():
        started_s = time.process_time()
        cluster.run()
        cpu_s = time.process_time() - started_s
    cluster.check_ended()
    return build_record(cluster.recorder, cluster.cores, cpu_s)


def core_at(workload: Workload, engine: EngineConfig, body: Body, instant_ns: int) -> EngineCore:
    """Serve a workload on one replica until an instant: the core as it is then, for looking at.

    Steps are simulated one by one; the step under way counts as computed.
    """
    engine = replace(engine, max_horizon=1, detail=PlanDetail.SEQUENCES)
    cluster = Cluster(workload, engine, body)
    cluster.run(until_ns=instant_ns)
    return cluster.cores[0]


def _as_body(body: CostModel | Body) -> Body:
    return Physics(body) if isinstance(body, CostModel) else body


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """The hot path makes no reference cycles; looking for them would take a fifth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
