"""Profiles of Vidur: sizes come from the columns of each row, sums across nodes are no sums within one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sim.cost.measured_tables import KernelTable, TableKind
from sim.errors import ConfigError
from sim.tables.vidur import read

LAYERS = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj", "mlp_act", "add")
MODEL = "n_head,n_kv_head,n_embd,n_expanded_embd,use_gated_mlp,num_tokens,num_tensor_parallel_workers"


def median(name: str) -> str:
    return f"time_stats.{name}.median"


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    """Compute of one model, whole and in two shards, and network of one kind of node."""
    compute, network = tmp_path / "compute/a100/llama-3-8b", tmp_path / "network/a100_dgx"
    compute.mkdir(parents=True)
    network.mkdir(parents=True)
    times = ",".join(map(median, LAYERS))
    (compute / "mlp.csv").write_text(
        f"{times},{MODEL}\n7.2,4.9,33.1,16.6,2.7,0.47,32,8,4096,14336,True,32768,1\n"
        "3.6,2.4,16.5,8.3,1.4,,32,8,4096,14336,True,32768,2\n"
    )
    sizes = (
        "n_embd,n_q_head,n_kv_head,num_tensor_parallel_workers,batch_size,prefill_chunk_size,kv_cache_size"
    )
    (compute / "attention.csv").write_text(
        f"{median('attn_decode')},{median('attn_prefill')},{sizes},is_prefill\n"
        "0.015,,8192,64,8,2,4,0,512,False\n,0.3,8192,64,8,2,1,1024,0,True\n,0.5,8192,64,8,2,1,1024,2048,True\n"
    )
    (network / "all_reduce.csv").write_text(
        f"{median('all_reduce')},num_workers,size,collective,devices_per_node\n"
        "0.02,2,2048,all_reduce,2\n0.05,2,2048,all_reduce,1\n0.03,2,2048,all_gather,2\n"
    )
    (network / "send_recv.csv").write_text("size\n")
    return tmp_path


def table(profiles: Path, kind: TableKind) -> KernelTable:
    (found,) = [table for table in read(profiles).tables if table.kind is kind]
    return found


def test_layers_are_products_of_each_rows_sizes(profiles: Path) -> None:
    products = table(profiles, TableKind.GEMM)
    sizes = set(zip(*(products.columns[name].tolist() for name in "mnk"), strict=True))
    whole = {(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)}
    halved = {(3072, 4096), (4096, 2048), (14336, 4096), (4096, 7168)}
    assert sizes == {(32768, n, k) for n, k in whole | halved}
    assert products.times_ns.max() == pytest.approx(33.1e6)
    assert products.num_copies == math.inf


def test_profiles_of_several_models_are_one_table(profiles: Path) -> None:
    (path,) = profiles.rglob("mlp.csv")
    path.parent.with_name("llama-2-7b").mkdir()
    (path.parent.with_name("llama-2-7b") / "mlp.csv").write_text(path.read_text())
    products = table(profiles, TableKind.GEMM)
    assert len(products) == 16
    assert products.name == "Vidur llama-2-7b mlp.csv and 1 more"


def test_attention_is_that_of_one_shard(profiles: Path) -> None:
    decodes, prompts = (
        table(profiles, kind) for kind in (TableKind.DECODE_ATTENTION, TableKind.PREFILL_ATTENTION)
    )
    assert decodes.columns["num_heads"].tolist() == [32]
    assert decodes.columns["num_kv_heads"].tolist() == [4]
    assert decodes.columns["head_dim"].tolist() == [128]
    assert decodes.columns["context_len"].tolist() == [512]
    assert prompts.columns["num_computed"].tolist() == [0, 2048]
    assert prompts.times_ns.tolist() == [300_000, 500_000]


def test_sums_across_nodes_do_not_count(profiles: Path) -> None:
    sums = table(profiles, TableKind.ALL_REDUCE)
    assert sums.times_ns.tolist() == [20_000]
    assert sums.columns["num_bytes"].tolist() == [2048]


def test_a_layer_that_was_not_measured_is_no_row(profiles: Path) -> None:
    assert len(table(profiles, TableKind.ELEMENTWISE)) == 3  # two activations, one sum


def test_a_model_without_a_layer_lacks_its_column(profiles: Path) -> None:
    (path,) = profiles.rglob("mlp.csv")
    path.write_text(path.read_text().replace(median("add"), "time_stats.emb.median"))
    assert len(table(profiles, TableKind.ELEMENTWISE)) == 2
    path.write_text(path.read_text().replace(median("mlp_up_proj"), "time_stats.mlp.median"))
    with pytest.raises(ConfigError, match=r"mlp.csv:1: lacks the columns time_stats.mlp_up_proj.median"):
        read(profiles)


def test_what_nothing_is_fitted_to_is_named(profiles: Path) -> None:
    assert read(profiles).left_out == ("send_recv.csv: nothing is fitted to it",)


def test_a_folder_without_profiles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has none of mlp"):
        read(tmp_path)
