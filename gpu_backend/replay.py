"""Replaying an experiment on a real engine: the workload of the file, served by the model on this device.

    experiment  ->  checks  ->  models, prompts  ->  a fleet with a `DeviceBody`  ->  a run folder's contents

Owns what a device can replay and what not, and the files that a replay adds to a run folder:

    plans.jsonl       what was decided, step by step (`sim/record/plan_log.py`)
    accepted.json     drafts kept in each round, for `acceptance: {kind: recorded}`; with speculation only
    outputs.json      what was said, token by token
    step_parts.csv    where each step's time went

Refuses to time and to schedule. Invariant: nothing is loaded before everything that can be checked has been.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gpu_backend.devices import DeviceKind, Place, find_place, is_out_of_memory
from gpu_backend.engine import Clock, DeviceBody, Models, Speculating
from gpu_backend.executor import TorchExecutor
from gpu_backend.model.llama import LlamaModel
from gpu_backend.model.loading import load_model
from gpu_backend.model.model_folders import folder_of_model
from gpu_backend.model.texts import Prompts, text_tokens
from gpu_backend.stopwatch import single_thread
from gpu_backend.yardstick import Yardstick
from sim.core.engine import EngineConfig, PlanDetail
from sim.core.kv_cache import CacheConfig
from sim.core.reservation import ContiguousConfig
from sim.cost.calibration import dump_table
from sim.crosscheck.parts import StepParts
from sim.errors import ConfigError, Problem
from sim.experiment import Experiment
from sim.fleet.cluster import Cluster, Progress
from sim.fleet.victim_cost import CheaperOfTwo
from sim.record.builder import build_record
from sim.record.plan_log import dump_plans
from sim.record.run_record import RunRecord
from sim.recording import Served
from sim.results.environment import package_version
from sim.simulation import experiment_cost, experiment_draft_cost, no_garbage_collection
from sim.speculation.acceptance_file import dump_recorded
from sim.speculation.speculator import Proposer, SpeculationCost
from workloads.spec import Workload


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What a user chooses beside the experiment.

    Attributes:
        dtype: float32, float16 or bfloat16; None: what suits the device.
        model_folder: Weights of the model, in the Hugging Face layout; None: those known by its name.
        draft_folder: Likewise of the draft model.
    """

    device: DeviceKind = DeviceKind.AUTO
    clock: Clock = Clock.MEASURED
    dtype: str | None = None
    model_folder: Path | None = None
    draft_folder: Path | None = None


@dataclass(frozen=True, slots=True)
class ReplayRun:
    """A workload that was served, and what served it."""

    record: RunRecord
    body: DeviceBody
    cut_short: str | None
    """Why it did not come to its end; None if it did."""
    peak_device_bytes: int | None
    """Most memory that was held meanwhile, by what was there before too; None where nobody counts."""


@dataclass(frozen=True, slots=True)
class Replayer:
    """An experiment with its models loaded: it can be served again and again."""

    experiment: Experiment
    place: Place
    models: Models
    model_folder: Path
    clock: Clock

    @classmethod
    def of(cls, experiment: Experiment, options: ReplayOptions) -> Replayer:
        """Check everything, then load the models.

        Raises:
            ConfigError: The experiment asks for what a device here cannot do, a model's weights are not known
                or not whole, or the device is not there.
        """
        place = find_place(options.device, experiment.fusion, options.dtype)
        faults = [*_faults_of(experiment, options.clock)]
        if faults:
            raise ConfigError([Problem(str(experiment.source), key, message) for key, message in faults])
        settings, speculation = experiment.settings, experiment.speculation
        folder = folder_of_model(settings["model"], experiment.model, options.model_folder, "--model-folder")
        draft = None
        if speculation is not None and speculation.draft is not None:
            name = settings["speculation"]["draft_model"]
            draft_folder = folder_of_model(name, speculation.draft, options.draft_folder, "--draft-folder")
            draft = _load(draft_folder, place)
        return cls(experiment, place, Models(_load(folder, place), draft), folder, options.clock)

    @property
    def config(self) -> EngineConfig:
        """Settings of each replica's brain."""
        return engine_for_devices(self.experiment.engine)

    def body(self, workload: Workload) -> DeviceBody:
        """Engines for one workload, served once."""
        experiment, speculation = self.experiment, self.experiment.speculation
        vocab = self.models.target.config.vocab_size
        speculating = victim_cost = None
        if speculation is not None:
            cost = SpeculationCost(
                speculation, experiment_cost(experiment), experiment_draft_cost(experiment)
            )
            speculating = Speculating(speculation, cost)
        if experiment.traffic is not None:
            victim_cost = CheaperOfTwo(experiment.traffic.moves, experiment_cost(experiment))
        text = text_tokens(self.model_folder, vocab, experiment.seed)
        return DeviceBody(
            self.place,
            self.models,
            self.config,
            Prompts(workload.requests(), text, experiment.seed),
            experiment.sampling,
            experiment.seed,
            self.clock,
            speculating,
            victim_cost,
        )

    def run(
        self, workload: Workload, on_progress: Progress | None = None, *, counts_launches: bool = False
    ) -> ReplayRun:
        """Serve a workload; if the device runs out of memory on the way, that is the end of it.

        The memory of its caches is given back at the end.
        """
        body, cut_short, device = self.body(workload), None, self.place.device
        if self.place.is_cuda:
            torch.cuda.reset_peak_memory_stats(device)
        body.counts_launches = counts_launches
        if self.clock is Clock.MEASURED and not self.place.is_cuda:
            body.yardstick = Yardstick(self.models.target)
        with self.conditions(), no_garbage_collection():
            cluster = Cluster(workload, body.config, body, self.experiment.cluster, on_progress)
            began_s = time.process_time()
            try:
                cluster.run()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                cut_short = str(error).splitlines()[0]
            cpu_s = time.process_time() - began_s
        if cut_short is None:
            cluster.check_ended()
        peak_bytes = torch.cuda.max_memory_allocated(device) if self.place.is_cuda else None
        body.release()
        record = build_record(cluster.recorder, cluster.cores, cpu_s)
        return ReplayRun(record, body, cut_short, peak_bytes)

    def serve(self, workload: Workload, on_progress: Progress | None = None) -> Served:
        """Serve a workload, as the contents of a run folder.

        If the device runs out of memory on the way, what had ended by then is what is returned, and its
        environment says that it is incomplete, and why.
        """
        return self.as_served(self.run(workload, on_progress))

    def as_served(self, done: ReplayRun) -> Served:
        """A replay as the contents of a run folder."""
        notes = () if done.cut_short is None else (f"the run is incomplete: {done.cut_short}",)
        environment = {"replay": self.facts(done)}
        attachments = _attachments(done.body, self.experiment)
        return Served(done.record, attachments, environment, is_predicted=False, notes=notes)

    @contextmanager
    def conditions(self) -> Iterator[None]:
        """On a CPU one thread, so that its time is the step's."""
        if self.place.is_cuda or self.clock is Clock.WALL:
            yield
        else:
            with single_thread():
                yield

    def facts(self, done: ReplayRun) -> dict[str, Any]:
        """What `environment.json` says of a replay."""
        place, body = self.place, done.body
        storages = [storage for each in body.executors for storage in each.storages]
        return {
            "device": place.name,
            "device_type": place.device.type,
            "clock": self.clock.value,
            "dtype": str(place.dtype).removeprefix("torch."),
            "fusion": place.fusion.value,
            "implementation": place.implementation.value,
            "torch": torch.__version__,
            "triton": package_version("triton"),
            "kv_cache_bytes": sum(storage.device_bytes for storage in storages),
            "host_kv_cache_bytes": sum(storage.host_bytes for storage in storages),
            "peak_device_bytes": done.peak_device_bytes,
            "yardstick_us": body.yardstick.mean_us if body.yardstick is not None else None,
            "incomplete": done.cut_short,
        }


