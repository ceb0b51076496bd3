"""Blocks really move: out to the host, back to other blocks, and aside for a copy-on-write, in that order."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

import torch
from hypothesis import given
from hypothesis import strategies as st

from gpu_backend.memory.kv_storage import KVStorage, StorageShape
from gpu_backend.model.model_config import parse_model_config
from gpu_backend.ops.implementation import Implementation
from sim.core.step import BlockCopy, StepPlan

CONFIG = parse_model_config(
    {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 8,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
    source="config.json",
)
SHAPE = StorageShape(num_device_blocks=6, num_host_blocks=4, block_size=2)
NOTHING = StepPlan(0, 1, 0, 0, (), (), 0, (), 0)


def _storage(implementation: Implementation = Implementation.TWIN) -> KVStorage:
    """Each block of each layer's keys and values filled with a number of its own."""
    storage = KVStorage(CONFIG, SHAPE, torch.float32, torch.device("cpu"), implementation)
    for index, cache in enumerate(cache for layer in storage.caches for cache in layer):
        for block in range(SHAPE.num_device_blocks):
            cache[block] = 100 * index + block
    return storage


def _plan(
    out: list[tuple[int, int]] | None = None,
    in_: list[tuple[int, int]] | None = None,
    copies: list[tuple[int, int]] | None = None,
) -> StepPlan:
    def moves(pairs: list[tuple[int, int]] | None) -> tuple[BlockCopy, ...]:
        return tuple(BlockCopy(*pair) for pair in pairs or [])

    return NOTHING._replace(
        blocks_to_swap_out=moves(out), blocks_to_swap_in=moves(in_), blocks_to_copy=moves(copies)
    )


def _content(storage: KVStorage) -> list[int]:
    """What each block holds, the same in every layer; a block of mixed content fails."""
    contents = []
    for block in range(SHAPE.num_device_blocks):
        seen = set()
        for index, cache in enumerate(cache for layer in storage.caches for cache in layer):
            (value,) = set(cache[block].flatten().tolist())
            seen.add(int(value) - 100 * index)
        (content,) = seen
        contents.append(content)
    return contents


FORMS = pytest.mark.parametrize("implementation", [Implementation.TWIN, Implementation.UNFUSED])


@FORMS
def test_a_swapped_block_comes_back_elsewhere_with_its_content(implementation: Implementation) -> None:
    storage = _storage(implementation)
    storage.apply(_plan(out=[(4, 1), (2, 2), (0, 0)]))
    for layer in storage.caches:
        for cache in layer:
            cache[[4, 2, 0]] = torch.nan
    storage.apply(_plan(in_=[(2, 0), (0, 4), (1, 2)]))
    assert _content(storage) == [2, 1, 4, 3, 0, 5]


@FORMS
def test_out_comes_before_in_and_both_before_copies(implementation: Implementation) -> None:
    storage = _storage(implementation)
    storage.apply(_plan(out=[(5, 3)]))
    storage.apply(_plan(out=[(1, 0)], in_=[(3, 1), (0, 2)], copies=[(1, 3), (2, 4)]))
    assert _content(storage) == [0, 5, 1, 5, 1, 5]


@FORMS
def test_copies_leave_their_sources(implementation: Implementation) -> None:
    storage = _storage(implementation)
    storage.apply(_plan(copies=[(0, 3), (0, 4)]))
    assert _content(storage) == [0, 1, 2, 0, 0, 5]


def test_nothing_to_move_moves_nothing() -> None:
    storage = _storage()
    storage.apply(NOTHING)
    assert _content(storage) == [0, 1, 2, 3, 4, 5]


@given(data=st.data())
def test_any_moves_do_what_a_list_of_numbers_would(data: st.DataObject) -> None:
    storage, device, host = _storage(), list(range(6)), [-1] * 4

    def pairs(num_from: int, num_to: int, *, aside: bool) -> list[tuple[int, int]]:
        targets = data.draw(st.lists(st.integers(0, num_to - 1), unique=True, max_size=3))
        sources = [block for block in range(num_from) if not (aside and block in targets)]
        return [(data.draw(st.sampled_from(sources)), target) for target in targets]

    for _ in range(3):
        out, in_, copies = pairs(6, 4, aside=False), pairs(4, 6, aside=False), pairs(6, 6, aside=True)
        host_now = list(host)
        for src, dst in out:
            host_now[dst] = device[src]
        in_ = [(src, dst) for src, dst in in_ if host_now[src] >= 0]
        storage.apply(_plan(out, in_, copies))
        host = host_now
        for src, dst in in_:
            device[dst] = host[src]
        for src, dst in copies:
            device[dst] = device[src]
        assert _content(storage) == device


def test_the_tensors_take_what_the_pool_says() -> None:
    storage = _storage()
    block_bytes = 2 * 3 * 2 * 2 * 4 * 4  # keys and values, layers, slots, heads, head_dim, bytes
    assert storage.device_bytes == 6 * block_bytes
    assert storage.host_bytes == 4 * block_bytes


def test_without_a_host_pool_there_is_none() -> None:
    shape = dataclasses.replace(SHAPE, num_host_blocks=0)
    assert KVStorage(CONFIG, shape, torch.float32, torch.device("cpu")).host_bytes == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_blocks_move_over_the_link_in_order() -> None:
    storage = KVStorage(CONFIG, SHAPE, torch.float32, torch.device("cuda"))
    for index, cache in enumerate(cache for layer in storage.caches for cache in layer):
        for block in range(SHAPE.num_device_blocks):
            cache[block] = 100 * index + block
    storage.apply(_plan(out=[(5, 3)]))
    storage.apply(_plan(out=[(1, 0)], in_=[(3, 1), (0, 2)], copies=[(1, 3), (2, 4)]))
    assert _content(storage) == [0, 5, 1, 5, 1, 5]
