"""Types, registers and operands: what an instruction reads and writes.

A register holds raw bits, one number per thread, and takes the type of whoever looks at it. Reading a
register that was never written is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.gpu_backend.ptx.errors import PtxUnknownError

Array = NDArray[Any]
DTYPES: dict[str, Any] = {
    "f16": np.float16,
    "f32": np.float32,
    "f64": np.float64,
    **{f"s{bits}": np.dtype(f"int{bits}").type for bits in (8, 16, 32, 64)},
    **{f"{kind}{bits}": np.dtype(f"uint{bits}").type for kind in "ub" for bits in (8, 16, 32, 64)},
}
RAW = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def dtype_of(name: str) -> Any:
    """The numpy type of a PTX type; bfloat16 has none.

    Raises:
        PtxUnknownError: for a type that is not known.
    """
    if name not in DTYPES:
        raise PtxUnknownError(f"type {name}")
    return DTYPES[name]


def raw(values: Array) -> Array:
    """Numbers as bits."""
    return values if values.dtype == np.bool_ else values.view(RAW[values.dtype.itemsize])


def from_bfloat16(bits: Array) -> Array:
    """Bits of bfloat16, uint16, as float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bfloat16(values: Array) -> Array:
    """float32 as bits of bfloat16, rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return np.where(np.isnan(values), np.uint16(0x7FFF), (rounded >> np.uint32(16)).astype(np.uint16))


class Registers:
    """All registers of all threads of one program."""

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._bits: dict[str, Array] = {}

    def read(self, name: str) -> Array:
        """Raw bits, [num_threads]."""
        try:
            return self._bits[name]
        except KeyError:
            raise PtxUnknownError(f"{name} is read before it was written") from None

    def write(self, name: str, values: Array, active: NDArray[np.bool_] | None) -> None:
        """Sets raw bits of the active threads; others keep theirs."""
        bits = raw(values)
        if bits.size != self.num_threads:
            bits = np.broadcast_to(bits, (self.num_threads,))
        if active is not None:
            before = self._bits.get(name, np.zeros(self.num_threads, bits.dtype))
            bits = np.where(active, bits, before)
        self._bits[name] = bits


Reader = Callable[[Registers], Array]


def reader(operand: str, type_name: str, symbols: dict[str, int], specials: dict[str, Array]) -> Reader:
    """How to read a register, an immediate, a special register or the address of a symbol as a type."""
    if operand in specials:
        dtype = dtype_of(type_name)
        return lambda registers: specials[operand].astype(dtype)  # looked up anew: each program has its own
    if operand in symbols:
        address = np.array([symbols[operand]], dtype_of(type_name))
        return lambda registers: address
    if operand.startswith("%p"):
        if type_name != "pred":
            raise PtxUnknownError(f"predicate {operand} as {type_name}")
        return lambda registers: registers.read(operand)
    if re.fullmatch(r"%(r|rs|rd|f|fd|h)\d+", operand):
        wanted = dtype_of(type_name)
        return lambda registers: _viewed(registers.read(operand), wanted, operand)
    immediate = _immediate(operand, type_name)
    return lambda registers: immediate


def _viewed(bits: Array, wanted: Any, operand: str) -> Array:
    if bits.dtype.itemsize != np.dtype(wanted).itemsize:
        raise PtxUnknownError(f"{operand} has {bits.dtype.itemsize * 8} bits, not those of {wanted.__name__}")
    return bits.view(wanted)


def _immediate(text: str, type_name: str) -> Array:
    if type_name == "pred":
        return np.array([int(text) != 0])
    wanted = np.dtype(dtype_of(type_name))
    match = re.fullmatch(r"0f([0-9A-Fa-f]{8})", text)
    if match and wanted.itemsize == 4:
        return np.array([int(match[1], 16)], np.uint32).view(wanted)  # bits, also where an integer is wanted
    if match := re.fullmatch(r"(-?)(0x[0-9A-Fa-f]+|\d+)U?", text):
        value = int(match[2], 0) * (-1 if match[1] else 1)
        bits = value & ((1 << (8 * wanted.itemsize)) - 1)
        return np.array([bits], RAW[wanted.itemsize]).view(wanted)
    raise PtxUnknownError(f"operand {text}")
