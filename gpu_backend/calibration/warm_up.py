"""Warming up: whatever happens once only happens before anything is measured.

Libraries load and caches fill while a few requests are served. On a card, moreover, Triton compiles a kernel
for each kind of arguments that it meets; so steps of all kinds are carried out once, and blocks moved.
"""

from __future__ import annotations

from dataclasses import replace

from gpu_backend.calibration.grid import Calibrator
from gpu_backend.engine import Clock
from gpu_backend.replay import Replayer
from sim.fleet.cluster import Cluster
from workloads.generate import build

_NUM_REQUESTS = 4


def warm_up(replayer: Replayer) -> None:
    """Serve a few requests and, on a card, made-up steps; forget them."""
    replayer = replace(replayer, clock=Clock.MEASURED)
    with replayer.conditions():
        _serve_some(replayer)
        if replayer.place.is_cuda:
            Calibrator.of(replayer, is_quick=True).carry_out_all()


def _serve_some(replayer: Replayer) -> None:
    experiment = replayer.experiment
    workload = build(experiment.workload, seed=experiment.seed).first(_NUM_REQUESTS)
    body = replayer.body(workload)
    Cluster(workload, body.config, body).run()
    body.release()
