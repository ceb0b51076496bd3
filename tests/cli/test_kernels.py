"""`pagecast kernels`: its table, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import EXPERIMENT, pagecast, refused


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A small experiment."""
    path = tmp_path / "tiny.yaml"
    path.write_text(EXPERIMENT)
    return str(path)


def test_the_table_fits_a_hundred_columns_and_ends_in_the_time_of_a_step(config: str) -> None:
    printed = pagecast("kernels", config, "--tokens", "512", "--decodes", "8", "--context", "2000").stdout
    lines = printed.splitlines()
    assert max(len(line) for line in lines) <= 100
    assert any("prompt attention" in line and "compute" in line for line in lines)
    assert any("decode attention" in line and "bandwidth" in line for line in lines)
    assert "(hidden)" in lines[-1]
    assert "step" in lines[-1]


def test_unfused_kernels_are_many_and_their_launches_do_not_hide(config: str) -> None:
    unfused, fused = (
        pagecast("kernels", config, "--fusion", fusion).stdout.splitlines() for fusion in ("none", "fused")
    )
    assert len(unfused) > 2 * len(fused)
    assert "(not hidden)" in unfused[-1]
    assert "(hidden)" in fused[-1]


def test_the_level_is_the_experiment_s_own_unless_another_is_named(config: str) -> None:
    def level(*options: str) -> str:
        (title,) = [
            line for line in pagecast("kernels", config, *options).stdout.splitlines() if "fusion:" in line
        ]
        return title.partition("fusion: ")[2].partition(",")[0]

    assert level() == "graph", "the default of engine.fusion"
    assert level("--set", "engine.fusion=none") == "none"
    assert level("--set", "engine.fusion=none", "--fusion", "fused") == "fused"
    assert level("--set", "engine.fusion=roofline") == "graph"


def test_a_step_of_nothing_and_an_unknown_level_are_refused(config: str) -> None:
    assert "both 0" in refused("kernels", config, "--tokens", "0", "--decodes", "0")
    assert "none of none, fused, graph" in refused("kernels", config, "--fusion", "most")


def test_weight_types_and_stages_are_seen_in_the_table(config: str) -> None:
    def rows(name: str, *settings: str) -> list[list[str]]:
        options = [word for setting in settings for word in ("--set", setting)]
        printed = pagecast("kernels", config, *options).stdout
        return [line.replace("│", " ").split() for line in printed.splitlines() if name in line]

    (whole,), (small,) = rows("mlp down"), rows("mlp down", "engine.quantization=int4")
    assert float(small[4]) < 0.27 * float(whole[4]), "megabytes read"
    assert rows("output projection")[0][4] == rows("output projection", "engine.quantization=int4")[0][4]
    (sent,) = rows("send to next stage", "parallelism.pipeline_parallel_size=4")
    assert (sent[4], sent[-1]) == ("3", "link")


def test_the_slowest_stage_is_said_where_there_are_stages(config: str) -> None:
    arguments = ("kernels", config, "--decodes", "8", "--context", "100")
    assert "slowest" not in pagecast(*arguments).stdout
    split = pagecast(*arguments, "--set", "parallelism.pipeline_parallel_size=4").stdout
    assert "slowest of 4 stages" in " ".join(split.split())


def test_a_step_that_verifies_drafts_is_shown_beside_the_one_without(config: str) -> None:
    printed = pagecast("kernels", config, "--decodes", "16", "--context", "2000", "--verify", "4").stdout
    assert "80 tokens" in printed
    said = printed.splitlines()[-1]
    assert said.startswith("verifying takes 1.")
    assert 1 < float(said.split()[2]) < 1.25
    assert "verifying" not in pagecast("kernels", config, "--decodes", "16").stdout
    assert "there are none" in refused("kernels", config, "--decodes", "0", "--verify", "4", "--tokens", "9")
