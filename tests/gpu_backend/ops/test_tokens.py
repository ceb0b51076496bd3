"""Ops that work token by token: norms, the feed-forward gate, rotary embedding and the write to the cache."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the engine needs torch")
pytest.importorskip("triton", reason="Triton is not installed")

import torch

from gpu_backend.ops.add_rms_norm import add_rms_norm, rms_norm
from gpu_backend.ops.implementation import Implementation, OpInputError
from gpu_backend.ops.rotary_and_cache import NewTokens, rotary_and_cache
from gpu_backend.ops.silu_and_mul import silu_and_mul
from tests.gpu_backend.ops.ways import POISON, WAYS, assert_close, device_of, running
from tests.gpu_backend.ptx.errors import PtxMemoryError
from tests.gpu_backend.ptx.executing import executed

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
WIDTHS = [(1, 64), (3, 80), (2, 4096), (33, 200)]  # tokens, width
HEADS = [(1, 1, 64, 16), (8, 2, 80, 8), (32, 8, 128, 32)]  # query heads, key heads, head size, block size
NO_SLOT = -1


def _random(*shape: int, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


@pytest.mark.parametrize(("num_tokens", "width"), WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", WAYS)
def test_norm_kernel_adds_and_normalises(way: str, dtype: torch.dtype, num_tokens: int, width: int) -> None:
    device = device_of(way)
    x, residual = (_random(num_tokens, width, dtype=dtype, device=device, seed=seed) for seed in (1, 2))
    weight = _random(width, dtype=dtype, device=device)
    with running(way):
        normed, summed = add_rms_norm(x, residual, weight, 1e-5, Implementation.KERNEL)
        alone = rms_norm(x, weight, 1e-5, Implementation.KERNEL)
    rounded = (x.double() + residual.double()).to(dtype)  # the norm sees the sum as it is stored
    assert torch.equal(summed, rounded)
    assert_close(normed.cpu(), rms_norm(rounded.double().cpu(), weight.double().cpu(), 1e-5))
    assert_close(alone.cpu(), rms_norm(x.double().cpu(), weight.double().cpu(), 1e-5))


@pytest.mark.parametrize("way", WAYS)
def test_norm_kernel_takes_heads_cut_out_of_a_fused_projection(way: str) -> None:
    heads = _random(5, 8, 64, dtype=torch.float16, device=device_of(way))[:, 2:6]
    weight = _random(64, dtype=torch.float16, device=device_of(way))
    with running(way):
        normed = rms_norm(heads, weight, 1e-5, Implementation.KERNEL)
    assert_close(normed.cpu(), rms_norm(heads.double().cpu(), weight.double().cpu(), 1e-5))


@pytest.mark.parametrize("form", [Implementation.TWIN, Implementation.UNFUSED])
def test_norm_in_torch_is_its_formula(form: Implementation) -> None:
    x, residual, weight = (_random(5, 80, dtype=torch.float64, seed=seed) for seed in (1, 2, 3))
    normed, summed = add_rms_norm(x, residual, weight[0], 1e-3, form)
    assert torch.equal(summed, x + residual)
    expected = summed / (summed.square().mean(1, keepdim=True) + 1e-3).sqrt() * weight[0]
    assert (normed - expected).abs().max() < 1e-12


@pytest.mark.parametrize(("num_tokens", "width"), WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", WAYS)
def test_gate_kernel_is_silu_times_up(way: str, dtype: torch.dtype, num_tokens: int, width: int) -> None:
    device = device_of(way)
    gate_up = 3 * _random(num_tokens, 2 * width, dtype=dtype, device=device)
    with running(way):
        out = silu_and_mul(gate_up, Implementation.KERNEL)
    assert_close(out.cpu(), silu_and_mul(gate_up.double().cpu()))


@pytest.mark.parametrize("form", [Implementation.TWIN, Implementation.UNFUSED])
def test_gate_in_torch_is_its_formula(form: Implementation) -> None:
    gate_up = _random(5, 80, dtype=torch.float64)
    gate, up = gate_up[:, :40], gate_up[:, 40:]
    assert (silu_and_mul(gate_up, form) - gate / (1 + (-gate).exp()) * up).abs().max() < 1e-12


def _tokens(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: str) -> NewTokens:
    fused = _random(4, heads + 2 * kv_heads, head_dim, dtype=dtype, device=device)
    query, key, value = torch.split(fused, [heads, kv_heads, kv_heads], 1)
    positions = torch.tensor([0, 5, 63, 2], device=device)
    slots = torch.tensor([3, NO_SLOT, 19, 0], dtype=torch.int32, device=device)
    return NewTokens(query, key, value, positions, slots)


def _rotated(x: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor) -> torch.Tensor:
    """Each pair (x_i, x_{i + half}) turned by its angle, as a complex number."""
    half = x.shape[-1] // 2
    turn = torch.complex(cos_sin[positions, :half], cos_sin[positions, half:])[:, None]
    turned = torch.complex(x[..., :half], x[..., half:]) * turn
    return torch.cat((turned.real, turned.imag), -1)


def _check_rotary(new: NewTokens, block_size: int, form: Implementation, way: str | None) -> None:
    kv_heads, head_dim = new.key.shape[1:]
    device, dtype = new.key.device, new.key.dtype
    cos_sin = torch.randn(64, head_dim, generator=torch.Generator().manual_seed(9)).to(device)
    key_cache = torch.full((3, block_size, kv_heads, head_dim), POISON, dtype=dtype, device=device)
    value_cache = key_cache.clone()
    if way is None:
        query = rotary_and_cache(new, cos_sin.double(), key_cache, value_cache, form)
    else:
        with running(way):
            query = rotary_and_cache(new, cos_sin, key_cache, value_cache, form)
    angles = cos_sin.double().cpu()
    positions = new.positions.cpu()
    assert_close_in(query, _rotated(new.query.double().cpu(), positions, angles))
    keys = _rotated(new.key.double().cpu(), positions, angles)
    written = [3, 19, 0]
    assert_close_in(key_cache.flatten(0, 1)[written], keys[[0, 2, 3]])
    assert torch.equal(value_cache.flatten(0, 1)[written], new.value[[0, 2, 3]])
    for cache in (key_cache, value_cache):
        assert int(cache.flatten(0, 1).isfinite().all(2).all(1).sum()) == len(
            written
        )  # nothing else was touched


def assert_close_in(found: torch.Tensor, expected: torch.Tensor) -> None:
    if found.dtype == torch.float64:
        assert (found - expected).abs().max() < 1e-12
    else:
        assert_close(found.cpu(), expected)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim", "block_size"), HEADS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", WAYS)
def test_rotary_kernel_turns_and_writes_to_named_slots_only(
    way: str, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int, block_size: int
) -> None:
    new = _tokens(heads, kv_heads, head_dim, dtype, device_of(way))
    _check_rotary(new, block_size, Implementation.KERNEL, way)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim", "block_size"), HEADS)
@pytest.mark.parametrize("form", [Implementation.TWIN, Implementation.UNFUSED])
def test_rotary_in_torch_is_a_complex_product(
    form: Implementation, heads: int, kv_heads: int, head_dim: int, block_size: int
) -> None:
    new = _tokens(heads, kv_heads, head_dim, torch.float64, "cpu")
    _check_rotary(new, block_size, form, None)


def test_two_tokens_in_one_slot_are_a_race() -> None:
    new = _tokens(2, 1, 64, torch.float16, "cpu")
    twice = NewTokens(new.query, new.key, new.value, new.positions, torch.tensor([1, 1, 2, 3]))
    caches = torch.zeros(2, 2, 16, 1, 64, dtype=torch.float16)
    with executed(), pytest.raises(PtxMemoryError, match="writes what another one wrote"):
        rotary_and_cache(twice, torch.zeros(64, 64), caches[0], caches[1], Implementation.KERNEL)


def test_what_does_not_fit_is_refused_by_name() -> None:
    x = torch.zeros(2, 8)
    with pytest.raises(OpInputError, match=r"weight has shape \[4\], expected \[8\]"):
        rms_norm(x, torch.ones(4), 1e-5)
    with pytest.raises(OpInputError, match="residual has shape"):
        add_rms_norm(x, x[:1], torch.ones(8), 1e-5)
    with pytest.raises(OpInputError, match="no two halves"):
        silu_and_mul(torch.zeros(2, 7))
    new = _tokens(2, 1, 64, torch.float32, "cpu")
    cache = torch.zeros(2, 16, 2, 64)
    with pytest.raises(OpInputError, match="key has shape"):
        rotary_and_cache(new, torch.zeros(64, 64), cache, cache)
