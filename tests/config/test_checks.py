"""Whether the parts of an experiment fit together."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.config import load_experiment
from sim.errors import ConfigError
from tests.v1 import v1_scheduler

TEXT = """\
model: llama-3-8b
hardware: a100-80gb-sxm
engine:
  max_model_len: 8192
workload:
  kind: synthetic
  num_requests: 10
  arrivals: {kind: poisson, rate: 10 /s}
  prompt_tokens: {kind: fixed, tokens: 1000}
  output_tokens: {kind: fixed, tokens: 250}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A configuration whose parts fit."""
    path = tmp_path / "experiment.yaml"
    path.write_text(TEXT)
    return path


def faults(path: Path, *overrides: str) -> str:
    """Everything reported, a fault a line."""
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, overrides)
    return str(caught.value).replace(f"{path}:", "")


def test_a_pool_smaller_than_the_longest_sequence_is_refused_with_the_remedy(path: Path) -> None:
    assert faults(path, "engine.num_gpu_blocks_override=100") == (
        "4:18: engine.max_model_len: a sequence of 8,192 tokens needs 512 KV blocks of 16, and 99 can be "
        "handed out: set engine.max_model_len to at most 1584"
    )
    remedied = ["engine.num_gpu_blocks_override=100", "engine.max_model_len=1584"]
    assert load_experiment(path, remedied).engine.cache.num_blocks == 99


def test_a_model_whose_own_length_does_not_fit_says_so(path: Path) -> None:
    found = faults(path, "model=llama-3.1-8b", "hardware=rtx-4090", "engine.max_model_len=~")
    assert "131,072 tokens (llama-3.1-8b's own) needs 8,192 KV blocks of 16, and 2,587" in found


def test_a_model_that_does_not_fit_says_by_how_much_and_what_would(path: Path) -> None:
    assert faults(path, "model=llama-3-70b") == (
        "--set model: llama-3-70b does not fit a100-80gb-sxm: 141.1 GB of weights and 3.5 GB reserved leave "
        "no KV block in the 77.3 GB that the engine may use; short by 67.31 GB (would do: "
        "tensor_parallel_size 2, or pipeline_parallel_size 2, or quantization int4, or hardware b200)"
    )
    for remedy in (
        "parallelism.tensor_parallel_size=2",
        "parallelism.pipeline_parallel_size=2",
        "engine.quantization=int4",
        "hardware=b200",
    ):
        assert load_experiment(path, ["model=llama-3-70b", remedy])


def test_a_shorter_limit_makes_fp8_enough(path: Path) -> None:
    overrides = ["model=llama-3-70b", "engine.max_model_len=1024"]
    assert "quantization fp8" in faults(path, *overrides)
    assert load_experiment(path, [*overrides, "engine.quantization=fp8"])


def test_a_model_that_fp8_made_no_better_is_advised_of_int4_only(path: Path) -> None:
    found = faults(path, "model=llama-3.1-405b", "hardware=h200", "parallelism.tensor_parallel_size=2",
                   "engine.quantization=int8")  # fmt: skip
    assert "quantization int4" in found
    assert "fp8" not in found


def test_stages_are_at_most_as_many_as_layers(path: Path) -> None:
    assert faults(path, "parallelism.pipeline_parallel_size=33") == (
        "--set parallelism.pipeline_parallel_size: the 32 layers of llama-3-8b make 32 stages at most, not 33"
    )


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("engine={scheduler: vllm-v0, max_model_len: 2048}", "engine.scheduler vllm-v0"),
        ("speculation={proposer: ngram, acceptance: {kind: constant, rate: 0.5}}", "speculation"),
        ("offload={space: 4 GiB}", "offload"),
    ],
)
def test_what_stages_are_not_simulated_with_is_refused(path: Path, override: str, name: str) -> None:
    found = faults(path, "parallelism.pipeline_parallel_size=2", override)
    assert f"stages are not simulated together with {name}: set it to 1" in found


def test_the_advised_number_of_gpus_leaves_room_for_the_longest_sequence(path: Path) -> None:
    overrides = ["model=llama-3.1-70b", "engine.max_model_len=131072"]
    assert "(would do: tensor_parallel_size 4, or pipeline_parallel_size 4)" in faults(path, *overrides)
    assert load_experiment(path, [*overrides, "parallelism.tensor_parallel_size=4"])


def test_a_model_that_fits_no_number_of_these_gpus_says_so(path: Path) -> None:
    found = faults(path, "model=llama-3.1-405b", "hardware=l4", "engine.gpu_memory_utilization=0.15")
    assert "no number of these GPUs would do" in found


def test_heads_that_do_not_divide_over_the_gpus_are_refused(path: Path) -> None:
    assert faults(path, "parallelism.tensor_parallel_size=3") == (
        "--set parallelism.tensor_parallel_size: the 32 query and 8 KV heads of llama-3-8b do not divide "
        "over 3 GPUs: use one of 1, 2, 4, 8, 16, 32"
    )


def test_limits_that_contradict_each_other_are_refused_all_at_once(path: Path) -> None:
    found = faults(
        path,
        "engine.batching={kind: static, max_batch_size: 999}",
        "engine.max_num_batched_tokens=100",
        "engine.max_num_scheduled_tokens=200",
        "engine.enable_chunked_prefill=false",
        "engine.long_prefill_token_threshold=9000",
    ).splitlines()
    assert found == [
        (
            "--set engine.batching: engine.batching.max_batch_size: a batch of 999 never fills: max_num_seqs "
            "is 256"
        ),
        "--set engine.max_num_batched_tokens: 100 is below max_num_seqs (256): each computes a token a step",
        "--set engine.max_num_scheduled_tokens: 200 is above max_num_batched_tokens (100)",
        (
            "--set engine.enable_chunked_prefill: without it a prompt must fit one step, but a step takes "
            "200 tokens and max_model_len is 8192: raise max_num_batched_tokens or lower max_model_len"
        ),
        "--set engine.long_prefill_token_threshold: 9000 is above max_model_len (8192)",
    ]


def test_chunked_prefill_may_be_off_when_every_prompt_fits_a_step(path: Path) -> None:
    experiment = load_experiment(path, ["engine.enable_chunked_prefill=false"])
    assert not v1_scheduler(experiment.engine).enable_chunked_prefill


@pytest.mark.parametrize(
    ("overrides", "warning"),
    [
        (["engine.max_model_len=16384"], "is above the 8192 positions that llama-3-8b was made for"),
        (["engine.num_gpu_blocks_override=30000"], "is above the 27536 blocks that fit beside llama-3-8b"),
        (
            ["cluster.router=prefix_affine", "engine.enable_prefix_caching=false"],
            "gains nothing while engine.enable_prefix_caching is false",
        ),
        (["engine.async_scheduling=true", "engine.fusion=roofline"], "simulated steps do not overlap"),
        (["parallelism.pipeline_parallel_size=2"], "serves up to 2 times as much"),
        (["engine.quantization=fp8"], "a100-80gb-sxm has no 8-bit products: the fp8 weights of llama-3-8b"),
    ],
)
def test_what_is_probably_not_meant_is_a_warning(path: Path, overrides: list[str], warning: str) -> None:
    (found,) = load_experiment(path, overrides).warnings
    assert warning in found


def test_a_short_limit_on_length_needs_no_warning(path: Path) -> None:
    assert load_experiment(path, ["engine.max_model_len=100"]).warnings == ()
