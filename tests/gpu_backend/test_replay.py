"""`pagecast replay`: an experiment file served by a real model, its run folder, and every refusal."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

import torch
from typer.testing import CliRunner

from gpu_backend.calibration.warm_up import warm_up
from gpu_backend.devices import DeviceKind
from gpu_backend.engine import Clock
from gpu_backend.model.llama import LlamaModel
from gpu_backend.model.model_folders import SHIPPED
from gpu_backend.replay import Replayer, ReplayOptions, engine_for_devices
from sim.cli import app
from sim.config import load_experiment
from sim.experiment import Experiment
from sim.results.run_folder import load_run
from sim.speculation.acceptance_file import read_recorded
from workloads.generate import build

ON_CPU = ReplayOptions(DeviceKind.CPU)
EXPERIMENT = """
model: shakespeare-4.7m
hardware: generic-cpu
engine: {max_model_len: 256, max_num_seqs: 8, max_num_batched_tokens: 64, num_gpu_blocks_override: 129}
sampling: {temperature: 0.0}
workload:
  kind: synthetic
  num_requests: 6
  arrivals: {kind: poisson, rate: 50 /s}
  prompt_tokens: {kind: uniform, low: 4, high: 40}
  output_tokens: {kind: uniform, low: 2, high: 12}
"""
SPECULATION = """
speculation:
  proposer: draft_model
  draft_model: shakespeare-0.5m
  num_speculative_tokens: 3
  acceptance: {kind: constant, rate: 0.7}
