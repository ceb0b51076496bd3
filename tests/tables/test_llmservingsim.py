"""Profiles of LLMServingSim: layers become sizes of products, rows of attention become its two kinds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from sim.config.catalog import load_model
from sim.cost.measured_tables import KernelTable, TableKind
from sim.errors import ConfigError
from sim.tables.llmservingsim import model_name, read

MODEL = load_model("llama-3.1-8b")
META = {
    "gpu": "NVIDIA GeForce RTX 4090",
    "model": "meta-llama/Llama-3.1-8B",
    "vllm_version": "0.19.0",
    "engine_effective": {"hf_overrides": {"num_attention_heads": 32, "intermediate_size": 14336}},
}
DENSE = """layer,tokens,time_us
qkv_proj,1,54.9
o_proj,1,38.1
gate_up_proj,1,247.3
down_proj,1,126.8
down_proj,2048,1459.55
act_fn,2048,168.9
embedding,1,2.8
"""
OUTPUT = "layer,sequences,time_us\nlm_head,64,1211.84\nsampler,64,46.8\n"
ATTENTION = """prefill_chunk,kv_prefill,n_decode,kv_decode,time_us
0,0,4,512,31.1
512,0,0,0,95.2
512,1024,0,0,180.4
16,0,4,512,44.0
"""


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """A profile of one GPU."""
    (tmp_path / "tp1").mkdir()
    (tmp_path / "meta.yaml").write_text(yaml.safe_dump(META))
    for name, text in (("dense", DENSE), ("per_sequence", OUTPUT), ("attention", ATTENTION)):
        (tmp_path / "tp1" / f"{name}.csv").write_text(text)
    return tmp_path


def table(profile: Path, kind: TableKind) -> KernelTable:
    (found,) = [table for table in read(profile, MODEL).tables if table.kind is kind]
    return found


def test_the_model_is_named_as_in_the_catalogue(profile: Path) -> None:
    assert model_name(profile) == "llama-3.1-8b"


def test_layers_are_products_of_the_models_sizes(profile: Path) -> None:
    products = table(profile, TableKind.GEMM)
    sizes = set(zip(*(products.columns[name].tolist() for name in "mnk"), strict=True))
    assert sizes == {
        (1, 6144, 4096),
        (1, 4096, 4096),
        (1, 28672, 4096),
        (1, 4096, 14336),
        (2048, 4096, 14336),
        (64, 128256, 4096),
    }
    assert products.times_ns.max() == pytest.approx(1_459_550)
    assert products.num_copies == math.inf


def test_two_gpus_have_half_of_each_matrix(profile: Path) -> None:
    (profile / "tp1").rename(profile / "tp2")
    products = table(profile, TableKind.GEMM)
    assert sorted(set(products.columns["n"].tolist())) == [3072, 4096, 14336, 64128]


def test_decoding_sequences_and_prompts_are_told_apart(profile: Path) -> None:
    decodes, prompts = table(profile, TableKind.DECODE_ATTENTION), table(profile, TableKind.PREFILL_ATTENTION)
    assert decodes.columns["batch_size"].tolist() == [4]
    assert decodes.columns["context_len"].tolist() == [512]
    assert prompts.columns["isl"].tolist() == [512, 512]
    assert prompts.columns["num_computed"].tolist() == [0, 1024]
    assert np.all(prompts.columns["num_kv_heads"] == 8)


def test_mixed_steps_are_named_as_left_out(profile: Path) -> None:
    assert "attention of mixed steps: no curve is fitted to 1 rows" in read(profile, MODEL).left_out


def test_another_model_is_refused(profile: Path) -> None:
    with pytest.raises(ConfigError, match="num_attention_heads: was profiled with 32; qwen"):
        read(profile, load_model("qwen2.5-7b"))


def test_bad_files_are_named_by_line_and_column(profile: Path) -> None:
    (profile / "tp1" / "dense.csv").write_text("layer,tokens,time_us\nqkv_proj,one,3\n")
    with pytest.raises(ConfigError, match=r"dense.csv:2: tokens: must be a number, not 'one'"):
        read(profile, MODEL)
    (profile / "tp1" / "dense.csv").write_text("layer,time_us\n")
    with pytest.raises(ConfigError, match=r"dense.csv:1: lacks the columns tokens"):
        read(profile, MODEL)
    (profile / "meta.yaml").unlink()
    with pytest.raises(ConfigError, match=r"meta.yaml: cannot be read"):
        read(profile, MODEL)
