"""The executor's memory: bounds, alignment, races, sectors and bank conflicts."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

import numpy as np
import torch

from tests.gpu_backend.ptx.errors import PtxMemoryError
from tests.gpu_backend.ptx.memory import Counters, GlobalMemory, SharedMemory, bank_wavefronts

LANES = np.arange(32)
ALL = np.ones(32, bool)


def _memory(num_words: int) -> tuple[GlobalMemory, torch.Tensor]:
    tensor = torch.arange(num_words, dtype=torch.int32)
    memory = GlobalMemory(Counters())
    memory.register([tensor])
    return memory, tensor


def test_accesses_outside_every_tensor_are_caught() -> None:
    memory, tensor = _memory(32)
    assert memory.load(tensor.data_ptr() + 4 * LANES, 4, ALL, 0).view(np.int32)[:, 0].tolist() == list(
        range(32)
    )
    with pytest.raises(PtxMemoryError, match="out of bounds"):
        memory.load(tensor.data_ptr() + 4 * LANES + 4, 4, ALL, 0)
    with pytest.raises(PtxMemoryError, match="out of bounds"):
        memory.store(tensor.data_ptr() + 4 * LANES - 4, np.zeros((32, 4), np.uint8), ALL, 0)
    memory.load(tensor.data_ptr() + 4 * LANES + 4, 4, LANES < 31, 0)  # a masked lane asks for nothing


def test_misaligned_accesses_are_caught() -> None:
    memory, tensor = _memory(64)
    with pytest.raises(PtxMemoryError, match="misaligned"):
        memory.load(tensor.data_ptr() + 4 * LANES, 8, ALL, 0)


def test_programs_may_not_meet_in_memory_within_a_launch() -> None:
    memory, tensor = _memory(32)
    memory.begin_launch()
    addresses, zeros = tensor.data_ptr() + 4 * LANES, np.zeros((32, 4), np.uint8)
    memory.store(addresses, zeros, ALL, 0)
    memory.load(addresses, 4, ALL, 0)
    with pytest.raises(PtxMemoryError, match="reads what another one wrote"):
        memory.load(addresses, 4, ALL, 1)
    with pytest.raises(PtxMemoryError, match="writes what another one wrote"):
        memory.store(addresses, zeros, ALL, 1)
    memory.begin_launch()
    memory.load(addresses, 4, ALL, 1)


@pytest.mark.parametrize(("stride_bytes", "sectors"), [(4, 4), (8, 8), (32, 32), (0, 1)])
def test_a_request_costs_the_sectors_that_it_touches(stride_bytes: int, sectors: int) -> None:
    memory, tensor = _memory(512)
    base = tensor.data_ptr()
    assert base % 32 == 0
    memory.load(base + stride_bytes * LANES, 4, ALL, 0)
    assert memory.counters.sectors_read == sectors


@pytest.mark.parametrize(
    ("stride_bytes", "num_bytes", "wavefronts", "ideal"),
    [
        (4, 4, 1, 1),  # neighbours
        (0, 4, 1, 1),  # one word for all
        (8, 4, 2, 1),  # two lanes in each bank
        (128, 4, 32, 1),  # all lanes in one bank
        (16, 16, 4, 4),  # wide: eight lanes at a time
        (128, 16, 32, 4),
        (144, 16, 4, 4),  # rows padded by 16 bytes
        (8, 8, 2, 2),
    ],
)
def test_bank_conflicts_by_stride(stride_bytes: int, num_bytes: int, wavefronts: int, ideal: int) -> None:
    assert bank_wavefronts(stride_bytes * LANES, num_bytes, ALL) == (wavefronts, ideal)


def test_shared_memory_begins_as_poison_and_ends() -> None:
    shared = SharedMemory(128, Counters())
    assert np.isnan(shared.load(4 * LANES, 4, ALL).view(np.float32)).all()
    with pytest.raises(PtxMemoryError, match="out of bounds"):
        shared.load(4 * LANES + 4, 4, ALL)
