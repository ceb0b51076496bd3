"""How many KV blocks fit."""

from __future__ import annotations

from sim.config_catalog import load_gpu, load_model
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
