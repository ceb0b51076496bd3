"""Replays and calibrations with graphs that a stand-in captures; memory that is given back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

from gpu_backend import engine
from gpu_backend.calibration.grid import Calibrator
from gpu_backend.devices import DeviceKind
from gpu_backend.replay import Replayer, ReplayOptions
from gpu_backend.runner import padded_sizes
from sim.config import load_experiment
from tests.gpu_backend.test_runner import Captures
from workloads.generate import build

CONFIGS = Path(__file__).parents[2] / "configs" / "crosscheck"
FEW = (
    "workload.num_requests=6",
    "workload.arrivals={kind: all_at_once}",  # so that the steps are the same every time
    "workload.output_tokens={kind: uniform, low: 3, high: 14}",
)


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Captures]:
    """What was captured, by runner."""
    made: list[Captures] = []

    def capture(device: object) -> Captures:
        made.append(Captures())
        return made[-1]

    monkeypatch.setattr(engine, "cuda_capture", capture)
    return made


def replayer(name: str, *, with_graphs: bool) -> Replayer:
    found = Replayer.of(load_experiment(CONFIGS / f"{name}.yaml", FEW), ReplayOptions(DeviceKind.CPU))
    return replace(found, place=replace(found.place, uses_graphs=with_graphs))


@pytest.mark.parametrize("name", ["continuous", "speculation"])
def test_a_replay_of_graphs_says_the_same_and_no_step_captures(name: str, captures: list[Captures]) -> None:
    texts = []
    for with_graphs in (True, False):
        found = replayer(name, with_graphs=with_graphs)
        workload = build(found.experiment.workload, seed=0)
        served = found.as_served(found.run(workload))
        texts.append(json.loads(served.attachments["outputs.json"]))
    assert texts[0] == texts[1]
    scheduler = found.experiment.engine.scheduler
    assert {each.num_captures for each in captures} == {len(padded_sizes(scheduler.max_num_seqs))}
    assert captures[0].num_replays, "the target's, or with drafts the draft model's: its target verifies"


@pytest.mark.parametrize("name", ["continuous", "speculation", "swap", "chunked"])
def test_every_step_of_a_calibration_fits_into_graphs(name: str, captures: list[Captures]) -> None:
    Calibrator.of(replayer(name, with_graphs=True), is_quick=True).carry_out_all()
    assert captures[0].num_replays >= 20


def test_counting_sees_the_kernels_behind_a_graph(captures: list[Captures]) -> None:
    counts = []
    for with_graphs in (True, False):
        found = replayer("continuous", with_graphs=with_graphs)
        done = found.run(build(found.experiment.workload, seed=0), counts_launches=True)
        counts.append([log.num_launches for log in done.body.executors[0].launches])
    assert counts[0] == counts[1]
    assert min(counts[0]) > 20


def test_a_run_that_has_ended_holds_no_cache_and_still_knows_its_size() -> None:
    found = replayer("swap", with_graphs=False)
    done = found.run(build(found.experiment.workload, seed=0))
    (storage,) = done.body.executors[0].storages
    assert storage.caches == []
    facts = found.facts(done)
    assert facts["kv_cache_bytes"] == storage.device_bytes > 0
    assert facts["host_kv_cache_bytes"] > 0
