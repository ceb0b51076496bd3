"""What an experiment file says of memory: schedulers, host pools, elements, drafts; what it must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.config import load_experiment
from sim.config.catalog import load_model
from sim.config.yaml_dump import dump_yaml
from sim.core.group import GroupSchedulerConfig, PreemptionMode
from sim.core.reservation import ContiguousConfig, Reservation
from sim.cost.block_moves import BlockLayout, BlockMoves
from sim.errors import ConfigError
from tests.v1 import paged

PAPER = """\
model: opt-13b
hardware: a100-80gb-sxm
engine: {scheduler: vllm-v0}
swap: {space: 4 GiB}
workload:
  kind: synthetic
  num_requests: 3
  num_samples: 2
  arrivals: {kind: poisson, rate: 2 /s}
  prompt_tokens: {kind: fixed, tokens: 10}
  output_tokens: {kind: fixed, tokens: 10}
"""
V1 = PAPER.replace("engine: {scheduler: vllm-v0}\nswap: {space: 4 GiB}\n", "engine: {max_model_len: 2048}\n")
NGRAM = "speculation={proposer: ngram, %s, acceptance: {kind: constant, rate: 0.5}}"
SPECULATION = "speculation={draft_model: %s, acceptance: {kind: constant, rate: 0.7}}"


REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    path = tmp_path / "paper.yaml"
    path.write_text(PAPER)
    return path


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    path = tmp_path / "v1.yaml"
    path.write_text(V1)
    return path


def test_the_paper_s_scheduler_has_its_own_defaults(paper: Path) -> None:
    experiment = load_experiment(paper)
    scheduler = experiment.engine.scheduler
    assert isinstance(scheduler, GroupSchedulerConfig)
    assert (scheduler.max_num_batched_tokens, scheduler.max_paddings) == (2560, 256)
    assert scheduler.watermark_fraction == 0.01
    assert scheduler.preemption is PreemptionMode.BY_WIDTH
    assert scheduler.num_host_blocks == 4 * 2**30 // (16 * 819_200)
    assert not paged(experiment.engine).has_null_block
    assert experiment.traffic is not None
    assert isinstance(experiment.traffic.moves, BlockMoves)
    assert experiment.traffic.moves.copies_per_block == 80
    assert not experiment.traffic.overlaps


def test_swap_settings_reach_the_link(paper: Path) -> None:
    changes = ["swap={num_blocks: 200, overlap: true, layout: whole}", "engine.preemption_mode=auto"]
    experiment = load_experiment(paper, changes)
    assert experiment.traffic is not None
    assert experiment.traffic.overlaps
    assert isinstance(experiment.traffic.moves, BlockMoves)
    assert experiment.traffic.moves.copies_per_block == 1
    assert isinstance(experiment.engine.scheduler, GroupSchedulerConfig)
    assert experiment.engine.scheduler.num_host_blocks == 200
    assert BlockLayout("whole") is BlockLayout.WHOLE


@pytest.mark.parametrize("rule", Reservation)
def test_contiguous_memory_counts_slots(v1: Path, rule: Reservation) -> None:
    changes = [f"engine.kv_allocation={rule.value}", "engine.num_gpu_blocks_override=1000"]
    experiment = load_experiment(v1, changes)
    assert experiment.engine.cache == ContiguousConfig(16_000, rule)


@pytest.mark.parametrize(
    ("element", "size"), [("auto", 2), ("fp16", 2), ("bf16", 2), ("fp8", 1), ("int8", 1)]
)
def test_smaller_elements_make_room_for_more_blocks(v1: Path, element: str, size: int) -> None:
    experiment = load_experiment(v1, [f"engine.kv_cache_dtype={element}"])
    assert experiment.model.kv_bytes_per_token == 2 * 40 * 5120 * size
    usual = load_experiment(v1).engine.cache.num_blocks + 1
    assert experiment.engine.cache.num_blocks + 1 == pytest.approx(usual * 2 / size, abs=1)


def test_grouped_queries_keep_fewer_heads() -> None:
    llama = load_model("llama-3-8b")
    assert llama.kv_bytes_per_token == 131_072 == 2 * 32 * 8 * 128 * 2


def test_a_draft_model_s_weights_and_cache_come_out_of_the_same_memory(v1: Path) -> None:
    small = REPO / "configs" / "papers" / "models" / "llama-0.5b-draft.yaml"
    target = load_experiment(v1, ["model=llama-3-8b"])
    drafting = load_experiment(v1, ["model=llama-3-8b", SPECULATION % small])
    assert drafting.speculation is not None
    shape = drafting.speculation.draft
    assert shape is not None
    memory = int(target.gpu.memory_bytes * 0.9) - target.model.weight_bytes - target.gpu.reserved_memory_bytes
    left = memory - shape.weight_bytes
    per_block = 16 * (target.model.kv_bytes_per_token + shape.kv_bytes_per_token)
    assert drafting.engine.cache.num_blocks + 1 == left // per_block
    assert target.engine.cache.num_blocks > drafting.engine.cache.num_blocks


def test_a_resolved_file_loads_as_the_same_experiment(paper: Path, v1: Path, tmp_path: Path) -> None:
    variants = [
        (paper, []),
        (paper, ["engine.preemption_mode=swap", "swap.overlap=true"]),
        (paper, ["workload.num_samples=1", "workload.beam_width=4"]),
        (v1, ["engine.kv_allocation=pow2"]),
        (v1, ["offload={space: 8 GiB}", "engine.kv_cache_dtype=fp8"]),
    ]
    for path, changes in variants:
        experiment = load_experiment(path, changes)
        again = tmp_path / "again.yaml"
        again.write_text(dump_yaml(experiment.resolved()))
        assert load_experiment(again) == experiment


@pytest.mark.parametrize(
    ("change", "place", "says"),
    [
        (("num_samples: 2", "num_samples: 0"), "8:16", "num_samples: must be at least 1"),
        (("num_samples: 2", "beam_width: 0"), "8:15", "beam_width: must be at least 1"),
        (("vllm-v0}", "vllm-v0, block_size: 0}"), "3:42", "block_size: must be at least 1"),
        (("vllm-v0}", "vllm-v0, watermark: 1.5}"), "3:41", "watermark: must be less than 1"),
        (("vllm-v0}", "vllm-v0, watermark: -0.1}"), "3:41", "watermark: must be at least 0"),
        (("space: 4 GiB", "space: 1 GiB"), "4:15", "hold less than one sequence of 2,048 tokens, 128 blocks"),
        (("space: 4 GiB", "num_blocks: 100"), "4:20", "100 host blocks hold less than one sequence"),
        (("space: 4 GiB", "space: 4"), "4:15", "has no unit"),
        (("num_samples: 2", "num_samples: 300"), "8:16", "300 sequences never run together"),
        (("vllm-v0}", "vllm-v0, enable_prefix_caching: true}"), "3:53", "has no prefix caching"),
        (("vllm-v0}", "vllm-v0, max_num_batched_tokens: 512}"), "3:54", "below max_model_len"),
        (("vllm-v0}", "vllm-0.32}"), "4:7", "preempts by recompute only"),
        (("swap: {space: 4 GiB}", "offload: {space: 4 GiB}"), "4:10", "enable_prefix_caching is false"),
    ],
)
def test_what_memory_cannot_be_is_told_at_its_place(
    tmp_path: Path, change: tuple[str, str], place: str, says: str
) -> None:
    path = tmp_path / "wrong.yaml"
    assert change[0] in PAPER
    path.write_text(PAPER.replace(*change))
    with pytest.raises(ConfigError) as error:
        load_experiment(path)
    assert f"{path}:{place}: " in str(error.value)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["workload.beam_width=4", "workload.num_samples=1"], "cannot fork sequences"),
        (["engine.preemption_mode=swap"], "has no such setting"),
        (["engine.kv_allocation=max", "engine.enable_prefix_caching=true"], "needs paged memory"),
        (["engine.kv_allocation=max", "engine.num_gpu_blocks_override=100"], "the largest chunk"),
        (["offload={space: 1 KiB}"], "less than one KV block"),
        ([SPECULATION % "opt-66b"], "is not smaller than"),
        ([SPECULATION % "qwen2.5-0.5b"], "they must be the same"),
        (
            ["speculation={draft_model: nobody, acceptance: {kind: constant, rate: 0.7}}"],
            "is not in the catalogue",
        ),
        (["speculation={acceptance: {kind: constant, rate: 0.7}}"], "needs draft_model"),
        (["speculation={proposer: ngram, acceptance: {kind: constant, rate: 1.7}}"], "must be at most 1"),
        ([NGRAM % "num_speculative_tokens: 0"], "must be at least 1"),
        (["speculation={proposer: ngram, acceptance: {kind: recorded, path: none.json}}"], "none.json"),
        ([NGRAM % "adaptive: true, by_batch: [{max_batch_size: 8, num_tokens: 3}]"], "choose one"),
    ],
)
def test_what_does_not_go_together_is_refused(v1: Path, changes: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_experiment(v1, changes)
    assert says in str(error.value)


def test_weights_are_as_the_checkpoint_has_them_unless_the_file_says_otherwise(v1: Path) -> None:
    def bytes_per_weight(*overrides: str) -> float:
        return load_experiment(v1, ["hardware=mi300x", *overrides]).model.bytes_per_weight

    assert (bytes_per_weight(), bytes_per_weight("engine.quantization=fp8")) == (2, 1)
    eight = ["model=deepseek-v3", "parallelism.tensor_parallel_size=8"]  # its checkpoint is in fp8
    assert bytes_per_weight(*eight) == 1
    assert bytes_per_weight(*eight, "engine.quantization=gptq") == 0.5 + 2.5 / 128
    sixteen = ["model=deepseek-v3", "parallelism.tensor_parallel_size=16", "engine.quantization=none"]
    assert bytes_per_weight(*sixteen) == 2


def test_a_quantised_experiment_loads_again_as_an_equal_one(v1: Path) -> None:
    experiment = load_experiment(v1, ["engine.quantization=awq", "parallelism.pipeline_parallel_size=2"])
    assert experiment.num_gpus == 2
    again = v1.with_name("again.yaml")
    again.write_text(dump_yaml(experiment.resolved()))
    assert load_experiment(again) == experiment


def test_lighter_weights_leave_more_blocks(v1: Path) -> None:
    def num_blocks(*overrides: str) -> int:
        return paged(load_experiment(v1, overrides).engine).num_blocks

    none, fp8, int4 = (num_blocks(f"engine.quantization={name}") for name in ("none", "fp8", "int4"))
    assert num_blocks() == none < fp8 < int4
    assert num_blocks("parallelism.pipeline_parallel_size=2") > 2 * none


def test_a_draft_keeps_its_own_weights(v1: Path) -> None:
    overrides = [
        "model=llama-3-70b",
        "parallelism.tensor_parallel_size=2",
        "engine.quantization=fp8",
        SPECULATION % "llama-3-8b",
    ]
    speculation = load_experiment(v1, overrides).speculation
    assert speculation is not None
    assert speculation.draft is not None
    assert speculation.draft.bytes_per_weight == 2


def test_blocks_that_are_offloaded_carry_the_draft_model_s_keys_and_values(v1: Path) -> None:
    target, draft = load_model("qwen3-14b"), load_model("qwen3-0.6b")
    overrides = ["model=qwen3-14b", "offload={space: 8 GiB}"]
    alone = load_experiment(v1, overrides).traffic
    both = load_experiment(v1, [*overrides, SPECULATION % "qwen3-0.6b"]).traffic
    assert alone is not None
    assert both is not None
    assert isinstance(alone.moves, BlockMoves)
    assert isinstance(both.moves, BlockMoves)
    assert alone.moves.block_bytes == 16 * target.kv_bytes_per_token
    assert both.moves.block_bytes == 16 * (target.kv_bytes_per_token + draft.kv_bytes_per_token)
    assert both.moves.host_ns(1_000) > 1.5 * alone.moves.host_ns(1_000)
    split = [*overrides, SPECULATION % "qwen3-0.6b", "parallelism.tensor_parallel_size=2"]
    halves = load_experiment(v1, split).traffic
    assert halves is not None
    assert isinstance(halves.moves, BlockMoves)
    assert halves.moves.block_bytes == both.moves.block_bytes / 2
    pieces = load_experiment(v1, [*overrides, SPECULATION % "qwen3-0.6b", "offload.layout=per_layer"]).traffic
    assert pieces is not None
    assert isinstance(pieces.moves, BlockMoves)
    assert pieces.moves.copies_per_block == 2 * (target.num_hidden_layers + draft.num_hidden_layers)
