"""Experiment files: what is right loads, what is wrong is reported all at once with its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.config import load_experiment
from sim.config.yaml_dump import dump_yaml
from sim.core.block_pool import FreeOrder
from sim.core.kv_cache import CacheConfig
from sim.core.policy import Continuous, Dynamic, PolicyKind, Static
from sim.core.scheduler_config import SchedulerConfig
from sim.errors import ConfigError
from sim.fleet.router import RouterKind
from sim.metrics.summary import Slo
from tests.config.experiment_files import MINIMAL, write
from tests.v1 import paged, v1_scheduler
from workloads.arrivals import ClosedLoop, Poisson
from workloads.lengths import Fixed, Lognormal
from workloads.synthetic import SharedPrefix, SyntheticWorkload

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


# What is right ----------------------------------------------------------------------------------------


def test_a_minimal_file_gets_the_defaults_of_the_engine(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, MINIMAL))
    scheduler = v1_scheduler(experiment.engine)
    assert experiment.name == "experiment"
    assert experiment.seed == 0
    assert experiment.model.name == "llama-3-8b"
    assert experiment.gpu.name == "a100-80gb-sxm"
    assert experiment.cluster.num_replicas == experiment.num_gpus == 1
    assert experiment.workload == SyntheticWorkload(10, Poisson(10.0), Fixed(1000), Fixed(250))
    assert (scheduler.max_num_seqs, scheduler.max_num_batched_tokens, scheduler.max_model_len) == (
        256,
        8192,
        8192,
    )
    assert scheduler.batching == Continuous()
    assert 27_000 < experiment.engine.cache.num_blocks < 28_000
    assert experiment.warnings == ()


FULL = """\
name: full
seed: 7
model: llama-3-70b
hardware: h100-sxm
parallelism: {tensor_parallel_size: 4}
cluster: {replicas: 3, router: prefix_affine, max_affinity_excess: 2}
engine:
  scheduler: vllm-0.16
  block_size: 32
  num_gpu_blocks_override: 5001
  max_num_seqs: 1e2
  max_model_len: 4096
  scheduling_policy: priority
  watermark: 0.01
  exempt_lone_prompt: true
  batching: {kind: dynamic, max_batch_size: 8, max_wait: 50 ms}
  max_horizon: 1
workload:
  kind: synthetic
  num_requests: 5
  arrivals: {kind: closed_loop, concurrency: 3, think_time: 2 s}
  prompt_tokens: {kind: lognormal, mean: 1000, cv: 1.5, high: 3000}
  output_tokens: {kind: fixed, tokens: 10}
  num_samples: 2
  shared_prefix: {groups: 2, tokens: 64}
  priorities: [0, 1]
  cancel_after: 1 min
