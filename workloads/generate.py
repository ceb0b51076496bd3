"""Makes a `Workload` from its description."""

from __future__ import annotations

from workloads.selection import make_from_trace
from workloads.servegen import ServeGenWorkload, make_servegen
from workloads.spec import Workload
from workloads.synthetic import SyntheticWorkload, make_synthetic
from workloads.trace import TraceWorkload

WorkloadConfig = SyntheticWorkload | TraceWorkload | ServeGenWorkload


def build(config: WorkloadConfig, *, seed: int) -> Workload:
    """All requests of a run.

    Raises:
        WorkloadError: A file cannot be read, or nothing is left to simulate.
    """
    match config:
        case SyntheticWorkload():
            return make_synthetic(config, seed)
        case TraceWorkload():
            return make_from_trace(config, seed)
        case ServeGenWorkload():
            return make_servegen(config, seed)