"""


def write(folder: Path, text: str = EXPERIMENT) -> Path:
    path = folder / "small.yaml"
    path.write_text(text)
    return path


def load(folder: Path, *overrides: str, text: str = EXPERIMENT) -> Experiment:
    return load_experiment(write(folder, text), overrides)


def served(experiment: Experiment, options: ReplayOptions = ON_CPU) -> Any:
    return Replayer.of(experiment, options).serve(build(experiment.workload, seed=experiment.seed))


def run_command(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["replay", *arguments])


def test_a_replay_writes_a_run_like_any_other_and_what_it_decided(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run_command(
        str(write(tmp_path, EXPERIMENT + SPECULATION)), "--out", str(out), "-q", "--device", "cpu"
    )
    assert done.exit_code == 0, done.output
    run = load_run(out)
    assert run.summary.values["completed"] == 6
    assert run.summary.basis is None, "nothing was predicted"
    plans = [json.loads(line) for line in (out / "plans.jsonl").read_text().splitlines()]
    assert len(plans) == len(run.record.steps["step"])
    computed = sum(row[3] for plan in plans for row in plan["rows"])
    drafted = sum(row[5] for plan in plans for row in plan["rows"])
    assert computed - drafted >= run.record.requests["prompt_tokens"].sum()
    parts = list(csv.DictReader((out / "step_parts.csv").read_text().splitlines()))
    durations = (run.record.steps["end"] - run.record.steps["start"]).astype(int)
    for part, duration in zip(parts, durations, strict=True):
        assert duration == sum(
            int(part[f"{name}_ns"]) for name in ("schedule", "swap", "copy", "model", "draft")
        )
    outputs = json.loads((out / "outputs.json").read_text())
    lengths = [len(samples[0]) for samples in outputs.values()]
    assert all(
        length >= wanted for length, wanted in zip(lengths, run.record.requests["output_tokens"], strict=True)
    )
    recorded = read_recorded(out / "accepted.json")
    assert set(recorded.counts) == {(request, 0) for request in range(6)}
    facts = run.environment["replay"]
    assert (facts["device_type"], facts["dtype"], facts["incomplete"]) == ("cpu", "float32", None)


def test_accepted_counts_simulate_the_very_decisions(tmp_path: Path) -> None:
    """Arrivals at zero and recorded acceptance: the plans of both bodies are equal to the last block id."""
    at_once = "workload.arrivals={kind: all_at_once}"
    text = EXPERIMENT + SPECULATION
    tight = ("engine.num_gpu_blocks_override=9", "engine.max_model_len=64", at_once)
    replay = served(load(tmp_path, *tight, text=text))
    (tmp_path / "accepted.json").write_bytes(replay.attachments["accepted.json"])
    recorded = f"speculation.acceptance={{kind: recorded, path: {tmp_path / 'accepted.json'}}}"
    plans = simulated_plans(load(tmp_path, *tight, recorded, text=text))
    assert any(plan["preempted"] for plan in plans)
    assert plans == [json.loads(line) for line in replay.attachments["plans.jsonl"].decode().splitlines()]


def simulated_plans(experiment: Experiment) -> list[Any]:
    from sim.fleet.cluster import Cluster, Physics
    from sim.record.plan_log import PlanLog
    from sim.simulation import experiment_cost, experiment_draft_cost

    class Logged(Physics):
        def executor(self, core: Any, timeline: Any) -> Any:
            return PlanLog(Physics.executor(self, core, timeline), plans)

    plans: list[Any] = []
    physics = Logged(
        experiment_cost(experiment),
        experiment.traffic,
        experiment.beams,
        experiment.speculation,
        experiment_draft_cost(experiment),
    )
    workload = build(experiment.workload, seed=experiment.seed)
    Cluster(workload, engine_for_devices(experiment.engine), physics).run()
    return plans


def test_a_second_replay_says_the_same(tmp_path: Path) -> None:
    experiment = load(tmp_path, "sampling.temperature=1.0")
    first, second = served(experiment), served(experiment)
    assert first.attachments["outputs.json"] == second.attachments["outputs.json"]


def test_unfused_operations_say_the_same(tmp_path: Path) -> None:
    fused, unfused = served(load(tmp_path)), served(load(tmp_path, "engine.fusion=none"))
    assert fused.attachments["outputs.json"] == unfused.attachments["outputs.json"]
    assert unfused.environment["replay"]["implementation"] == "unfused"


def test_two_replicas_serve_side_by_side(tmp_path: Path) -> None:
    replay = served(load(tmp_path, "cluster.replicas=2"))
    one = served(load(tmp_path))
    assert replay.attachments["outputs.json"] == one.attachments["outputs.json"] or (
        json.loads(replay.attachments["outputs.json"]) == json.loads(one.attachments["outputs.json"])
    )
    assert replay.record.num_replicas == 2


def test_on_the_wall_clock_requests_arrive_in_real_time(tmp_path: Path) -> None:
    import time

    experiment = load(tmp_path, "workload.arrivals={kind: constant, rate: 20 /s}")
    replayer = Replayer.of(experiment, ReplayOptions(DeviceKind.CPU, Clock.WALL))
    warm_up(replayer)
    began_s = time.monotonic()
    replay = replayer.serve(build(experiment.workload, seed=0))
    took_s = time.monotonic() - began_s
    ends_s = replay.record.requests["finished"].astype(int) / 1e9
    assert 5 / 20 <= ends_s.max() <= took_s, "the last request comes after a quarter of a second"


def test_the_pool_is_exactly_what_was_configured(tmp_path: Path) -> None:
    facts = served(load(tmp_path)).environment["replay"]
    assert facts["kv_cache_bytes"] == 129 * 16 * 2 * 6 * 2 * 64 * 4


def test_memory_that_runs_out_midway_ends_the_run_with_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    forward = LlamaModel.forward

    def failing(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 20:
            raise torch.OutOfMemoryError("out of memory: tried to allocate 2 GiB")
        return forward(*arguments)

    monkeypatch.setattr("gpu_backend.calibration.warm_up._NUM_REQUESTS", 1)
    monkeypatch.setattr(LlamaModel, "forward", failing)
    done = run_command(str(write(tmp_path)), "--out", str(tmp_path / "run"), "-q", "--device", "cpu")
    assert done.exit_code == 1
    run = load_run(tmp_path / "run")
    assert "tried to allocate" in run.environment["replay"]["incomplete"]
    assert len(run.record.requests["request_id"]) < 6


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=llama-3-8b", "hardware=h100-sxm"], "no weights are known for llama-3-8b"),
        (["engine.kv_allocation=max"], "engine.kv_allocation: contiguous memory"),
        (
            ["engine.kv_allocation=sim.testing:PagedAllocator"],
            "engine.kv_allocation: an allocator of your own is simulated only",
        ),
        (["parallelism.tensor_parallel_size=2"], "one device"),
        (["engine.num_gpu_blocks_override=40000000"], "set fewer blocks"),
        (["engine.kv_cache_dtype=fp8"], "engine.kv_cache_dtype: a replay keeps"),
        (["engine.quantization=int8"], "engine.quantization: a replay's weights"),
        (
            [
                "engine={scheduler: vllm-v0, max_model_len: 64}",
                "swap={space: 64 MiB, overlap: true}",
                "workload.prompt_tokens={kind: fixed, tokens: 8}",
            ],
            "swap.overlap: a replay waits",
        ),
    ],
)
def test_what_a_device_cannot_replay_is_refused(tmp_path: Path, overrides: list[str], words: str) -> None:
    sets = [word for override in overrides for word in ("--set", override)]
    done = run_command(str(write(tmp_path)), *sets, "--out", str(tmp_path / "run"), "-q", "--device", "cpu")
    assert done.exit_code == 2, done.output
    assert words in done.output
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    ("device", "words"), [("cuda", "finds no CUDA device"), ("interpret", "TRITON_INTERPRET=1")]
)
def test_a_device_that_is_not_there_is_named(
    tmp_path: Path, device: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    done = run_command(str(write(tmp_path)), "--device", device, "-q")
    assert done.exit_code == 2
    assert words in done.output


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    draft = SHIPPED["shakespeare-0.5m"]
    done = run_command(str(write(tmp_path)), "--model-folder", str(draft), "-q", "--device", "cpu")
    assert done.exit_code == 2
    assert "hidden_size: is 128; shakespeare-4.7m has 256" in done.output


def test_a_folder_without_its_weights_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes((SHIPPED["shakespeare-4.7m"] / "config.json").read_bytes())
    done = run_command(str(write(tmp_path)), "--set", f"model={folder}/config.json", "-q", "--device", "cpu")
    assert done.exit_code == 2
    assert "model.safetensors" in done.output


def test_in_the_interpreter_the_very_kernels_say_the_same(tmp_path: Path) -> None:
    """Prompts in chunks, decodes, drafts to verify: every kernel of a step, in a process of its own."""
    pytest.importorskip("triton", reason="Triton is not installed")
    few = (
        "workload.num_requests=2",
        "workload.prompt_tokens={kind: uniform, low: 4, high: 9}",
        "workload.output_tokens={kind: fixed, tokens: 4}",
        "engine.num_gpu_blocks_override=17",
    )
    path = write(tmp_path, EXPERIMENT + SPECULATION)
    sets = [word for override in few for word in ("--set", override)]
    command = [
        sys.executable,
        "-c",
        "from sim.cli import main; main()",
        "replay",
        str(path),
        *sets,
        "-q",
        "--no-plots",
    ]
    for device in ("cpu", "interpret"):
        done = subprocess.run(
            [*command, "--device", device, "--out", str(tmp_path / device)],
            env=os.environ | {"TRITON_INTERPRET": str(int(device == "interpret"))},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    outputs = [
        json.loads((tmp_path / device / "outputs.json").read_text()) for device in ("cpu", "interpret")
    ]
    assert outputs[0] == outputs[1]
    assert load_run(tmp_path / "interpret").environment["replay"]["implementation"] == "kernel"
