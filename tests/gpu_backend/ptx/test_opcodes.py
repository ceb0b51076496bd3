"""Every family of instructions against numpy, one at a time; and what the executor refuses."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tests.gpu_backend.ptx.errors import PtxUnknownError
from tests.gpu_backend.ptx.machine import Machine
from tests.gpu_backend.ptx.memory import Counters, GlobalMemory
from tests.gpu_backend.ptx.parsing import parse
from tests.gpu_backend.ptx.values import from_bfloat16, to_bfloat16

LANES = 32
RANDOM = np.random.default_rng(0)
F32 = [RANDOM.standard_normal(LANES).astype(np.float32) * 10 for _ in range(3)]
POSITIVE = [np.abs(F32[0]) + np.float32(0.1)] * 3
S32 = [RANDOM.integers(-(2**31), 2**31, LANES, dtype=np.int64).astype(np.int32) for _ in range(3)]
U32 = [values.view(np.uint32) for values in S32]
SMALL = [values % np.int32(40) for values in S32]  # amounts to shift by, beyond the width too
F16X2 = [RANDOM.standard_normal(2 * LANES).astype(np.float16).view(np.uint32) for _ in range(3)]
BF16X2 = [to_bfloat16(RANDOM.standard_normal(2 * LANES).astype(np.float32)).view(np.uint32) for _ in range(3)]


def run(body: str, inputs: list[Any], shared_bytes: int = 0) -> np.ndarray[Any, Any]:
    """Runs one warp: lane i finds its inputs in %r1, %r2, %r3; what it leaves in %r9 is returned, uint32."""
    data = torch.from_numpy(np.stack([np.asarray(values).view(np.int32) for values in inputs]))
    out = torch.zeros(LANES, dtype=torch.int32)
    loads = "\n".join(f"ld.global.b32 %r{index + 1}, [%rd3+{128 * index}];" for index in range(len(inputs)))
    text = f""".visible .entry k(.param .u64 k_param_0, .param .u64 k_param_1)
