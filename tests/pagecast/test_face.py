"""`import pagecast`: what a notebook uses."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pagecast
from tests.command_line import EXPERIMENT
from tests.command_line import pagecast as command

README = (Path(pagecast.__file__).parent / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pagecast.Experiment:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(EXPERIMENT, encoding="utf-8")
    return pagecast.load("tiny.yaml", ["engine.block_size=32"])


def test_a_simulation_in_memory_has_numbers_and_tables_and_writes_nothing(
    experiment: pagecast.Experiment,
) -> None:
    run = pagecast.simulate(experiment)
    assert run.summary["completed"] == run.requests.num_rows == 30
    ttft = run.requests["first_token"] - run.requests["arrival"]
    assert run.summary["median_ttft_ms"] == pytest.approx(np.median(ttft.astype(float)) / 1e6)
    assert run.tokens.num_rows == run.requests["output_tokens"].sum()
    assert {"replica", "start", "end"} <= set(run.steps)
    assert run.config["engine"]["block_size"] == 32
    assert sorted(path.name for path in Path().iterdir()) == ["tiny.yaml"]
    assert "30 requests" in repr(run)
    assert "30 rows" in repr(run.requests)


def test_the_tokens_of_several_samples_are_told_apart(experiment: pagecast.Experiment) -> None:
    run = pagecast.simulate(pagecast.load("tiny.yaml", ["workload.num_samples=3"]))
    assert set(run.tokens["sample"]) == {0, 1, 2}
    assert (np.bincount(run.tokens["request_id"]) == run.requests["output_tokens"]).all()


def test_a_run_that_is_written_is_the_commands_own_and_opens_again(experiment: pagecast.Experiment) -> None:
    run = pagecast.simulate(experiment, "face")
    command("simulate", "tiny.yaml", "--set", "engine.block_size=32", "--out", "command", "--quiet")
    for name in ("summary.json", "config.yaml", "requests.npz", "report.html"):
        assert Path("face", name).read_bytes() == Path("command", name).read_bytes(), name
    again = pagecast.open_run("face")
    assert again.summary == run.summary
    assert (again.tokens["time"] == run.tokens["time"]).all()
    with pytest.raises(pagecast.ConfigError, match="there already"):
        pagecast.simulate(experiment, "face")


def test_a_data_frame_needs_pandas_and_says_so(experiment: pagecast.Experiment) -> None:
    requests = pagecast.simulate(experiment).requests
    if importlib.util.find_spec("pandas") is None:
        with pytest.raises(ImportError, match="pip install pandas"):
            requests.to_pandas()
    else:
        assert len(requests.to_pandas()) == 30


def test_bad_input_is_told_with_its_place(experiment: pagecast.Experiment) -> None:
    with pytest.raises(pagecast.ConfigError, match=r"engine\.block_sise"):
        pagecast.load("tiny.yaml", ["engine.block_sise=32"])


def test_every_public_name_is_there_and_on_the_page() -> None:
    for name in pagecast.__all__:
        assert getattr(pagecast, name).__doc__
        if name != "Scheduler":
            assert f"`{name}" in README, name
    assert dir(pagecast) == sorted(pagecast.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pagecast.nothing


def test_importing_it_loads_nothing_else() -> None:
    code = "import pagecast, sys; print('sim' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_first_example_of_the_page_runs() -> None:
    (code,) = re.findall(r"```python\n(import pagecast.*?)```", README, re.DOTALL)
    root = Path(pagecast.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[0]) > 0