slo: {ttft: 500 ms, tpot: 50 ms, e2el: 10 s}
results: {dir: elsewhere}
"""


def test_every_section_reaches_the_value_behind_it(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, FULL))
    cache, scheduler = paged(experiment.engine), v1_scheduler(experiment.engine)
    assert (experiment.name, experiment.seed, experiment.num_gpus) == ("full", 7, 12)
    assert experiment.cluster.router is RouterKind.PREFIX_AFFINE
    assert experiment.cluster.max_affinity_excess == 2
    assert (cache.block_size, cache.num_blocks, cache.free_order) == (32, 5000, FreeOrder.TAIL)
    assert (scheduler.max_num_seqs, scheduler.max_model_len) == (100, 4096)
    assert scheduler.policy is PolicyKind.PRIORITY
    assert (scheduler.full_sequence_gate, scheduler.exempt_lone_prompt) == (False, True)
    assert scheduler.watermark_fraction == 0.01
    assert scheduler.batching == Dynamic(8, 50_000_000)
    assert experiment.engine.max_horizon == 1
    assert experiment.workload == SyntheticWorkload(
        num_requests=5,
        arrivals=ClosedLoop(3, 2_000_000_000),
        prompt_tokens=Lognormal(1000.0, 1.5, high=3000),
        output_tokens=Fixed(10),
        num_samples=2,
        shared_prefix=SharedPrefix(2, 64),
        priorities=(0, 1),
        cancel_after_ns=60_000_000_000,
    )
    assert experiment.slo == Slo(500_000_000, 50_000_000, 10_000_000_000)
    assert experiment.results_dir == Path("elsewhere")


def test_a_release_sets_the_rules_that_are_not_given(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    new, old = (load_experiment(path, [f"engine.scheduler={name}"]) for name in ("vllm-0.32", "vllm-0.10"))
    assert v1_scheduler(new.engine).full_sequence_gate
    assert paged(new.engine).free_order is FreeOrder.UNHASHED_FIRST
    assert not v1_scheduler(old.engine).full_sequence_gate
    assert paged(old.engine).free_order is FreeOrder.TAIL


def test_0_33_is_0_32_with_two_rules_of_its_own_more_under_eagle_and_a_cadence(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    new = load_experiment(path, ["engine.scheduler=vllm-0.33"])
    old = load_experiment(path, ["engine.scheduler=vllm-0.32"])
    assert v1_scheduler(new.engine) == replace(
        v1_scheduler(old.engine), registers_at_update=True, goes_on_after_self_preemption=True
    )
    assert paged(new.engine) == paged(old.engine)
    eagle = "speculation={proposer: eagle, acceptance: {kind: constant, rate: 0.5}}"
    for release, drops, covers in (("vllm-0.32", True, 0), ("vllm-0.33", False, 1)):
        cache = load_experiment(path, [f"engine.scheduler={release}", eagle]).engine.cache
        assert isinstance(cache, CacheConfig)
        assert (cache.drops_last_hit, cache.num_key_lookahead_tokens) == (drops, covers)
    cadence = "engine.prefill_schedule_interval=3"
    scheduler = load_experiment(path, ["engine.scheduler=vllm-0.33", cadence]).engine.scheduler
    assert isinstance(scheduler, SchedulerConfig)
    assert scheduler.prefill_schedule_interval == 3
    with pytest.raises(ConfigError, match=r"has no such setting: set scheduler to vllm-0\.33"):
        load_experiment(path, ["engine.scheduler=vllm-0.32", cadence])
    assert load_experiment(path) == load_experiment(path, ["engine.scheduler=vllm-0.33"])


def test_one_block_of_the_override_is_the_null_block(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, MINIMAL), ["engine.num_gpu_blocks_override=27001"])
    assert experiment.engine.cache.num_blocks == 27_000
    assert paged(experiment.engine).has_null_block


# Written back and read again --------------------------------------------------------------------------


@pytest.mark.parametrize("text", [MINIMAL, FULL])
def test_a_resolved_configuration_loads_as_an_equal_experiment(tmp_path: Path, text: str) -> None:
    experiment = load_experiment(write(tmp_path, text))
    elsewhere = tmp_path / "deeper"
    elsewhere.mkdir()
    again = load_experiment(write(elsewhere, dump_yaml(experiment.resolved()), "config.yaml"))
    assert again == experiment
    assert again.resolved() == experiment.resolved()


def test_a_resolved_configuration_finds_its_files_from_anywhere(tmp_path: Path) -> None:
    write(tmp_path, "arrived_at,num_prefill_tokens,num_decode_tokens\n0,5,5\n", "trace.csv")
    text = MINIMAL.split("workload:")[0] + "workload: {kind: trace, path: trace.csv, format: vidur}\n"
    experiment = load_experiment(write(tmp_path, text))
    elsewhere = tmp_path / "deeper"
    elsewhere.mkdir()
    assert load_experiment(write(elsewhere, dump_yaml(experiment.resolved()))).workload == experiment.workload


LENGTHS = st.one_of(
    st.builds(lambda tokens: {"kind": "fixed", "tokens": tokens}, st.integers(1, 10**6)),
    st.builds(
        lambda low, more: {"kind": "uniform", "low": low, "high": low + more},
        st.integers(1, 1000),
        st.integers(0, 1000),
    ),
    st.builds(
        lambda kind, mean, cv: {"kind": kind, "mean": mean, "cv": cv},
        st.sampled_from(["lognormal", "gamma"]),
        st.floats(1, 1e5),
        st.floats(0.01, 10),
    ),
)
ARRIVALS = st.one_of(
    st.builds(
        lambda kind, rate: {"kind": kind, "rate": f"{rate!r} /s"},
        st.sampled_from(["poisson", "constant", "gamma", "vllm_gamma"]),
        st.floats(1e-6, 1e6),
    ),
    st.just({"kind": "all_at_once"}),
    st.builds(
        lambda users, ns: {"kind": "closed_loop", "concurrency": users, "think_time": f"{ns} ns"},
        st.integers(1, 1000),
        st.integers(0, 10**15),
    ),
)
BATCHING = st.one_of(
    st.just({"kind": "continuous"}),
    st.builds(lambda size: {"kind": "static", "max_batch_size": size}, st.integers(1, 64)),
    st.builds(
        lambda size, wait: {"kind": "dynamic", "max_batch_size": size, "max_wait": f"{wait} us"},
        st.integers(1, 64),
        st.integers(0, 10**9),
    ),
)
EXPERIMENTS = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["llama-3-8b", "qwen2.5-0.5b"]),
        "hardware": st.sampled_from(["h100-sxm", "mi300x"]),
        "workload": st.fixed_dictionaries(
            {
                "kind": st.just("synthetic"),
                "num_requests": st.integers(1, 10**6),
                "arrivals": ARRIVALS,
                "prompt_tokens": LENGTHS,
                "output_tokens": LENGTHS,
            }
        ),
    },
    optional={
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
        "seed": st.integers(0, 2**63 - 1),
        "slo": st.fixed_dictionaries(
            {}, optional={"ttft": st.integers(1, 10**12).map(lambda ns: f"{ns} ns"), "tpot": st.just("5 ms")}
        ),
        "engine": st.fixed_dictionaries(
            {},
            optional={
                "scheduler": st.sampled_from(["vllm-0.32", "vllm-0.16", "vllm-0.10"]),
                "block_size": st.sampled_from([8, 16, 32]),
                "max_num_seqs": st.integers(64, 512),
                "watermark": st.floats(0, 0.9),
                "batching": BATCHING,
                "free_order": st.sampled_from(["unhashed_first", "tail"]),
                "max_horizon": st.integers(1, 10**6),
            },
        ),
    },
)


@given(data=EXPERIMENTS)
def test_any_experiment_written_back_loads_as_an_equal_one(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("configs", numbered=True)
    experiment = load_experiment(write(folder, dump_yaml(data)))
    again = load_experiment(write(folder, dump_yaml(experiment.resolved()), "again.yaml"))
    assert again == experiment


# Our own ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted(CONFIGS.rglob("*.yaml"))
        if "PAGECAST_DATA" not in path.read_text() and path.parent.name not in ("hardware", "models")
    ],
    ids=lambda path: path.stem,
)
def test_our_own_configurations_load_without_a_warning_and_again_as_they_are_written_back(
    path: Path, tmp_path: Path
) -> None:
    experiment = load_experiment(path)
    assert experiment.warnings == ()
    again = load_experiment(write(tmp_path, dump_yaml(experiment.resolved()), "again.yaml"))
    assert again == experiment


@pytest.mark.parametrize("name", ["azure_conv", "mooncake_conv"])
def test_our_own_configurations_of_real_traces_load(name: str, traces_dir: Path) -> None:
    experiment = load_experiment(CONFIGS / f"{name}.yaml", [])
    assert str(traces_dir.resolve()) in str(experiment.settings["workload"]["path"])


def test_the_batching_configuration_takes_all_three_policies() -> None:
    path = CONFIGS / "batching.yaml"
    assert v1_scheduler(load_experiment(path).engine).batching == Continuous()
    static = load_experiment(path, ["engine.batching={kind: static, max_batch_size: 32}"])
    assert v1_scheduler(static.engine).batching == Static(32)
    dynamic = load_experiment(path, ["engine.batching={kind: dynamic, max_batch_size: 32, max_wait: 200 ms}"])
    assert v1_scheduler(dynamic.engine).batching == Dynamic(32, 200_000_000)


@pytest.mark.parametrize(
    ("name", "num_requests", "rate_per_s", "num_blocks"),
    [
        ("1k_at_10", 1_000, 10, 27_000),
        ("10k_at_10", 10_000, 10, 27_000),
        ("10k_at_40", 10_000, 40, 27_000),
        ("10k_at_40_tight", 10_000, 40, 10_000),
    ],
)
def test_the_standard_workloads_of_the_speed_bench_are_as_defined(
    name: str, num_requests: int, rate_per_s: float, num_blocks: int
) -> None:
    experiment = load_experiment(CONFIGS / "bench" / f"{name}.yaml")
    assert experiment.workload == SyntheticWorkload(
        num_requests, Poisson(rate_per_s), Fixed(1000), Fixed(250)
    )
    cache, scheduler = paged(experiment.engine), v1_scheduler(experiment.engine)
    assert (cache.num_blocks, cache.block_size, cache.enable_prefix_caching) == (num_blocks, 16, False)
    assert (scheduler.max_num_seqs, scheduler.max_num_batched_tokens) == (256, 8192)