.reqntid {LANES}
{{
ld.param.b64 %rd1, [k_param_0];
ld.param.b64 %rd2, [k_param_1];
mov.u32 %r0, %tid.x;
mad.wide.u32 %rd3, %r0, 4, %rd1;
mad.wide.u32 %rd4, %r0, 4, %rd2;
{loads}
{body}
st.global.b32 [%rd4], %r9;
ret;
}}
"""
    program = parse(text)
    memory = GlobalMemory(Counters())
    memory.register([data, out])
    pointers: dict[str, int | float] = {"k_param_0": data.data_ptr(), "k_param_1": out.data_ptr()}
    Machine(program, pointers, shared_bytes).run((1, 1, 1), memory)
    return out.numpy().view(np.uint32)


def _halves(values: Any) -> Any:
    return values.view(np.float16)


def _bfloats(values: Any) -> Any:
    return from_bfloat16(values.view(np.uint16))


OPCODES: list[tuple[str, list[Any], Callable[..., Any]]] = [
    ("add.f32 %r9, %r1, %r2;", F32, lambda a, b, c: a + b),
    ("sub.f32 %r9, %r1, %r2;", F32, lambda a, b, c: a - b),
    ("mul.f32 %r9, %r1, %r2;", F32, lambda a, b, c: a * b),
    ("div.full.f32 %r9, %r1, %r2;", F32, lambda a, b, c: a / b),
    ("max.f32 %r9, %r1, %r2;", F32, lambda a, b, c: np.maximum(a, b)),
    ("neg.f32 %r9, %r1;", F32, lambda a, b, c: -a),
    ("fma.rn.f32 %r9, %r1, %r2, %r3;", F32, lambda a, b, c: (a.astype(float) * b + c).astype(np.float32)),
    ("ex2.approx.ftz.f32 %r9, %r1;", F32, lambda a, b, c: np.exp2(a)),
    ("sqrt.approx.ftz.f32 %r9, %r1;", POSITIVE, lambda a, b, c: np.sqrt(a)),
    ("add.f16x2 %r9, %r1, %r2;", F16X2, lambda a, b, c: _halves(a) + _halves(b)),
    ("fma.rn.bf16x2 %r9, %r1, %r2, %r3;", BF16X2,
     lambda a, b, c: to_bfloat16(_bfloats(a) * _bfloats(b) + _bfloats(c))),
    ("add.s32 %r9, %r1, %r2;", S32, lambda a, b, c: a + b),
    ("sub.s32 %r9, %r1, 7;", S32, lambda a, b, c: a - np.int32(7)),
    ("mul.lo.s32 %r9, %r1, %r2;", S32, lambda a, b, c: a * b),
    ("min.s32 %r9, %r1, %r2;", S32, lambda a, b, c: np.minimum(a, b)),
    ("neg.s32 %r9, %r1;", S32, lambda a, b, c: -a),
    ("and.b32 %r9, %r1, 0xff00U;", U32, lambda a, b, c: a & np.uint32(0xFF00)),
    ("or.b32 %r9, %r1, %r2;", U32, lambda a, b, c: a | b),
    ("xor.b32 %r9, %r1, %r2;", U32, lambda a, b, c: a ^ b),
    ("shl.b32 %r9, %r1, 3;", U32, lambda a, b, c: a << np.uint32(3)),
    ("shr.s32 %r9, %r1, 5;", S32, lambda a, b, c: a >> 5),
    ("shr.u32 %r9, %r1, 5;", U32, lambda a, b, c: a >> np.uint32(5)),
    ("shr.u32 %r9, %r1, 32;", U32, lambda a, b, c: np.zeros_like(a)),
    ("shr.s32 %r9, %r1, 40;", S32, lambda a, b, c: np.where(a < 0, np.int32(-1), np.int32(0))),
    ("bfe.u32 %r9, %r1, 4, 7;", U32, lambda a, b, c: (a >> np.uint32(4)) & np.uint32(127)),
    ("bfe.s32 %r9, %r1, 3, 1;", S32, lambda a, b, c: -((a >> 3) & 1)),
    ("mul.wide.s32 %rd9, %r1, %r2; shr.u64 %rd8, %rd9, 32; cvt.u32.u64 %r9, %rd8;", S32,
     lambda a, b, c: ((a.astype(np.int64) * b) >> 32).astype(np.int32)),
    ("mad.wide.u32 %rd9, %r1, %r2, 5; cvt.u32.u64 %r9, %rd9;", U32,
     lambda a, b, c: (a.astype(np.uint64) * b + np.uint64(5)).astype(np.uint32)),
    ("cvt.s64.s32 %rd9, %r1; shr.s64 %rd8, %rd9, 1; cvt.u32.u64 %r9, %rd8;", S32, lambda a, b, c: a >> 1),
    ("cvt.rn.f32.s32 %r9, %r1;", S32, lambda a, b, c: a.astype(np.float32)),
    ("cvt.rzi.s32.f32 %r9, %r1;", F32, lambda a, b, c: np.trunc(a).astype(np.int32)),
    ("cvt.rn.f16x2.f32 %r9, %r1, %r2;", F32,
     lambda a, b, c: np.stack((b.astype(np.float16), a.astype(np.float16)), 1).reshape(-1)),
    ("cvt.rn.bf16x2.f32 %r9, %r1, %r2;", F32,
     lambda a, b, c: np.stack((to_bfloat16(b), to_bfloat16(a)), 1).reshape(-1)),
    ("mov.b32 {%rs1, %rs2}, %r1; cvt.f32.f16 %r9, %rs2;", F16X2,
     lambda a, b, c: _halves(a)[1::2].astype(np.float32)),
    ("mov.b32 {%rs1, %rs2}, %r1; cvt.f32.bf16 %r9, %rs1;", BF16X2, lambda a, b, c: _bfloats(a)[::2]),
    ("mov.b32 {%rs1, %rs2}, %r1; mov.b32 %r9, {%rs2, %rs1};", U32,
     lambda a, b, c: (a << np.uint32(16)) | (a >> np.uint32(16))),
    ("mov.b32 %r4, 0f3F800000; add.f32 %r9, %r1, %r4;", F32, lambda a, b, c: a + np.float32(1)),
    ("setp.lt.f32 %p1, %r1, %r2; selp.b32 %r9, %r1, %r2, %p1;", F32, lambda a, b, c: np.minimum(a, b)),
    ("setp.gt.s32 %p1, %r1, 0; selp.b32 %r9, 1, 0, %p1;", S32, lambda a, b, c: (a > 0).astype(np.int32)),
    ("setp.lt.u32 %p1, %r1, %r2; selp.b32 %r9, %r1, %r2, %p1;", U32, lambda a, b, c: np.minimum(a, b)),
    ("setp.gt.s32 %p1, %r1, 0; mov.b32 %r9, 3; @!%p1 mov.b32 %r9, 4;", S32,
     lambda a, b, c: np.where(a > 0, 3, 4).astype(np.int32)),
    ("setp.gt.s32 %p1, %r1, 0; setp.gt.s32 %p2, %r2, 0; and.pred %p3, %p1, %p2; selp.b32 %r9, 1, 0, %p3;",
     S32,
     lambda a, b, c: ((a > 0) & (b > 0)).astype(np.int32)),
    ("shfl.sync.bfly.b32 %r9, %r1, 5, 31, -1;", U32, lambda a, b, c: a[np.arange(LANES) ^ 5]),
    ("shfl.sync.up.b32 %r9, %r1, 2, 0, -1;", U32, lambda a, b, c: np.concatenate((a[:2], a[:-2]))),
    ("shfl.sync.idx.b32 %r9, %r1, 9, 31, -1;", U32, lambda a, b, c: np.full(LANES, a[9])),
    ("redux.sync.max.s32 %r9, %r1, -1;", S32, lambda a, b, c: np.full(LANES, a.max())),
    ("redux.sync.min.s32 %r9, %r1, -1;", S32, lambda a, b, c: np.full(LANES, a.min())),
]  # fmt: skip


@pytest.mark.parametrize(("body", "inputs", "expected"), OPCODES, ids=[body for body, _, _ in OPCODES])
def test_instructions_compute_what_numpy_does(
    body: str, inputs: list[Any], expected: Callable[..., Any]
) -> None:
    with np.errstate(all="ignore"):
        wanted = np.ascontiguousarray(expected(*inputs)).view(np.uint32)
    assert np.array_equal(run(body.replace("; ", ";\n"), inputs), wanted)


def test_unordered_comparisons_hold_for_nan() -> None:
    values = np.full(LANES, np.nan, np.float32)
    assert not run("setp.lt.f32 %p1, %r1, 0f00000000;\nselp.b32 %r9, 1, 0, %p1;", [values]).any()
    assert run("setp.ltu.f32 %p1, %r1, 0f00000000;\nselp.b32 %r9, 1, 0, %p1;", [values]).all()


def test_shared_memory_gives_back_what_was_put_there() -> None:
    body = """shl.b32 %r4, %r0, 2;
