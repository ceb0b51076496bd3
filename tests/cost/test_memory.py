"""How many KV blocks fit."""

from __future__ import annotations

from sim.config.catalog import load_gpu, load_model
from sim.cost.memory import gpu_memory, num_kv_blocks


def test_an_a100_holds_about_27_000_blocks_of_llama_3_8b() -> None:
    blocks = num_kv_blocks(load_model("llama-3-8b"), load_gpu("a100-80gb-sxm"))
    assert 27_000 <= blocks <= 28_000


def test_an_rtx_4090_holds_the_blocks_that_vllm_found() -> None:
    assert num_kv_blocks(load_model("llama-3.1-8b"), load_gpu("rtx-4090")) == 2588


def test_memory_is_spent_to_the_last_whole_block() -> None:
    model, gpu = load_model("llama-3-8b"), load_gpu("a100-80gb-sxm")
    memory = gpu_memory(model, gpu, utilization_fraction=0.9)
    block_bytes = 16 * model.kv_bytes_per_token
    left = memory.kv_cache_bytes - memory.num_kv_blocks(16) * block_bytes
    assert 0 <= left < block_bytes
    assert memory.available_bytes == int(gpu.memory_bytes * 0.9)


def test_a_model_that_does_not_fit_has_no_blocks() -> None:
    model, gpu = load_model("llama-3-70b"), load_gpu("a100-80gb-sxm")
    assert gpu_memory(model, gpu).kv_cache_bytes < 0
    assert num_kv_blocks(model, gpu) == 0


def test_a_model_split_over_gpus_leaves_more_room_for_kv() -> None:
    model, gpu = load_model("llama-3-70b"), load_gpu("a100-80gb-sxm")
    counts = [num_kv_blocks(model, gpu, tensor_parallel_size=size) for size in (1, 2, 4, 8)]
    assert counts == sorted(counts)
    assert counts[2] > 2 * counts[1] > 0


def test_each_stage_holds_its_layers_and_the_ends_what_is_at_the_ends() -> None:
    model = load_model("llama-3-70b")
    first, *middle, last = model.stage_weight_bytes(4)
    ends = 2 * model.vocab_size * model.hidden_size
    assert model.stage_layers(4) == (20, 20, 20, 20)
    assert [first - ends, last - ends - 2 * model.hidden_size] == middle
    assert first + sum(middle) + last == model.weight_bytes


def test_layers_that_do_not_divide_go_to_stages_before_the_last() -> None:
    model = load_model("deepseek-v3")
    assert model.stage_layers(4) == (15, 15, 16, 15)
    assert model.stage_layers(3) == (20, 21, 20)
    assert model.stage_layers(1) == (61,)


def test_a_tied_embedding_is_held_by_both_ends() -> None:
    model = load_model("qwen2.5-0.5b")
    embedding = 2 * model.vocab_size * model.hidden_size
    assert sum(model.stage_weight_bytes(2)) == model.weight_bytes + embedding


def test_stages_share_the_kv_cache_and_the_fullest_decides() -> None:
    model, gpu = load_model("llama-3-70b"), load_gpu("a100-80gb-sxm")
    whole, half = (gpu_memory(model, gpu, pipeline_parallel_size=size) for size in (1, 2))
    assert half.kv_bytes_per_token == whole.kv_bytes_per_token / 2
    assert half.weight_bytes == max(model.stage_weight_bytes(2))
    assert half.num_kv_blocks(16) == int(half.kv_cache_bytes / (16 * model.kv_bytes_per_token / 2))
    both = gpu_memory(model, gpu, pipeline_parallel_size=2, tensor_parallel_size=2)
    assert both.kv_bytes_per_token == model.kv_bytes_per_token / 4
    assert both.weight_bytes == -(-half.weight_bytes // 2)
