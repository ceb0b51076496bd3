"""Reading a KV cache in blocks: the paper's kernel pays for small ones, of others that is not known."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.config import load_experiment
from sim.config.catalog import load_attention, load_gpu, load_model
from sim.cost.block_reads import NOTHING_MEASURED
from sim.cost.cost_model import CostModel
from sim.cost.roofline import RooflineCost
from sim.cost.step_time import KernelCost
from sim.errors import ConfigError
from sim.recording import basis_of_run
from sim.simulation import experiment_cost
from tests.command_line import EXPERIMENT
from tests.cost.test_roofline import plan

LLAMA, H100 = load_model("llama-3-8b"), load_gpu("h100-sxm")
SIZES = (1, 8, 16, 32, 128, None)
PAPER = Path(__file__).parents[2] / "configs" / "papers" / "sharegpt_opt13b.yaml"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A small experiment."""
    path = tmp_path / "tiny.yaml"
    path.write_text(EXPERIMENT)
    return path


def decode_ns(cost: CostModel) -> int:
    """A step bound by reading contexts."""
    return cost.step_ends_ns(plan(64, 64 * 4_000))[0]


@pytest.mark.parametrize("kind", [KernelCost, RooflineCost])
@pytest.mark.parametrize("name", ["flash_attn", "flashinfer"])
def test_a_kernel_for_which_nothing_was_measured_reads_all_blocks_alike(
    kind: type[KernelCost | RooflineCost], name: str
) -> None:
    kernel = load_attention(name)
    assert len({decode_ns(kind(LLAMA, H100, block_size=size, attention=kernel)) for size in SIZES}) == 1


def test_the_paper_s_kernel_takes_20_to_26_percent_longer_at_16_than_on_contiguous_memory() -> None:
    kernel = load_attention("paged_attention")
    assert 1.20 <= 1 / kernel.read_factor(None) <= 1.26
    factors = [kernel.read_factor(size) for size in SIZES]
    assert factors == sorted(factors, reverse=True)
    assert factors[2] == 1, "bandwidths are those of blocks of 16"


@pytest.mark.parametrize("level", ["graph", "roofline"])
def test_the_block_size_decides_nothing_under_an_engine_of_today(config: Path, level: str) -> None:
    def step_ns(size: int, *more: str) -> int:
        overrides = [f"engine.block_size={size}", f"engine.fusion={level}", *more]
        return decode_ns(experiment_cost(load_experiment(config, overrides)))

    assert step_ns(16) == step_ns(128)
    backend = "engine.attention_backend=paged_attention"
    assert step_ns(16, backend) > 1.03 * step_ns(128, backend)


def test_each_release_has_the_kernel_of_its_day_and_papers_name_theirs(config: Path) -> None:
    assert load_experiment(config).attention == load_attention("flash_attn")
    assert load_experiment(PAPER).attention == load_attention("paged_attention")
    orca = ["engine.scheduler=vllm-0.32", "engine.kv_allocation=max"]
    assert load_experiment(PAPER, orca).attention == load_attention("paged_attention")
    paper_s = [line for line in PAPER.read_text().splitlines() if "attention_backend" not in line]
    config.write_text("\n".join(paper_s).replace("hardware/", f"{PAPER.parent}/hardware/"))
    assert load_experiment(config).attention == load_attention("paged_attention"), "vllm-v0 has its own"


def test_what_blocks_cost_is_listed_with_its_source(config: Path) -> None:
    for backend, source in (("flash_attn", "assumed"), ("paged_attention", "paper")):
        experiment = load_experiment(config, [f"engine.attention_backend={backend}"])
        (figure,) = [
            f for f in basis_of_run(experiment).figures if f.name.startswith("attention.block_begin")
        ]
        assert backend in figure.name
        assert figure.source.value == source
        assert figure.note


def test_a_kernel_of_one_s_own_is_read_from_a_file(config: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("name: own\nblock_begin: {value: 2, unit: tokens, source: measured, note: mine}\n")
    experiment = load_experiment(config, ["engine.attention_backend=./own.yaml"])
    assert experiment.attention.block_begin_tokens == 2
    own.write_text("name: own\nblock_begin: {value: -2, unit: tokens, source: measured}\n")
    with pytest.raises(ConfigError, match=r"block_begin\.value"):
        load_experiment(config, ["engine.attention_backend=./own.yaml"])
    with pytest.raises(ConfigError, match="flash_attn"):
        load_experiment(config, ["engine.attention_backend=flash_atn"])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [KernelCost, RooflineCost])
def test_no_kernel_reads_faster_than_the_datasheet_says(
    kind: type[KernelCost | RooflineCost], size: int | None
) -> None:
    cost = kind(LLAMA, H100, block_size=size, attention=load_attention("paged_attention"))
    near, far = (cost.step_ends_ns(plan(64, context))[0] for context in (10**6, 2 * 10**6))
    at_least = 10**6 * LLAMA.kv_bytes_per_token / H100.memory_bandwidth_bytes_per_s * 1e9
    assert far - near >= at_least - 1  # whole nanoseconds


def test_nothing_measured_is_nothing() -> None:
    assert NOTHING_MEASURED.block_begin_tokens == 0
