from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.config.catalog import hardware_names, load_gpu
from sim.cost.curve_parameters import REFERENCE
from sim.cost.curves import AttentionShape, DeviceCurves, curve_parameters
from tests.bench.a100_gemm import errors

H100 = DeviceCurves.of(load_gpu("h100-sxm"))
SHAPE = AttentionShape.of_heads(32, 8, 128)
SIZE = st.integers(1, 100_000)


def test_the_reference_is_what_the_h100_file_says() -> None:
    fitted = curve_parameters(load_gpu("h100-sxm"))
    for name in ("gemm", "decode_attention", "prefill_attention", "all_reduce"):
        curve = getattr(fitted, name)
        assert curve.spread is not None
        assert replace(curve, spread=None) == getattr(REFERENCE, name)


@given(m=SIZE, n=SIZE, k=SIZE, more=SIZE)
def test_products_take_longer_the_larger_they_are(m: int, n: int, k: int, more: int) -> None:
    time = H100.gemm_ns(m, n, k)
    for larger in ((m + more, n, k), (m, n + more, k), (m, n, k + more)):
        assert H100.gemm_ns(*larger) >= time


@given(seqs=st.integers(1, 2048), context=SIZE, more=SIZE)
def test_decode_attention_grows_and_follows_its_line(seqs: int, context: int, more: int) -> None:
    time = H100.decode_attention_ns(seqs, seqs * context, SHAPE)
    assert H100.decode_attention_ns(seqs, seqs * context + more, SHAPE) >= time
    assert H100.decode_attention_ns(seqs + more, seqs * context, SHAPE) >= 0.5 * time
    base, slope = H100.decode_attention_line(seqs, SHAPE)
    line = base + slope * seqs * context
    curve = REFERENCE.decode_attention
    short = seqs * SHAPE.num_kv_heads * (curve.first_tile_ns - curve.stream_ns)
    assert line <= time * (1 + 1e-12)
    assert time <= line + short * (1 + 1e-12)


@given(new=SIZE, computed=st.integers(0, 100_000), more=SIZE)
def test_prompt_attention_grows_with_chunk_and_context(new: int, computed: int, more: int) -> None:
    time = H100.prefill_attention_ns(new, computed, SHAPE)
    assert H100.prefill_attention_ns(new + more, computed, SHAPE) > time
    assert H100.prefill_attention_ns(new, computed + more, SHAPE) > time
    assert H100.prefill_attention_ns(new, computed, SHAPE, num_chunks=2) > time


@given(size=st.integers(0, 10**9), more=st.integers(1, 10**9), num_gpus=st.integers(1, 8))
def test_sums_over_gpus_grow_with_the_message(size: int, more: int, num_gpus: int) -> None:
    assert H100.all_reduce_ns(size + more, num_gpus) >= H100.all_reduce_ns(size, num_gpus)
    assert H100.elementwise_ns(size + more) > H100.elementwise_ns(size)


@pytest.mark.parametrize("name", hardware_names())
def test_no_gpu_beats_its_datasheet(name: str) -> None:
    gpu = load_gpu(name)
    curves = DeviceCurves.of(gpu)
    assert curves.gemm_ns(8192, 8192, 8192) > 2 * 8192**3 / gpu.compute_flops_per_s * 1e9
    assert curves.elementwise_ns(1e9) > 1e18 / gpu.memory_bandwidth_bytes_per_s


def test_an_a100_reaches_what_was_measured_of_it() -> None:
    gpu = load_gpu("a100-80gb-sxm")
    gemm = gpu.curves.gemm
    assert gemm is not None
    spread = gemm.spread
    assert spread is not None
    off = np.abs(np.expm1(errors(gemm, gpu)))
    assert np.median(off) == pytest.approx(spread.median_fraction, rel=0.01)
    assert off.max() < 0.03
    attention = float(DeviceCurves.of(gpu).decode_attention_ns(32, 32 * 2048, SHAPE))
    assert attention == pytest.approx(236_000, rel=0.01)


@given(size=st.integers(0, 10**9), more=st.integers(1, 10**9))
def test_sending_takes_longer_the_more_is_sent_and_longest_over_the_bus(size: int, more: int) -> None:
    assert H100.send_ns(size + more) > H100.send_ns(size)
    bus = DeviceCurves.of(load_gpu("l40s"))
    assert bus.send_ns(size) >= H100.send_ns(size)
