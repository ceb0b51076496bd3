"""Instructions that touch memory: ld, st, cp.async and ldmatrix."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tests.gpu_backend.ptx import warps
from tests.gpu_backend.ptx.errors import PtxUnknownError
from tests.gpu_backend.ptx.memory import GlobalMemory, SharedMemory
from tests.gpu_backend.ptx.parsing import Instruction
from tests.gpu_backend.ptx.values import Array, Reader, Registers, raw

Mask = NDArray[np.bool_] | None


@dataclass(slots=True)
class State:
    """What an instruction can see and change."""

    registers: Registers
    memory: GlobalMemory
    shared: SharedMemory
    program: int  # its number in the grid


Action = Callable[[State, Mask], None]


class Read(Protocol):
    """Makes a reader of an operand as a type."""

    def __call__(self, text: str, kind: str) -> Reader: ...


def vector(operand: str) -> list[str]:
    """The names in `{ %r1, %r2 }`, or the one name."""
    return [name.strip() for name in operand.strip("{}").split(",")]


def action(instruction: Instruction, read: Read) -> Action:
    """The function of a memory instruction.

    Raises:
        PtxUnknownError: for one that is not known.
    """
    match instruction.parts:
        case ("ld" | "st", ("global" | "shared") as space, *wide, kind) if wide in ([], ["v2"], ["v4"]):
            plain = _load if instruction.parts[0] == "ld" else _store
            return plain(instruction, space, kind, read)
        case ("cp", "async", "ca" | "cg", "shared", "global") if len(instruction.operands) in (3, 4):
            return _copy_async(instruction, read)
        case ("ldmatrix", "sync", "aligned", "m8n8", ("x1" | "x2" | "x4"), *how, "shared", "b16") if (
            how in ([], ["trans"]) and instruction.guard is None
        ):
            return _load_matrices(instruction, read, transposed=how == ["trans"])
    raise PtxUnknownError(instruction.text)


def _address(operand: str, space: str, read: Read) -> Reader:
    """`[ %rd1 + 16 ]`: base and offset, as int64."""
    match = re.fullmatch(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]", operand)
    if match is None:
        raise PtxUnknownError(f"address {operand}")
    base, offset = read(match[1], "u64" if space == "global" else "u32"), int(match[2] or 0)

    def addresses(registers: Registers) -> Array:
        found = base(registers).astype(np.int64) + offset
        return found if found.size == registers.num_threads else np.broadcast_to(found, registers.num_threads)

    return addresses


def _active(state: State, mask: Mask) -> NDArray[np.bool_]:
    return np.ones(state.registers.num_threads, bool) if mask is None else mask


def _load(instruction: Instruction, space: str, kind: str, read: Read) -> Action:
    names, where = vector(instruction.operands[0]), _address(instruction.operands[1], space, read)
    width = int(kind[1:]) // 8
    dtype = np.dtype(f"uint{kind[1:]}")

    def load(state: State, mask: Mask) -> None:
        addresses, active, num_bytes = where(state.registers), _active(state, mask), width * len(names)
        if space == "global":
            found = state.memory.load(addresses, num_bytes, active, state.program)
        else:
            found = state.shared.load(addresses, num_bytes, active)
        values = found.view(dtype)  # [num_threads, len(names)]
        for index, name in enumerate(names):
            column = np.ascontiguousarray(values[:, index])
            state.registers.write(name, widened(column, name, kind), mask)

    return load


def widened(values: Array, name: str, kind: str) -> Array:
    """`ld.shared.s32 %rd1`: a 64-bit register takes 32 bits, with their sign where the type has one."""
    if name.startswith("%rd") and kind in ("s32", "u32"):
        return values.view(np.int32 if kind == "s32" else np.uint32).astype(np.int64).view(np.uint64)
    return values


def _store(instruction: Instruction, space: str, kind: str, read: Read) -> Action:
    where, names = _address(instruction.operands[0], space, read), vector(instruction.operands[1])
    takes = [read(name, "b" + kind[1:]) for name in names]

    def store(state: State, mask: Mask) -> None:
        threads = state.registers.num_threads
        columns = [np.broadcast_to(raw(take(state.registers)), threads) for take in takes]
        values = np.ascontiguousarray(np.stack(columns, 1)).view(np.uint8).reshape(threads, -1)
        if space == "global":
            state.memory.store(where(state.registers), values, _active(state, mask), state.program)
        else:
            state.shared.store(where(state.registers), values, _active(state, mask))

    return store


def _copy_async(instruction: Instruction, read: Read) -> Action:
    """Global to shared memory, done at once; past the number of source bytes the destination gets zeros."""
    to, source = (
        _address(instruction.operands[0], "shared", read),
        _address(instruction.operands[1], "global", read),
    )
    num_bytes = int(instruction.operands[2], 0)
    given = read(instruction.operands[3] if len(instruction.operands) == 4 else str(num_bytes), "u32")

    def copy(state: State, mask: Mask) -> None:
        active = _active(state, mask)
        sizes = np.broadcast_to(given(state.registers), active.shape)
        if not np.isin(sizes[active], (0, num_bytes)).all():
            raise PtxUnknownError(f"cp.async of a part: {instruction.text}")
        found = state.memory.load(source(state.registers), num_bytes, active & (sizes > 0), state.program)
        state.shared.store(to(state.registers), found, active)

    return copy


def _load_matrices(instruction: Instruction, read: Read, *, transposed: bool) -> Action:
    names, where = vector(instruction.operands[0]), _address(instruction.operands[1], "shared", read)
    if len(names) != int(instruction.parts[4][1:]):
        raise PtxUnknownError(instruction.text)

    def load(state: State, mask: Mask) -> None:
        lanes = np.arange(state.registers.num_threads) % warps.WARP
        addressed = lanes < 8 * len(names)  # lanes 8 i .. 8 i + 7 hold the row addresses of matrix i
        rows = state.shared.load(where(state.registers), 16, addressed)[addressed]
        tiles = rows.view(np.uint16).reshape(-1, len(names), 8, 8)  # [num_warps, num_matrices, rows, columns]
        for name, values in zip(
            names, warps.matrices_to_registers(tiles, transposed=transposed), strict=True
        ):
            state.registers.write(name, values, mask)

    return load
