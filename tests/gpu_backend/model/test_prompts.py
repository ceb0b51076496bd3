"""Prompts say the same where the workload says so, and something else everywhere else."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

import numpy as np

from gpu_backend.model.model_folders import SHIPPED
from gpu_backend.model.texts import Prompts, text_tokens
from workloads.spec import RequestSpec

TEXT = np.arange(1000)


def spec(number: int, length: int, *hash_ids: int) -> RequestSpec:
    return RequestSpec(number, 0, length, 1, hash_ids=hash_ids, hash_block_tokens=8)


def test_equal_leading_hash_ids_are_equal_leading_tokens() -> None:
    prompts = Prompts([spec(0, 30, 5, 6), spec(1, 20, 5, 7), spec(2, 6, 5), spec(3, 30, 6, 5)], TEXT, seed=0)
    first, second, third, other = map(prompts.tokens, range(4))
    assert first[:8] == second[:8]
    assert first[:6] == third
    assert first[8:16] != second[8:16]
    assert first[16:] != second[16:]
    assert other[:8] != first[8:16], "an id stands for its block at its place"


def test_every_prompt_has_its_length_even_where_the_text_is_shorter() -> None:
    prompts = Prompts([spec(0, 3000), spec(1, 1)], TEXT, seed=0)
    assert [len(prompts.tokens(number)) for number in range(2)] == [3000, 1]
    assert prompts.tokens(0)[1000:2000] == prompts.tokens(0)[:1000]


def test_a_prompt_follows_from_the_seed_alone() -> None:
    specs = [spec(0, 30), spec(1, 30)]
    assert Prompts(specs, TEXT, 1).tokens(1) == Prompts(specs[:2], TEXT, 1).tokens(1)
    assert Prompts(specs, TEXT, 1).tokens(1) != Prompts(specs, TEXT, 2).tokens(1)
    assert Prompts(specs, TEXT, 1).tokens(0) != Prompts(specs, TEXT, 1).tokens(1)


def test_the_shipped_pair_reads_the_play_in_its_own_tokens() -> None:
    tokens = text_tokens(SHIPPED["shakespeare-4.7m"], 1024, seed=0)
    assert len(tokens) > 20_000
    assert tokens.min() >= 0
    assert tokens.max() < 1024


def test_a_model_without_a_tokenizer_gets_ids_it_has(tmp_path: object) -> None:
    from pathlib import Path

    tokens = text_tokens(Path(str(tmp_path)), 50, seed=0)
    assert tokens.min() >= 0
    assert tokens.max() == 49
