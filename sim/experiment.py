"""`Experiment`: everything one run depends on, checked and frozen.

Made by `sim.config` from a YAML file. Refuses to know YAML: the parts are the values that the code which
uses them owns. To change one, load it again with overrides: `resolved()` says what it was made from.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim.core.engine import EngineConfig
from sim.core.reservation import ContiguousConfig
from sim.cost.block_reads import NOTHING_MEASURED, AttentionKernel
from sim.cost.hardware import Gpu
from sim.cost.host_traffic import HostTraffic
from sim.cost.kernels import Fusion
from sim.cost.model import ModelShape
from sim.cost.step_times import StepTimes
from sim.fleet.beam_search import BeamLaw
from sim.fleet.cluster import ClusterConfig
from sim.metrics.summary import Slo
from sim.replay_settings import CrosscheckSettings, SamplingSettings
from sim.speculation.speculator import Speculation
from workloads.generate import WorkloadConfig

_AS_VLLM = SamplingSettings()
_NOT_JUDGED = CrosscheckSettings()


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment.

    Attributes:
        tensor_parallel_size: GPUs that share each layer of one replica.
        pipeline_parallel_size: Stages that the layers of one replica are cut into.
        engine: Of each replica.
        results_dir: Folder that results are written under.
        settings: The whole configuration as plain data, defaults and release rules filled in.
        source: The file it was read from; no part of what it is.
        warnings: What is allowed but probably not meant.
        traffic: How blocks travel to the host and back; None: nothing is ever moved.
        beams: How often beams change parents, where requests search.
        speculation: What is drafted and kept; None: nothing.
        step_times: Known step times; None: those of the cost model.
        sampling: How a real engine chooses tokens.
        crosscheck: How far a simulation may be from its replay.
        own_files: Sources of the user's own policies.
        attention: Which kernel attends, and what reading blocks costs it.
        fusion: How much of a step is one kernel; None: step times are those of `RooflineCost`.
    """

    name: str
    seed: int
    model: ModelShape
    gpu: Gpu
    tensor_parallel_size: int
    cluster: ClusterConfig
    engine: EngineConfig
    workload: WorkloadConfig
    slo: Slo
    results_dir: Path
    settings: Mapping[str, Any]
    source: Path = field(compare=False)
    warnings: tuple[str, ...] = ()
    traffic: HostTraffic | None = None
    beams: BeamLaw | None = None
    speculation: Speculation | None = None
    step_times: StepTimes | None = None
    fusion: Fusion | None = None
    attention: AttentionKernel = NOTHING_MEASURED
    sampling: SamplingSettings = _AS_VLLM
    crosscheck: CrosscheckSettings = _NOT_JUDGED
    pipeline_parallel_size: int = 1
    own_files: tuple[Path, ...] = field(default=(), compare=False)

    @property
    def paged_block_size(self) -> int | None:
        """Tokens of a KV block; None where memory is contiguous."""
        cache = self.engine.cache
        return None if isinstance(cache, ContiguousConfig) else cache.block_size

    @property
    def num_gpus(self) -> int:
        """GPUs of the whole fleet."""
        return self.cluster.num_replicas * self.tensor_parallel_size * self.pipeline_parallel_size

    def resolved(self) -> dict[str, Any]:
        """Plain data which, written as YAML (`sim.config.yaml_dump`), loads as an equal experiment."""
        return copy.deepcopy(dict(self.settings))
