"""Repairs bfloat16 in Triton's interpreter, which keeps it as 16-bit integers and computes on those.

Loads, stores and casts to float32 are right there; arithmetic, comparisons and products are integer
operations on the bits, and casts to bfloat16 cut instead of rounding. With this every operation rounds
once, to nearest, as torch does. For tests only; a device needs none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from tests.gpu_backend.ptx.values import from_bfloat16, to_bfloat16

BITWISE = (np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.left_shift, np.right_shift)


def install() -> None:
    """Replaces the interpreter's methods."""
    stock = {
        name: getattr(InterpreterBuilder, name)
        for name in ("binary_op", "unary_op", "cast_impl", "create_fp_to_fp")
    }
    InterpreterBuilder.binary_op = _binary(stock["binary_op"])
    InterpreterBuilder.unary_op = _unary(stock["unary_op"])
    InterpreterBuilder.cast_impl = _cast(stock["cast_impl"])
    InterpreterBuilder.create_fp_to_fp = _cast(stock["create_fp_to_fp"])
    InterpreterBuilder.create_dot = _dot
    for name in ("create_si_to_fp", "create_ui_to_fp", "create_fp_to_si", "create_fp_to_ui", "create_fp_ext"):
        setattr(InterpreterBuilder, name, lambda self, src, dst_type: self.cast_impl(src, dst_type))
    InterpreterBuilder.create_fp_trunc = lambda self, src, dst_type: self.cast_impl(src, dst_type)
    InterpreterBuilder.get_bf16 = lambda self, value: TensorHandle(
        to_bfloat16(np.array([value])), tl.bfloat16
    )


def _is_bfloat16(handle: Any) -> bool:
    return bool(handle.dtype.scalar == tl.bfloat16)


def _number(handle: Any) -> Any:
    return from_bfloat16(handle.data) if _is_bfloat16(handle) else handle.data


def _rounded(values: Any) -> Any:
    with np.errstate(all="ignore"):
        return to_bfloat16(np.asarray(values, np.float32))


def _binary(stock: Callable[..., Any]) -> Callable[..., Any]:
    def binary_op(self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
        if not _is_bfloat16(lhs) or op in BITWISE:
            return stock(self, lhs, rhs, op)
        result = op(_number(lhs), _number(rhs))
        if result.dtype == np.bool_:
            return TensorHandle(result, tl.int1)
        return TensorHandle(_rounded(result), tl.bfloat16)

    return binary_op


def _unary(stock: Callable[..., Any]) -> Callable[..., Any]:
    def unary_op(self: Any, arg: Any, op: Any) -> Any:
        if not _is_bfloat16(arg):
            return stock(self, arg, op)
        return TensorHandle(_rounded(op(_number(arg))), tl.bfloat16)

    return unary_op


def _cast(stock: Callable[..., Any]) -> Callable[..., Any]:
    def cast(self: Any, src: Any, dst_type: Any, *rest: Any) -> Any:
        to = dst_type.scalar
        if to == tl.bfloat16 and not _is_bfloat16(src):
            return TensorHandle(_rounded(src.data), tl.bfloat16)
        if _is_bfloat16(src) and to != tl.bfloat16:
            widened = TensorHandle(_number(src), tl.float32)
            return widened if to == tl.float32 else stock(self, widened, dst_type, *rest)
        return stock(self, src, dst_type, *rest)

    return cast


def _dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
    product = np.matmul(_number(a), _number(b), dtype=d.data.dtype)
    return TensorHandle(product + d.data, d.dtype.scalar)
