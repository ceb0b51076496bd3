"""Global and shared memory of the executor: every access checked and counted.

A request is what one warp asks for with one instruction. Global memory moves in sectors of 32 bytes: a
request costs as many as it touches. Shared memory has 32 banks of 4 bytes: a request costs as many
wavefronts as its busiest bank has different words, and wide accesses are served for as many lanes at a time
as 128 bytes allow.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from tests.gpu_backend.ptx.errors import PtxMemoryError

Lanes = NDArray[np.bool_]
Addresses = NDArray[np.int64]
SECTOR_BYTES = 32
NUM_BANKS = 32
WARP = 32
NOBODY = -1


@dataclass
class Counters:
    """What a launch cost."""

    sectors_read: int = 0
    sectors_written: int = 0
    wavefronts: int = 0
    ideal_wavefronts: int = 0
    instructions: int = 0
    matrix_products: int = 0
    distinct_sectors: int = 0

    @property
    def bytes_requested(self) -> int:
        """Bytes of all sectors of all requests, those that a cache answers included."""
        return (self.sectors_read + self.sectors_written) * SECTOR_BYTES

    @property
    def bytes_moved(self) -> int:
        """Bytes of the sectors that were read or written at all: what memory moves if each comes once."""
        return self.distinct_sectors * SECTOR_BYTES

    @property
    def bank_conflicts(self) -> int:
        """Wavefronts that a layout without conflicts would not have needed."""
        return self.wavefronts - self.ideal_wavefronts


class Region:
    """The memory behind one tensor's storage."""

    def __init__(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        self.base = storage.data_ptr()
        self.size = storage.nbytes()
        buffer = (ctypes.c_uint8 * self.size).from_address(self.base)
        self.bytes: NDArray[np.uint8] = np.ctypeslib.as_array(buffer)
        self.was_read = np.zeros(self.size, bool)
        self.writer = np.full(self.size, NOBODY, np.int32)
        self._alive = tensor

    def holds(self, addresses: Addresses, num_bytes: int) -> bool:
        """Whether all of these accesses lie inside."""
        return bool(addresses.min() >= self.base and addresses.max() + num_bytes <= self.base + self.size)


@dataclass
class GlobalMemory:
    """The tensors of a launch; nothing else may be touched."""

    counters: Counters
    regions: dict[int, Region] = field(default_factory=dict)

    def register(self, tensors: Iterable[torch.Tensor]) -> None:
        """Lets the launch touch these tensors."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage.nbytes() and storage.data_ptr() not in self.regions:
                self.regions[storage.data_ptr()] = Region(tensor)

    def begin_launch(self) -> None:
        """Forgets who wrote what: launches follow one another."""
        for region in self.regions.values():
            region.writer[:] = NOBODY
            region.was_read[:] = False

    def end_launch(self) -> None:
        """Adds up which sectors were touched."""
        for region in self.regions.values():
            for touched in (region.was_read, region.writer != NOBODY):
                whole = np.flatnonzero(touched) + region.base % SECTOR_BYTES
                self.counters.distinct_sectors += np.unique(whole // SECTOR_BYTES).size

    def load(self, addresses: Addresses, num_bytes: int, active: Lanes, program: int) -> NDArray[np.uint8]:
        """Bytes of the active lanes, [num_lanes, num_bytes]; others get zeros."""
        result = np.zeros((addresses.size, num_bytes), np.uint8)
        if active.any():
            self.counters.sectors_read += _sectors(addresses, num_bytes, active)
            region, at = self._locate(addresses[active], num_bytes)
            writer = region.writer[at]
            if ((writer != NOBODY) & (writer != program)).any():
                raise PtxMemoryError(f"program {program} reads what another one wrote")
            region.was_read[at] = True
            result[active] = region.bytes[at]
        return result

    def store(self, addresses: Addresses, values: NDArray[np.uint8], active: Lanes, program: int) -> None:
        """Writes the bytes [num_lanes, num_bytes] of the active lanes."""
        if not active.any():
            return
        num_bytes = values.shape[1]
        self.counters.sectors_written += _sectors(addresses, num_bytes, active)
        region, at = self._locate(addresses[active], num_bytes)
        writer = region.writer[at]
        if ((writer != NOBODY) & (writer != program)).any():
            raise PtxMemoryError(f"program {program} writes what another one wrote")
        region.writer[at] = program
        region.bytes[at] = values[active]

    def _locate(self, addresses: Addresses, num_bytes: int) -> tuple[Region, NDArray[np.int64]]:
        if (addresses % num_bytes).any():
            raise PtxMemoryError(f"misaligned access of {num_bytes} bytes")
        for region in self.regions.values():
            if region.holds(addresses, num_bytes):
                return region, (addresses - region.base)[:, None] + np.arange(num_bytes)
        raise PtxMemoryError(f"{addresses.size} lanes access {num_bytes} bytes each out of bounds")


class SharedMemory:
    """The shared memory of one program; it begins as NaNs."""

    def __init__(self, size: int, counters: Counters) -> None:
        self.bytes = np.full(size, 0xFF, np.uint8)
        self._counters = counters

    def load(self, addresses: Addresses, num_bytes: int, active: Lanes) -> NDArray[np.uint8]:
        """Bytes of the active lanes, [num_lanes, num_bytes]; others get zeros."""
        result = np.zeros((addresses.size, num_bytes), np.uint8)
        if active.any():
            result[active] = self.bytes[self._locate(addresses, num_bytes, active)]
        return result

    def store(self, addresses: Addresses, values: NDArray[np.uint8], active: Lanes) -> None:
        """Writes the bytes [num_lanes, num_bytes] of the active lanes."""
        if active.any():
            self.bytes[self._locate(addresses, values.shape[1], active)] = values[active]

    def _locate(self, addresses: Addresses, num_bytes: int, active: Lanes) -> NDArray[np.int64]:
        wanted = addresses[active]
        if (wanted % num_bytes).any() or wanted.min() < 0 or wanted.max() + num_bytes > self.bytes.size:
            raise PtxMemoryError(f"shared memory of {self.bytes.size} bytes: out of bounds or misaligned")
        wavefronts, ideal = bank_wavefronts(addresses, num_bytes, active)
        self._counters.wavefronts += wavefronts
        self._counters.ideal_wavefronts += ideal
        return wanted[:, None] + np.arange(num_bytes)


def _sectors(addresses: Addresses, num_bytes: int, active: Lanes) -> int:
    """Sectors that the warps touch: an aligned access of at most 16 bytes lies in one."""
    warps = np.arange(addresses.size) // WARP
    keys = (addresses // SECTOR_BYTES) * (addresses.size // WARP + 1) + warps
    return int(np.unique(keys[active]).size)


def bank_wavefronts(addresses: Addresses, num_bytes: int, active: Lanes) -> tuple[int, int]:
    """Wavefronts that the warps need, and those they would need without conflicts."""
    lanes_at_once = min(WARP, NUM_BANKS * 4 // max(4, num_bytes))
    first_word = (addresses // 4)[active]
    group = (np.arange(addresses.size) // lanes_at_once)[active]
    span = (
        int(addresses.max()) // 4 + num_bytes
    )  # past every word, so that one number names a group and a word
    keys = np.unique(
        (group * span + first_word)[:, None] + np.arange(max(1, num_bytes // 4))
    )  # each word once
    groups, words = keys // span, keys % span
    per_bank = np.bincount(
        groups * NUM_BANKS + words % NUM_BANKS, minlength=(int(groups[-1]) + 1) * NUM_BANKS
    )
    return int(per_bank.reshape(-1, NUM_BANKS).max(1).sum()), int(np.unique(groups).size)
