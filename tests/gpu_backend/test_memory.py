"""Memory: the pool is what was configured, and the most that is ever alive is what was predicted."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gpu_backend.devices import DeviceKind
from gpu_backend.engine import Clock
from gpu_backend.replay import Replayer, ReplayOptions
from sim.config import load_experiment
from sim.cost.activations import activation_bytes
from sim.experiment import Experiment
from workloads.generate import build

CONFIG = Path(__file__).parents[2] / "configs" / "crosscheck" / "continuous.yaml"
FLOAT32 = 4


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Counts the bytes of all storages that are alive, and remembers their most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        self._seen[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._seen.pop(key, 0)


def predicted_bytes(experiment: Experiment, num_weights: int) -> int:
    scheduler, model, cache = experiment.engine.scheduler, experiment.model, experiment.engine.cache
    blocks = cache.num_blocks + 1
    kv = blocks * experiment.paged_block_size * model.kv_bytes_per_token // 2 * FLOAT32  # type: ignore[operator]
    step = activation_bytes(
        model, scheduler.max_num_batched_tokens, scheduler.max_num_seqs, bytes_per_value=FLOAT32
    )
    return num_weights * FLOAT32 + kv + step


def test_the_most_that_is_alive_is_weights_and_cache_and_activations() -> None:
    """Storages of the pool and of the steps, on a CPU; weights are there before and are added.

    On the wall clock, where no yardstick with blocks of its own is taken.
    """
    experiment = load_experiment(
        CONFIG, ["workload.num_requests=12", "workload.arrivals={kind: all_at_once}"]
    )
    replayer = Replayer.of(experiment, ReplayOptions(DeviceKind.CPU, Clock.WALL))
    with LiveBytes() as live:
        replayer.serve(build(experiment.workload, seed=0))
    num_weights = experiment.model.num_parameters
    measured = live.most + num_weights * FLOAT32
    assert measured == pytest.approx(predicted_bytes(experiment, num_weights), rel=0.1)


@pytest.mark.gpu
def test_a_card_holds_at_most_what_was_predicted() -> None:
    experiment = load_experiment(
        CONFIG, ["workload.num_requests=12", "workload.arrivals={kind: all_at_once}"]
    )
    replayer = Replayer.of(experiment, ReplayOptions(DeviceKind.CUDA, dtype="float32"))
    served = replayer.serve(build(experiment.workload, seed=0))
    peak = served.environment["replay"]["peak_device_bytes"]
    assert peak == pytest.approx(predicted_bytes(experiment, experiment.model.num_parameters), rel=0.1)
