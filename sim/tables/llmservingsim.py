"""Reads layer profiles of vLLM as LLMServingSim publishes them: one folder for a GPU, a model and a variant.

    meta.yaml             which GPU, model and version of vLLM
    tp<N>/dense.csv       layer, tokens, time_us: products and elementwise layers
    tp<N>/per_sequence.csv    layer, sequences, time_us: output projection, sampler
    tp<N>/attention.csv   prefill_chunk, kv_prefill, n_decode, kv_decode, time_us

Times are microseconds of one GPU of N. Sizes are those of the model, which the folder only names; a layer
runs among others, so no cache holds the weights and the context it reads. Steps that mix a prompt with
decoding sequences, and the fit of unequal lengths (`skew_fit.csv`), are left out: no curve is fitted to them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from sim.cost.measured_tables import KernelTable, TableKind
from sim.cost.model import ModelShape
from sim.errors import ConfigError, Problem
from sim.tables.columns import read_columns
from sim.tables.measurements import Column, Measurements, Rows, joined, kernel_table

_BYTES = 2
"""Of a number in 16 bits."""


def model_name(folder: Path) -> str:
    """The model of a profile, as a name of the catalogue would be.

    Raises:
        ConfigError: The folder has no `meta.yaml` that says so.
    """
    return str(_meta(folder, "model")).rsplit("/", 1)[-1].lower()


def read(folder: Path, model: ModelShape) -> Measurements:
    """All tables of a profile.

    Raises:
        ConfigError: A file is missing or wrong, or the model's sizes are not those that were profiled.
    """
    gpu, version = str(_meta(folder, "gpu")), str(_meta(folder, "vllm_version"))
    _check_sizes(folder, model)
    source = f"LLMServingSim profile of {model.name} on {gpu}, vllm {version}"
    shards = sorted(folder.glob("tp*/dense.csv"))
    if not shards:
        raise ConfigError([Problem(str(folder), "", "has no tp1/dense.csv")])
    tables: list[KernelTable] = []
    left_out: list[str] = []
    for path in shards:
        size = int(re.sub(r"\D", "", path.parent.name) or 1)
        tables += _dense(path, model, size, source)
        tables += _attention(path.with_name("attention.csv"), model, size, source, left_out)
        tables += _output(path.with_name("per_sequence.csv"), model, size, source)
    left_out += ["sampler: the cost model has no curve for it", "skew_fit.csv: fitted, not measured"]
    return Measurements(source, gpu, joined(tables), tuple(left_out))


def _meta(folder: Path, key: str) -> object:
    path = folder / "meta.yaml"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {error}")]) from error
    if not isinstance(document, dict) or key not in document:
        raise ConfigError([Problem(str(path), key, "is missing")])
    return document[key]


def _check_sizes(folder: Path, model: ModelShape) -> None:
    """That the model is the one that was profiled, as far as the profile says."""
    engine = _meta(folder, "engine_effective")
    said = engine.get("hf_overrides", {}) if isinstance(engine, dict) else {}
    for key in ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size"):
        if key in said and said[key] != getattr(model, key):
            message = f"was profiled with {said[key]}; {model.name} has {getattr(model, key)}"
            raise ConfigError([Problem(str(folder / "meta.yaml"), key, message)])


def _dense(path: Path, model: ModelShape, size: int, source: str) -> Iterator[KernelTable]:
    rows = read_columns(path, ("tokens", "time_us"), ("layer",))
    hidden, inner = model.hidden_size, model.intermediate_size / size
    query, kv = model.attention_size / size, model.kv_size * model.kv_share(size)
    products = {
        "qkv_proj": (query + 2 * kv, hidden),
        "o_proj": (hidden, query),
        "gate_up_proj": (2 * inner, hidden),
        "down_proj": (hidden, inner),
    }
    for layer, (n, k) in products.items():
        yield _product(_of(rows, layer), "tokens", n, k, source)
    values = {
        "act_fn": 3 * inner,
        "layernorm": 4 * hidden,
        "final_layernorm": 4 * hidden,
        "rotary_emb": 2 * (query + kv),
    }
    for layer, per_token in values.items():
        yield _elementwise(_of(rows, layer), per_token * _BYTES, source)


def _output(path: Path, model: ModelShape, size: int, source: str) -> Iterator[KernelTable]:
    rows = read_columns(path, ("sequences", "time_us"), ("layer",))
    yield _product(_of(rows, "lm_head"), "sequences", model.vocab_size / size, model.hidden_size, source)


def _of(rows: Rows, layer: str) -> Rows:
    return rows.where(rows.is_one_of("layer", layer))


def _product(rows: Rows, count: str, n: float, k: float, source: str) -> KernelTable:
    m = rows.number(count)
    sizes = {"m": m, "n": np.full_like(m, n), "k": np.full_like(m, k)}
    return kernel_table(TableKind.GEMM, source, sizes, _times_ns(rows), num_copies=math.inf)


def _elementwise(rows: Rows, bytes_per_token: float, source: str) -> KernelTable:
    """Operands come from the kernel before: of few tokens from the L2 cache, which the curve knows not of."""
    sizes = {"num_bytes": rows.number("tokens") * bytes_per_token}
    return kernel_table(TableKind.ELEMENTWISE, source, sizes, _times_ns(rows))


def _attention(
    path: Path, model: ModelShape, size: int, source: str, left_out: list[str]
) -> Iterator[KernelTable]:
    rows = read_columns(path, ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"))
    chunk, decodes = rows.number("prefill_chunk"), rows.number("n_decode")
    alone = rows.where((chunk == 0) & (decodes > 0))
    sizes = {"batch_size": alone.number("n_decode"), "context_len": alone.number("kv_decode")}
    sizes |= _heads(model, size, len(alone))
    yield kernel_table(TableKind.DECODE_ATTENTION, source, sizes, _times_ns(alone), num_copies=math.inf)
    prompts = rows.where((chunk > 0) & (decodes == 0))
    sizes = {"batch_size": np.ones(len(prompts)), "isl": prompts.number("prefill_chunk")}
    sizes |= {"num_computed": prompts.number("kv_prefill"), **_heads(model, size, len(prompts))}
    yield kernel_table(TableKind.PREFILL_ATTENTION, source, sizes, _times_ns(prompts), num_copies=math.inf)
    num_mixed = int(((chunk > 0) & (decodes > 0)).sum())
    left_out.append(f"attention of mixed steps: no curve is fitted to {num_mixed:,} rows")


def _heads(model: ModelShape, size: int, num_rows: int) -> dict[str, Column]:
    kv_heads = max(1, model.num_key_value_heads // size)
    heads = {"num_heads": model.num_attention_heads / size, "num_kv_heads": kv_heads}
    return {name: np.full(num_rows, value, dtype=float) for name, value in heads.items()} | {
        "head_dim": np.full(num_rows, float(model.head_dim))
    }


def _times_ns(rows: Rows) -> Column:
    return rows.number("time_us") * 1e3
