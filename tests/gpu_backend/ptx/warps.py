"""Instructions in which the threads of a warp work together: shuffles, reductions, matrix loads and products.

Layouts (PTX ISA, "Matrix Fragments for mma.m16n8k16"), with g = lane / 4 and t = 2 (lane % 4):
    A  registers 0..3 hold (row g, columns t, t+1), (g+8, t..), (g, t+8..), (g+8, t+8..)
    B  registers 0..1 hold (rows t, t+1, column g), (rows t+8, t+9, column g)
    C  registers 0..3 hold (g, t), (g, t+1), (g+8, t), (g+8, t+1)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tests.gpu_backend.ptx.errors import PtxUnknownError
from tests.gpu_backend.ptx.values import Array, from_bfloat16

WARP = 32
_LANE = np.arange(WARP)
_G, _T = _LANE // 4, 2 * (_LANE % 4)
_ROWS_A = np.stack((_G, _G + 8, _G, _G + 8))  # [4, lanes]
_COLUMNS_A = np.stack((_T, _T, _T + 8, _T + 8))
_ROWS_B = np.stack((_T, _T + 8))  # [2, lanes]
_ROWS_C = np.stack((_G, _G, _G + 8, _G + 8))
_COLUMNS_C = np.stack((_T, _T + 1, _T, _T + 1))


def shuffle(mode: str, values: Array, by: Array, clamp: Array) -> Array:
    """shfl.sync: each lane takes another lane's value, or keeps its own where that one is outside.

    Only whole warps (segment mask 0) are known.
    """
    lanes = np.arange(values.size) % WARP
    step = np.broadcast_to(by, values.shape).astype(np.int64)
    limit = np.broadcast_to(clamp, values.shape).astype(np.int64)
    if (limit >> 5).any():
        raise PtxUnknownError("shfl with segments")
    match mode:
        case "bfly":
            source, inside = lanes ^ step, (lanes ^ step) <= limit
        case "up":
            source, inside = lanes - step, lanes - step >= limit
        case "down":
            source, inside = lanes + step, lanes + step <= limit
        case "idx":
            source, inside = step % WARP, step % WARP <= limit
        case _:
            raise PtxUnknownError(f"shfl.{mode}")
    first = np.arange(values.size) - lanes
    taken: Array = values[first + np.where(inside, source, lanes)]
    return taken


def reduce(name: str, values: Array) -> Array:
    """redux.sync: all lanes of a warp get the same result."""
    functions: dict[str, Callable[..., Array]] = {"max": np.max, "min": np.min, "add": np.sum}
    if name not in functions:
        raise PtxUnknownError(f"redux.{name}")
    per_warp = functions[name](values.reshape(-1, WARP), axis=1, keepdims=True)
    return np.broadcast_to(per_warp, (values.size // WARP, WARP)).reshape(-1).astype(values.dtype)


def matrices_to_registers(rows: Array, *, transposed: bool) -> list[Array]:
    """ldmatrix: rows [num_warps, num_matrices, 8, 8] uint16 -> one register of two halves per matrix."""
    num_warps, num_matrices = rows.shape[:2]
    registers = []
    for matrix in range(num_matrices):
        tile = rows[:, matrix].transpose(0, 2, 1) if transposed else rows[:, matrix]  # [num_warps, 8, 8]
        pair = np.ascontiguousarray(
            tile.reshape(num_warps, WARP, 2)
        )  # lane: row lane / 4, columns 2 (lane % 4), + 1
        registers.append(pair.view(np.uint32).reshape(-1))
    return registers


def matrix_product(a: Sequence[Array], b: Sequence[Array], c: Sequence[Array], kind: str) -> list[Array]:
    """mma.m16n8k16 with float32 sums: D = A B + C, each as its registers."""
    num_warps = a[0].size // WARP
    left = np.zeros((num_warps, 16, 16), np.float32)
    right = np.zeros((num_warps, 16, 8), np.float32)
    for register, rows, columns in zip(a, _ROWS_A, _COLUMNS_A, strict=True):
        left[:, rows, columns], left[:, rows, columns + 1] = _halves(register, num_warps, kind)
    for register, rows in zip(b, _ROWS_B, strict=True):
        right[:, rows, _G], right[:, rows + 1, _G] = _halves(register, num_warps, kind)
    product = np.matmul(left, right)  # [num_warps, 16, 8]
    results = []
    for register, rows, columns in zip(c, _ROWS_C, _COLUMNS_C, strict=True):
        sums = register.view(np.float32).reshape(num_warps, WARP) + product[:, rows, columns]
        results.append(sums.reshape(-1))
    return results


def _halves(register: Array, num_warps: int, kind: str) -> tuple[Array, Array]:
    """Both 16-bit halves of a register as float32: [num_warps, 32] each, the low one first."""
    bits = np.ascontiguousarray(register).view(np.uint16).reshape(num_warps, WARP, 2)
    match kind:
        case "f16":
            numbers = bits.view(np.float16).astype(np.float32)
        case "bf16":
            numbers = from_bfloat16(bits)
        case _:
            raise PtxUnknownError(f"mma of {kind}")
    return numbers[..., 0], numbers[..., 1]