st.shared.b32 [%r4+128], %r1;
xor.b32 %r5, %r4, 4;
ld.shared.b32 %r9, [%r5+128];"""
    assert np.array_equal(run(body, [U32[0]], shared_bytes=256), U32[0][np.arange(LANES) ^ 1])


def test_asynchronous_copies_fill_with_zeros_past_the_source() -> None:
    body = """shl.b32 %r4, %r0, 2;
mov.b32 %r6, 77;
st.shared.b32 [%r4], %r6;
setp.lt.s32 %p1, %r0, 8;
selp.b32 %r5, 4, 0, %p1;
cp.async.ca.shared.global [%r4], [%rd3], 4, %r5;
ld.shared.b32 %r9, [%r4];"""
    wanted = np.where(np.arange(LANES) < 8, U32[0], 0)
    assert np.array_equal(run(body, [U32[0]], shared_bytes=128), wanted)


@pytest.mark.parametrize("transposed", [False, True])
def test_matrix_loads_hand_out_rows_or_columns(transposed: bool) -> None:
    halves = np.arange(2 * LANES, dtype=np.uint16)  # one 8 x 8 matrix, a row in 16 bytes
    how = ".trans" if transposed else ""
    body = f"""shl.b32 %r4, %r0, 2;
st.shared.b32 [%r4], %r1;
and.b32 %r5, %r0, 7;
shl.b32 %r6, %r5, 4;
ldmatrix.sync.aligned.m8n8.x1{how}.shared.b16 {{%r9}}, [%r6];"""
    found = run(body, [halves.view(np.uint32)], shared_bytes=128).view(np.uint16).reshape(LANES, 2)
    matrix = halves.reshape(8, 8).T if transposed else halves.reshape(8, 8)
    for lane in range(LANES):
        assert found[lane].tolist() == matrix[lane // 4, 2 * (lane % 4) : 2 * (lane % 4) + 2].tolist()


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_matrix_products_are_those_of_numpy(kind: str) -> None:
    """Fragments are put together here from the PTX manual's layouts, one lane and one number at a time."""
    a, b, c = (RANDOM.integers(-4, 5, shape).astype(np.float32) for shape in ((16, 16), (16, 8), (16, 8)))

    def pack(low: float, high: float) -> int:
        pair = np.array([low, high], np.float32)
        bits = pair.astype(np.float16).view(np.uint16) if kind == "f16" else to_bfloat16(pair)
        return int(bits[0]) | int(bits[1]) << 16

    fragments = np.zeros((10, LANES), np.uint32)
    for lane in range(LANES):
        g, t = lane // 4, 2 * (lane % 4)
        for register, (row, column) in enumerate(((g, t), (g + 8, t), (g, t + 8), (g + 8, t + 8))):
            fragments[register, lane] = pack(a[row, column], a[row, column + 1])
        for register, row in enumerate((t, t + 8)):
            fragments[4 + register, lane] = pack(b[row, g], b[row + 1, g])
        for register, (row, column) in enumerate(((g, t), (g, t + 1), (g + 8, t), (g + 8, t + 1))):
            fragments[6 + register, lane] = c[row, column].view(np.uint32)
    product = a @ b + c
    for register, (down, right) in enumerate(((0, 0), (0, 1), (8, 0), (8, 1))):
        body = f"""mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32 \
{{%r20, %r21, %r22, %r23}}, {{%r1, %r2, %r3, %r4}}, {{%r5, %r6}}, {{%r7, %r8, %r9, %r10}};
mov.b32 %r9, %r{20 + register};"""
        found = run(body, list(fragments)).view(np.float32)
        for lane in range(LANES):
            assert found[lane] == product[lane // 4 + down, 2 * (lane % 4) + right]


@pytest.mark.parametrize(
    "body",
    [
        "popc.b32 %r9, %r1;",  # an instruction that is not known
        "add.sat.s32 %r9, %r1, %r1;",  # a modifier
        "add.f32 %r9, %r1, %r1, %r1;",  # a number of operands
        "max.f32 %r9, %r1, %r1, %r1;",
        "add.f8 %r9, %r1, %r1;",  # a type
        "add.s32 %r9, %r1, %r77;",  # a register that was never written
        "add.s64 %rd9, %r1, %rd1;",  # 32 bits as 64
        "shfl.sync.bfly.b32 %r9, %r1, 1, 7199, -1;",  # segments
        "setp.gt.s32 %p1, %r0, 3;\n@%p1 bra $L1;\n$L1:\nmov.b32 %r9, 1;",  # threads that part
        "bfe.u32 %r9, %r1, 30, 7;",
        "mov.b32 %r9, %clock;",
    ],
)
def test_what_is_not_known_is_refused(body: str) -> None:
    with pytest.raises(PtxUnknownError):
        run(body, [U32[0]])
