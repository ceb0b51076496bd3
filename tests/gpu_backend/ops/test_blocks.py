"""Moving whole blocks: copy-on-write, and packing and unpacking for swap."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the engine needs torch")
pytest.importorskip("triton", reason="Triton is not installed")

import torch

from gpu_backend.ops.copy_blocks import copy_blocks
from gpu_backend.ops.gather_blocks import gather_blocks
from gpu_backend.ops.implementation import Implementation, OpInputError
from gpu_backend.ops.scatter_blocks import scatter_blocks
from tests.gpu_backend.ops.ways import WAYS, device_of, running
from tests.gpu_backend.ptx.errors import PtxMemoryError
from tests.gpu_backend.ptx.executing import executed

SHAPES = [(1, 8, 1, 64), (3, 16, 2, 80), (5, 32, 2, 128)]  # caches, block size, key heads, head size
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
FORMS = [Implementation.TWIN, Implementation.UNFUSED]


def _caches(shape: tuple[int, int, int, int], dtype: torch.dtype, device: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn((6, *shape[1:]), generator=generator).to(device, dtype) for _ in range(shape[0])]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", WAYS)
def test_blocks_are_copied_packed_and_unpacked_bit_for_bit(
    way: str, dtype: torch.dtype, shape: tuple[int, int, int, int]
) -> None:
    device = device_of(way)
    caches = _caches(shape, dtype, device)
    before = [cache.clone() for cache in caches]
    src, dst = torch.tensor([0, 4], device=device), torch.tensor([5, 2], device=device)
    with running(way, caches):
        copy_blocks(caches, src, dst, Implementation.KERNEL)
        packed = gather_blocks(caches, torch.tensor([5, 1, 2], device=device), Implementation.KERNEL)
        scatter_blocks(caches, torch.tensor([3, 0, 1], device=device), packed, Implementation.KERNEL)
    for index, (cache, old) in enumerate(zip(caches, before, strict=True)):
        assert torch.equal(packed[:, index], old[[0, 1, 4]])
        assert torch.equal(cache, old[[1, 4, 4, 0, 4, 0]])


@pytest.mark.parametrize("form", FORMS)
def test_torch_moves_the_same_blocks(form: Implementation) -> None:
    caches = _caches(SHAPES[1], torch.float32, "cpu")
    before = [cache.clone() for cache in caches]
    copy_blocks(caches, torch.tensor([0, 4]), torch.tensor([5, 2]), form)
    packed = gather_blocks(caches, torch.tensor([5, 1, 2]), form)
    scatter_blocks(caches, torch.tensor([3, 0, 1]), packed, form)
    for cache, old in zip(caches, before, strict=True):
        assert torch.equal(cache, old[[1, 4, 4, 0, 4, 0]])


def test_nothing_to_move_is_no_launch() -> None:
    caches = _caches(SHAPES[0], torch.float32, "cpu")
    none = torch.zeros(0, dtype=torch.int64)
    with executed() as execution:
        copy_blocks(caches, none, none, Implementation.KERNEL)
        assert gather_blocks(caches, none, Implementation.KERNEL).shape[0] == 0
    assert execution.costs == []


def test_a_chain_of_copies_in_one_launch_is_a_race() -> None:
    caches = _caches(SHAPES[0], torch.float32, "cpu")
    with executed(caches), pytest.raises(PtxMemoryError, match="another one wrote"):
        copy_blocks(caches, torch.tensor([0, 1]), torch.tensor([1, 2]), Implementation.KERNEL)


def test_a_block_that_is_not_there_is_out_of_bounds() -> None:
    caches = _caches(SHAPES[0], torch.float32, "cpu")
    with executed(caches), pytest.raises(PtxMemoryError, match="out of bounds"):
        copy_blocks(caches, torch.tensor([6]), torch.tensor([1]), Implementation.KERNEL)


def test_caches_that_differ_are_refused() -> None:
    one, other = _caches(SHAPES[0], torch.float32, "cpu")[0], _caches(SHAPES[1], torch.float32, "cpu")[0]
    blocks = torch.tensor([0])
    with pytest.raises(OpInputError, match="a cache has shape"):
        gather_blocks([one, other], blocks)
    with pytest.raises(OpInputError, match="no cache"):
        gather_blocks([], blocks)
    with pytest.raises(OpInputError, match="dst_blocks has shape"):
        copy_blocks([one], blocks, torch.tensor([1, 2]))
    with pytest.raises(OpInputError, match="staging has shape"):
        scatter_blocks([one], blocks, torch.zeros(2, 1, *one.shape[1:]))
    with pytest.raises(OpInputError, match="multiples of 16 bytes"):
        copy_blocks([torch.zeros(4, 1, 1, 2)], blocks, torch.tensor([1]), Implementation.KERNEL)
