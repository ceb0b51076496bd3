"""Instructions that compute one result per thread from the thread's own operands.

`operation` maps the parts of an opcode to the types of its operands and result and to a function on numpy
arrays. Whatever is not listed is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.gpu_backend.ptx.errors import PtxUnknownError
from tests.gpu_backend.ptx.values import Array, dtype_of, from_bfloat16, to_bfloat16


@dataclass(frozen=True, slots=True)
class Operation:
    """What an instruction computes: `compute(*operands) -> result`, each viewed as its type."""

    operand_types: tuple[str, ...]
    compute: Callable[..., Array]


_FLOATS = ("f16", "f32", "f64")
_INTEGERS = ("s16", "s32", "s64", "u16", "u32", "u64")
_BITS = ("b16", "b32", "b64")
_COMPARE: dict[str, Callable[..., Any]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_UNORDERED = {"equ": "eq", "neu": "ne", "ltu": "lt", "leu": "le", "gtu": "gt", "geu": "ge"}
_UNARY: dict[str, Callable[[Array], Array]] = {
    "ex2": np.exp2,
    "lg2": np.log2,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "rcp": np.reciprocal,
    "rsqrt": lambda values: 1 / np.sqrt(values),
}


def operation(parts: tuple[str, ...]) -> Operation | None:  # noqa: C901  # one line per family
    """The operation of an opcode, or None where it is not one of this kind or is not known."""
    name, modifiers, kind = parts[0], parts[1:-1], parts[-1]
    match name:
        case "add" | "sub" | "mul" | "fma" | "max" | "min" | "div" if kind in _FLOATS:
            return _float(name, modifiers, kind)
        case "add" | "mul" | "sub" if kind == "f16x2" and not modifiers:
            return Operation(("b32", "b32"), _paired(_float(name, (), "f16").compute))
        case "fma" if kind in ("bf16", "bf16x2") and modifiers == ("rn",):
            return Operation(("b16" if kind == "bf16" else "b32",) * 3, _fused_bfloat16)
        case "ex2" | "lg2" | "sqrt" | "rcp" | "rsqrt" if kind == "f32" and modifiers in (
            ("approx", "ftz"),
            ("approx",),
        ):
            return Operation((kind,), _UNARY[name])
        case "add" | "sub" | "min" | "max" if kind in _INTEGERS and not modifiers:
            return Operation(
                (kind, kind), {"add": np.add, "sub": np.subtract, "min": np.minimum, "max": np.maximum}[name]
            )
        case "mul" | "mad" if kind in _INTEGERS:
            return _product(name, modifiers, kind)
        case "neg" if kind in (*_INTEGERS, *_FLOATS) and not modifiers:
            return Operation((kind,), np.negative)
        case "abs" if kind in ("f32", "s32") and not modifiers:
            return Operation((kind,), _UNARY["abs"])
        case "and" | "or" | "xor" | "not" if kind in (*_BITS, "pred") and not modifiers:
            return _bitwise(name, kind)
        case "shl" | "shr" if not modifiers:
            return _shift(name, kind)
        case "bfe" if kind in ("s32", "u32") and not modifiers:
            return Operation((kind, "u32", "u32"), _bit_field)
        case "setp" if len(modifiers) == 1:
            return _set_predicate(modifiers[0], kind)
        case "selp" if not modifiers:
            return Operation((kind, kind, "pred"), _select)
        case "cvt":
            return _convert(parts[1:])
    return None


def _select(left: Array, right: Array, where: Array) -> Array:
    return np.where(where, left, right)


def _float(name: str, modifiers: tuple[str, ...], kind: str) -> Operation:
    if name == "fma" and modifiers in (("rn",), ("rn", "ftz")):
        return Operation((kind,) * 3, lambda a, b, c: _fused(a, b, c, dtype_of(kind)))
    if name == "div" and modifiers == ("full",):
        return Operation((kind, kind), np.divide)
    functions: dict[str, Any] = {
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "max": np.fmax,
        "min": np.fmin,
    }
    if name not in functions or modifiers:
        raise PtxUnknownError(".".join((name, *modifiers, kind)))
    return Operation((kind, kind), functions[name])


def _fused(a: Array, b: Array, c: Array, dtype: Any) -> Array:
    """One rounding: the product of two float32 is exact in float64."""
    wide = np.float64
    return (a.astype(wide) * b.astype(wide) + c.astype(wide)).astype(dtype)


def _fused_bfloat16(a: Array, b: Array, c: Array) -> Array:
    """One or two bfloat16 in each register, as bits; rounded to float32 and then to bfloat16."""
    shapes = np.broadcast_shapes(a.shape, b.shape, c.shape)
    halves = [np.ascontiguousarray(np.broadcast_to(operand, shapes)).view(np.uint16) for operand in (a, b, c)]
    x, y, z = (from_bfloat16(half) for half in halves)
    return to_bfloat16(_fused(x, y, z, np.float32)).view(a.dtype)


def _paired(compute: Callable[..., Array]) -> Callable[..., Array]:
    """A function of float16 applied to both halves of 32 bits."""

    def both(*operands: Array) -> Array:
        halves = [np.ascontiguousarray(operand).view(np.float16).reshape(-1, 2) for operand in operands]
        return np.ascontiguousarray(compute(*halves)).view(np.uint32).reshape(-1)

    return both


def _product(name: str, modifiers: tuple[str, ...], kind: str) -> Operation:
    if modifiers == ("wide",) and kind in ("s32", "u32", "s16", "u16"):
        wide = kind[0] + str(2 * int(kind[1:]))
        types = (kind, kind) if name == "mul" else (kind, kind, wide)
        widen = dtype_of(wide)
        return Operation(types, lambda a, b, c=None: _sum(a.astype(widen) * b.astype(widen), c))
    if modifiers == ("lo",):
        return Operation((kind,) * (2 if name == "mul" else 3), lambda a, b, c=None: _sum(a * b, c))
    if modifiers == ("hi",) and kind in ("s32", "u32") and name == "mul":
        wide_type, narrow = dtype_of(kind[0] + "64"), dtype_of(kind)
        return Operation(
            (kind, kind), lambda a, b: ((a.astype(wide_type) * b.astype(wide_type)) >> 32).astype(narrow)
        )
    raise PtxUnknownError(".".join((name, *modifiers, kind)))


def _sum(product: Array, addend: Array | None) -> Array:
    return product if addend is None else product + addend


def _bitwise(name: str, kind: str) -> Operation:
    if name == "not":
        return Operation((kind,), np.logical_not if kind == "pred" else np.invert)
    logical = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
    bitwise = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}
    return Operation((kind, kind), (logical if kind == "pred" else bitwise)[name])


def _shift(name: str, kind: str) -> Operation:
    """Shifts by more than the width give zero, or the sign."""
    if kind not in (*_BITS, *_INTEGERS) or (name == "shl" and kind not in _BITS):
        raise PtxUnknownError(f"{name}.{kind}")
    width = int(kind[1:])

    def shift(values: Array, by: Array) -> Array:
        amount = np.minimum(by, np.uint32(width - 1)).astype(values.dtype)
        moved = values << amount if name == "shl" else values >> amount
        clipped: Array = moved if kind[0] == "s" else np.where(by >= width, values.dtype.type(0), moved)
        return clipped

    return Operation((kind, "u32"), shift)


def _bit_field(values: Array, position: Array, length: Array) -> Array:
    """Bits position .. position + length - 1; of a signed type the last one is the sign."""
    if (length == 0).any() or (position + length > 32).any():
        raise PtxUnknownError("bfe of no bits, or past the end")
    left = np.uint32(32) - position - length
    up = (values.view(np.uint32) << left).view(values.dtype)
    field: Array = up >> (np.uint32(32) - length).astype(values.dtype)
    return field


def _set_predicate(comparison: str, kind: str) -> Operation:
    if comparison in _UNORDERED and kind in _FLOATS:
        ordered = _COMPARE[_UNORDERED[comparison]]
        return Operation((kind, kind), lambda a, b: ordered(a, b) | np.isnan(a) | np.isnan(b))
    if comparison == "ne" and kind in _FLOATS:
        return Operation((kind, kind), lambda a, b: (a != b) & ~np.isnan(a) & ~np.isnan(b))
    if comparison in ("lo", "ls", "hi", "hs") and kind[0] in "ub":
        return Operation((kind, kind), _COMPARE[{"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}[comparison]])
    if comparison in _COMPARE and kind in (*_FLOATS, *_INTEGERS, *_BITS):
        return Operation((kind, kind), _COMPARE[comparison])
    raise PtxUnknownError(f"setp.{comparison}.{kind}")


def _convert(parts: tuple[str, ...]) -> Operation:
    *modifiers, to, source = parts
    match tuple(modifiers), to, source:
        case ("rn",), "f16x2", "f32":
            return Operation(
                ("f32", "f32"), lambda high, low: _pack(high.astype(np.float16), low.astype(np.float16))
            )
        case ("rn",), "bf16x2", "f32":
            return Operation(("f32", "f32"), lambda high, low: _pack(to_bfloat16(high), to_bfloat16(low)))
        case ("rn",), "bf16", "f32":
            return Operation(("f32",), to_bfloat16)
        case (), "f32", "bf16":
            return Operation(("b16",), from_bfloat16)
        case (("rn",), "f16" | "f32", _) | ((), "f32", "f16") if source in (*_FLOATS, *_INTEGERS):
            return Operation((source,), lambda values: values.astype(dtype_of(to)))
        case (("rzi",), _, "f32") if to in _INTEGERS:
            return Operation((source,), lambda values: np.trunc(values).astype(dtype_of(to)))
        case ((), _, _) if to in _INTEGERS and source in _INTEGERS:
            return Operation((source,), lambda values: values.astype(dtype_of(to)))
    raise PtxUnknownError("cvt." + ".".join(parts))


def _pack(high: Array, low: Array) -> Array:
    high_bits, low_bits = (half.view(np.uint16).astype(np.uint32) for half in (high, low))
    return (high_bits << np.uint32(16)) | low_bits
