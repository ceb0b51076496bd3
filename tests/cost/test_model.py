"""Model shapes: parameters as published, KV bytes as in the papers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.config.catalog import load_model, model_names
from sim.cost.model import ModelShape

PUBLISHED_PARAMETERS = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "mistral-7b": 7_248_023_552,
    "mixtral-8x7b": 46_702_792_704,
    "qwen3-30b-a3b": 30.5e9,
    "deepseek-v3": 671e9,
    "opt-13b": 12.85e9,
    "opt-66b": 65.7e9,
    "opt-175b": 175e9,
    "qwen2.5-0.5b": 0.49e9,
    "qwen2.5-1.5b": 1.54e9,
    "qwen2.5-3b": 3.09e9,
    "qwen2.5-7b": 7.61e9,
    "qwen2.5-14b": 14.7e9,
    "qwen2.5-32b": 32.5e9,
    "qwen2.5-72b": 72.7e9,
    "qwen3-0.6b": 0.6e9,
    "qwen3-1.7b": 2.03e9 - 151_936 * 2_048,  # Hugging Face counts the tied embedding twice
    "qwen3-4b": 4.0e9,
    "qwen3-8b": 8.2e9,
    "qwen3-14b": 14.8e9,
    "qwen3-32b": 32.8e9,
    "yi-34b": 34.4e9,
    "chinchilla-4b": 4e9,
    "chinchilla-70b": 70.4e9 - 80 * 8_192**2,  # its file leaves out the relative position projections
}


def test_every_model_of_the_catalogue_is_compared_with_its_published_size() -> None:
    shipped = {name for name in model_names() if name.startswith("shakespeare")}  # counted in gpu_backend
    assert set(PUBLISHED_PARAMETERS) == set(model_names()) - shipped


def test_the_catalogue_holds_every_model_that_was_promised() -> None:
    qwen2_5 = [f"qwen2.5-{size}b" for size in ("0.5", "1.5", "3", "7", "14", "32", "72")]
    qwen3 = [f"qwen3-{size}b" for size in ("0.6", "1.7", "4", "8", "14", "32")]
    llama = ["llama-2-7b", "llama-2-13b", "llama-2-70b", "llama-3-8b", "llama-3-70b"]
    llama += ["llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b"]
    others = ["mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v3", "opt-13b", "opt-66b", "opt-175b"]
    chinchilla = ["chinchilla-70b", "chinchilla-4b"]
    assert set(qwen2_5 + qwen3 + llama + others + chinchilla) <= set(model_names())


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_derived_parameters_match_the_published_count(name: str) -> None:
    assert load_model(name).num_parameters == pytest.approx(PUBLISHED_PARAMETERS[name], rel=0.01)


@pytest.mark.parametrize(
    ("name", "kv_bytes"),
    [
        ("llama-2-7b", 524_288),
        ("llama-2-13b", 819_200),
        ("llama-2-70b", 327_680),
        ("llama-3-8b", 131_072),
        ("mistral-7b", 131_072),
        ("qwen3-32b", 262_144),
        ("deepseek-v3", 61 * (512 + 64) * 2),
    ],
)
def test_kv_bytes_per_token_match_the_papers(name: str, kv_bytes: int) -> None:
    assert load_model(name).kv_bytes_per_token == kv_bytes


def test_heads_divide_over_gpus_or_not() -> None:
    qwen = load_model("qwen2.5-7b")  # 28 query heads, 4 KV heads
    assert [size for size in range(1, 9) if qwen.can_be_split(size)] == [1, 2, 4]


def test_kv_heads_are_copied_where_gpus_outnumber_them() -> None:
    llama = load_model("llama-3-8b")
    assert llama.kv_share(4) == 1 / 4
    assert llama.kv_share(16) == 1 / 8


def test_a_tied_embedding_counts_once() -> None:
    untied = ModelShape("toy", 1, 8, 2, 1, 4, 16, 100, 64)
    tied = replace(untied, tie_word_embeddings=True)
    assert untied.num_parameters - tied.num_parameters == 800
    # attention 8x(8+4+4) + 8x8, MLP 3x8x16, two norms of 8
    assert untied.num_parameters_per_layer == 128 + 64 + 384 + 16