def engine_for_devices(config: EngineConfig) -> EngineConfig:
    """The same engine, planning one step at a time and naming every sequence."""
    return replace(config, max_horizon=1, detail=PlanDetail.SEQUENCES)


def _load(folder: Path, place: Place) -> LlamaModel:
    return load_model(folder, place.dtype, place.device, place.implementation)


def _faults_of(experiment: Experiment, clock: Clock) -> Iterator[tuple[str, str]]:
    """What of an experiment a replay cannot do: key, message."""
    speculation = experiment.speculation
    if isinstance(experiment.engine.cache, ContiguousConfig):
        yield "engine.kv_allocation", "contiguous memory is simulated only: a replay needs paged"
    elif not isinstance(experiment.engine.cache, CacheConfig):
        yield "engine.kv_allocation", "an allocator of your own is simulated only: a replay needs paged"
    yield from _ignored_settings(experiment.settings)
    if experiment.tensor_parallel_size > 1 or experiment.pipeline_parallel_size > 1:
        yield "parallelism", "a replay runs on one device: set every size to 1"
    if speculation is not None and speculation.proposer is not Proposer.DRAFT_MODEL:
        yield "speculation.proposer", "a replay drafts with a draft model only: set draft_model"
    if clock is Clock.WALL and experiment.cluster.num_replicas > 1:
        yield "cluster.replicas", "replicas would wait for each other in real time: use --clock measured"


def _ignored_settings(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a simulation goes by and this engine would not."""
    engine = settings["engine"]
    if engine.get("kv_cache_dtype", "auto") != "auto":
        yield "engine.kv_cache_dtype", "a replay keeps keys and values in the model's numbers: say auto"
    if engine.get("quantization") is not None:
        yield "engine.quantization", "a replay's weights are as they were loaded: leave it out"
    for section in ("swap", "offload"):
        if settings.get(section, {}).get("overlap"):
            yield f"{section}.overlap", "a replay waits for its moves: say false"


def _attachments(body: DeviceBody, experiment: Experiment) -> dict[str, bytes]:
    attachments = {
        "plans.jsonl": dump_plans(body.plans),
        "outputs.json": _dump_outputs(body.executors),
        "step_parts.csv": _dump_parts(body.executors),
    }
    if experiment.speculation is not None:
        counts = {name: tuple(kept) for each in body.executors for name, kept in each.accepted.items()}
        attachments["accepted.json"] = dump_recorded(counts, experiment.speculation.how_many.most)
    return {name: text.encode() for name, text in attachments.items()}


def _dump_outputs(executors: list[TorchExecutor]) -> str:
    """Token ids by request, one list for each sample."""
    outputs: dict[str, dict[int, list[int]]] = {}
    for executor in executors:
        for (request, sample), tokens in executor.texts.outputs().items():
            outputs.setdefault(str(request), {})[sample] = tokens
    return json.dumps({request: list(samples.values()) for request, samples in outputs.items()}) + "\n"


def _dump_parts(executors: list[TorchExecutor]) -> str:
    rows = [
        (replica, step, *parts)
        for replica, executor in enumerate(executors)
        for step, parts in enumerate(executor.parts)
    ]
    return dump_table(("replica", "step", *StepParts._fields), rows)
