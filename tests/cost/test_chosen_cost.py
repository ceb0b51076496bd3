"""Which cost model an experiment gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.config import load_experiment
from sim.config.catalog import load_model
from sim.cost.kernels import Fusion
from sim.cost.roofline import RooflineCost
from sim.cost.step_time import KernelCost
from sim.errors import ConfigError
from sim.simulation import experiment_cost, simulate
from tests.command_line import EXPERIMENT


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A small experiment."""
    path = tmp_path / "tiny.yaml"
    path.write_text(EXPERIMENT)
    return path


def test_kernels_are_counted_as_one_graph_unless_another_fusion_or_a_roofline_is_asked_for(
    config: Path,
) -> None:
    for overrides, fusion in (([], Fusion.GRAPH), (["engine.fusion=none"], Fusion.NONE)):
        cost = experiment_cost(load_experiment(config, overrides))
        assert isinstance(cost, KernelCost)
        assert cost.kernels.fusion is fusion
    assert isinstance(experiment_cost(load_experiment(config, ["engine.fusion=roofline"])), RooflineCost)


def test_models_with_experts_or_latents_are_always_counted_by_kernels(config: Path) -> None:
    for model, gpu in (("mixtral-8x7b", "h200"), ("qwen3-30b-a3b", "h200")):
        experiment = load_experiment(config, [f"model={model}", f"hardware={gpu}"])
        assert isinstance(experiment_cost(experiment), KernelCost)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["model=mixtral-8x7b", "hardware=h200"], "mixtral-8x7b has a mixture of experts"),
        (["model=deepseek-v3", "hardware=b200", "parallelism.tensor_parallel_size=8"], "mixture of experts"),
        (["parallelism.pipeline_parallel_size=4"], "one stage only, and pipeline_parallel_size is 4"),
    ],
)
def test_a_roofline_of_what_it_cannot_price_is_refused_where_it_is_asked_for(
    config: Path, overrides: list[str], reason: str
) -> None:
    config.write_text(EXPERIMENT.replace("engine:\n", "engine:\n  fusion: roofline\n"))
    line = config.read_text().splitlines().index("  fusion: roofline") + 1
    with pytest.raises(ConfigError) as caught:
        load_experiment(config, overrides)
    (problem,) = caught.value.problems
    assert (problem.line, problem.key) == (line, "engine.fusion")
    assert reason in problem.message
    load_experiment(config, [*overrides, "engine.fusion=graph"])
    load_experiment(config, [*overrides, "step_time={target: 10 ms}"])


def test_stages_are_counted_by_kernels_and_reach_the_cost(config: Path) -> None:
    experiment = load_experiment(config, ["parallelism.pipeline_parallel_size=4"])
    cost = experiment_cost(experiment)
    assert isinstance(cost, KernelCost)
    assert cost.kernels.pipeline_parallel_size == 4
    whole = load_experiment(config, ["engine.fusion=graph"])
    staged, single = simulate(experiment), simulate(whole)
    assert staged.steps["end"].max() > single.steps["end"].max(), "activations are sent between stages"
    assert staged.num_blocks > 4 * single.num_blocks


def test_a_simulation_by_kernels_takes_longer_unfused(config: Path) -> None:
    runs = [simulate(load_experiment(config, [f"engine.fusion={fusion.value}"])) for fusion in Fusion]
    times = [run.steps["end"].max() for run in runs]
    assert times[0] > times[1] >= times[2]


def test_experts_without_a_width_are_refused(tmp_path: Path) -> None:
    text = Path("sim/catalog/models/mixtral-8x7b.yaml").read_text()
    (tmp_path / "wrong.yaml").write_text(text.replace("moe_intermediate_size: 14336\n", ""))
    with pytest.raises(ConfigError, match="moe_intermediate_size"):
        load_model("./wrong.yaml", tmp_path)


def test_a_latent_is_one_tenth_of_the_cache_of_its_heads() -> None:
    model = load_model("deepseek-v3")
    assert model.kv_bytes_per_token == 70_272
    assert model.kv_share(8) == 1
