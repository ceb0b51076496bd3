"""What a step launches at each level of fusion, as counted, against the cost model's kernel list."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the engine needs torch")
pytest.importorskip("triton", reason="Triton is not installed")
pytest.importorskip("transformers", reason="it writes the checkpoint")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter launches nothing", allow_module_level=True)

import torch

from gpu_backend.kernel_list import kernels_here
from gpu_backend.memory.fixed_blocks import FixedBlocks
from gpu_backend.model.llama import LlamaModel
from gpu_backend.model.loading import load_model
from gpu_backend.ops.implementation import Implementation
from gpu_backend.ops.launches import LaunchLog, count_launch, counted_launches
from gpu_backend.ops.softmax_and_sample import softmax_and_sample
from sim.cost.kernels import Batch, Fusion, KernelList
from sim.cost.model import ModelShape
from tests.gpu_backend.recording_driver import DryLaunch, recording
from tests.gpu_backend.tiny_models import SIZES, save

NUM_SEQS, LAYERS = 3, SIZES["num_hidden_layers"]
SHAPE = ModelShape(
    name="tiny",
    num_hidden_layers=LAYERS,
    hidden_size=SIZES["hidden_size"],
    intermediate_size=SIZES["intermediate_size"],
    num_attention_heads=SIZES["num_attention_heads"],
    num_key_value_heads=SIZES["num_key_value_heads"],
    head_dim=SIZES["hidden_size"] // SIZES["num_attention_heads"],
    vocab_size=SIZES["vocab_size"],
    max_position_embeddings=SIZES["max_position_embeddings"],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    save("llama", path)
    return path


def _model(folder: Path, implementation: Implementation) -> LlamaModel:
    return load_model(folder, torch.float16, torch.device("cpu"), implementation)


def _step(model: LlamaModel, num_new: int) -> None:
    blocks = FixedBlocks(model, NUM_SEQS, 32)
    logits = torch.cat(blocks.forward([list(range(num_new))] * NUM_SEQS))
    rows = logits.shape[0]
    softmax_and_sample(logits, torch.ones(rows), torch.full((rows,), 0.5), None, model.implementation)


def _dry(model: LlamaModel, num_new: int) -> tuple[LaunchLog, list[DryLaunch]]:
    with recording(80) as recorder, counted_launches() as log:
        _step(model, num_new)
    return log, recorder.launches


def _predicted(fusion: Fusion, num_new: int) -> int:
    chunks = () if num_new == 1 else ((num_new, 0, num_new),) * NUM_SEQS
    batch = Batch(NUM_SEQS, NUM_SEQS, ()) if num_new == 1 else Batch(0, 0, chunks)
    return sum(kernel.num_launches for kernel in KernelList(SHAPE, fusion).of(batch))


@pytest.mark.parametrize("num_new", [1, 7])
def test_fused_launches_are_those_of_the_cost_model(folder: Path, num_new: int) -> None:
    log, launches = _dry(_model(folder, Implementation.KERNEL), num_new)
    assert log.num_launches == _predicted(Fusion.FUSED, num_new)
    products = log.per_kernel()["linear"] + log.per_kernel()["embedding"]
    assert len(launches) == log.num_launches - products  # what is counted is what goes to the driver
    per_layer = 5  # two norms, rotary and cache, attention, gate
    assert len(launches) == per_layer * LAYERS + 2


def test_twins_count_the_launches_of_the_kernels(folder: Path) -> None:
    with counted_launches() as twin:
        _step(_model(folder, Implementation.TWIN), 1)
    log, _ = _dry(_model(folder, Implementation.KERNEL), 1)
    assert twin.per_kernel() == log.per_kernel()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_unfused_launches_are_those_of_this_engines_list(folder: Path, dtype: torch.dtype) -> None:
    model = load_model(folder, dtype, torch.device("cpu"), Implementation.UNFUSED)
    with counted_launches() as log:
        _step(model, 1)
    batch = Batch(NUM_SEQS, NUM_SEQS, ())
    listed = kernels_here(SHAPE, Fusion.NONE, batch, bytes_per_value=dtype.itemsize)
    assert log.num_launches == sum(kernel.num_launches for kernel in listed)


def test_unfused_steps_launch_several_times_as_much(folder: Path) -> None:
    with counted_launches() as unfused:
        _step(_model(folder, Implementation.UNFUSED), 1)
    assert unfused.num_launches > 3 * _predicted(Fusion.FUSED, 1)


def test_grids_cover_sequences_and_heads(folder: Path) -> None:
    _, launches = _dry(_model(folder, Implementation.KERNEL), 1)
    grids = {launch.name: launch.grid for launch in launches}
    kv_heads = SIZES["num_key_value_heads"]
    assert grids["_paged_decode_attention_kernel"] == (NUM_SEQS, kv_heads, 1)
    assert grids["_rotary_and_cache_kernel"] == (NUM_SEQS, 1, 1)
    assert grids["_softmax_and_sample_kernel"] == (NUM_SEQS, 1, 1)


def test_a_steady_decode_step_compiles_nothing_new(folder: Path) -> None:
    model = _model(folder, Implementation.KERNEL)
    blocks = FixedBlocks(model, NUM_SEQS, 64)
    with recording(80) as recorder:
        for _ in range(2):
            blocks.forward([[1]] * NUM_SEQS)
        known = list(recorder.compiled)
        for _ in range(30):  # over block boundaries
            blocks.forward([[1]] * NUM_SEQS)
    assert recorder.compiled == known


def test_counting_hides_in_an_inner_block_and_costs_nothing_outside() -> None:
    count_launch("nobody counts", (1,), (1,))
    with counted_launches() as outer:
        count_launch("a", (torch.zeros(4), 3), (torch.zeros(2, dtype=torch.int64),))
        with counted_launches() as inner:
            count_launch("b", lambda: (5,), ())
    assert [launch.kernel for launch in outer.launches] == ["a"]
    assert outer.bytes_moved == 16 + 3 + 16
    assert inner.launches[0].bytes_read == 5
