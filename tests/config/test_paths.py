"""Paths in configurations: relative to the file, and the data folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.config import load_experiment
from sim.config.paths import data_folder, expand_path
from sim.errors import ConfigError
from workloads.trace import TraceWorkload


def checkout(root: Path, *, with_data: bool) -> Path:
    """A folder of configurations in a checkout, perhaps with data beside it; returns the folder."""
    configs = root / "repo" / "configs"
    configs.mkdir(parents=True)
    (root / "repo" / "pyproject.toml").write_text("")
    if with_data:
        (root / "shared" / "data" / "traces").mkdir(parents=True)
    return configs


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    assert expand_path("../a/b.csv", tmp_path / "configs") == tmp_path / "a" / "b.csv"
    assert expand_path("/a/b.csv", tmp_path) == Path("/a/b.csv")


def test_the_data_folder_lies_beside_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAGECAST_DATA", raising=False)
    configs = checkout(tmp_path, with_data=True)
    data = tmp_path / "shared" / "data"
    assert expand_path("${PAGECAST_DATA}/traces/x.csv", configs) == data / "traces" / "x.csv"


def test_the_environment_names_another_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = checkout(tmp_path, with_data=True)
    monkeypatch.setenv("PAGECAST_DATA", str(tmp_path))
    assert data_folder(configs) == tmp_path
    monkeypatch.setenv("PAGECAST_DATA", str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="absent, which is no folder"):
        data_folder(configs)


def test_a_missing_data_folder_says_how_to_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAGECAST_DATA", raising=False)
    configs = checkout(tmp_path, with_data=False)
    with pytest.raises(
        ValueError, match=r"set PAGECAST_DATA to the folder of public data \(there is none at"
    ):
        data_folder(configs)
    with pytest.raises(ValueError, match="set PAGECAST_DATA"):
        data_folder(tmp_path)


@pytest.mark.parametrize("text", ["${HOME}/x", "$HOME/x", "${PAGECAST_DTA}/x", "${}/x"])
def test_other_variables_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"unknown variable .*: only \$\{PAGECAST_DATA\} is expanded"):
        expand_path(text, tmp_path)


TEXT = """\
model: llama-3-8b
hardware: a100-80gb-sxm
workload: {kind: trace, path: %s, format: azure, window: {start: %s, end: 60 s}}
"""


def test_a_trace_that_is_not_there_is_reported_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "conversation.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    path = tmp_path / "experiment.yaml"
    path.write_text(TEXT % ("conversations.csv", "0 s"))
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    assert str(caught.value) == (
        f"{path}:3:31: workload.path: there is no file {tmp_path / 'conversations.csv'} "
        "(did you mean conversation.csv?)"
    )


def test_a_window_that_ends_before_it_starts_is_reported(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    path = tmp_path / "experiment.yaml"
    path.write_text(TEXT % ("trace.csv", "2 min"))
    with pytest.raises(ConfigError, match=r":3:11: workload: window: its end must come after its start"):
        load_experiment(path)


def test_a_part_of_a_trace_reaches_the_workload(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    path = tmp_path / "experiment.yaml"
    path.write_text(TEXT % ("trace.csv", "1.5 s"))
    workload = load_experiment(path, ["workload.limit=5", "workload.rate_scale=2"]).workload
    assert isinstance(workload, TraceWorkload)
    assert (workload.path, workload.limit, workload.rate_scale) == (tmp_path / "trace.csv", 5, 2.0)
    assert (workload.window_start_ns, workload.window_end_ns) == (1_500_000_000, 60_000_000_000)
