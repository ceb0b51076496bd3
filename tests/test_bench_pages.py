"""Makers of the pages under `results/`: where they look for data, and the commands that they print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from sim.config import load_experiment
from tests.bench import accuracy
from tests.bench import papers_pagedattention as paged_attention
from tests.bench import papers_speculation as speculation
from tests.bench.papers_runs import Run, commands

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with measured times beside it, where they lie by default."""
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "pyproject.toml").write_text("")
    (tmp_path / "shared" / "data" / "traces" / "measured").mkdir(parents=True)
    monkeypatch.setattr(accuracy, "REPO", tmp_path / "checkout")
    monkeypatch.delenv("PAGECAST_DATA", raising=False)
    return tmp_path


def test_measured_times_are_looked_for_beside_the_checkout_unless_the_variable_names_a_folder(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert accuracy.measured_data() == checkout / "shared" / "data" / "traces"
    (checkout / "own" / "measured").mkdir(parents=True)
    monkeypatch.setenv("PAGECAST_DATA", str(checkout / "own"))
    assert accuracy.measured_data() == checkout / "own"


def test_measured_times_that_are_not_there_end_the_page_with_the_remedy(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGECAST_DATA", str(checkout / "checkout"))
    with pytest.raises(SystemExit, match="set PAGECAST_DATA to the folder of public data"):
        accuracy.measured_data()
    monkeypatch.delenv("PAGECAST_DATA")
    (checkout / "shared").rename(checkout / "elsewhere")
    with pytest.raises(SystemExit, match="set PAGECAST_DATA to the folder of public data"):
        accuracy.measured_data()


def test_a_printed_command_is_the_run_even_where_a_change_has_quotes_or_blanks() -> None:
    run = Run("sharegpt_opt13b", ("workload.arrivals={kind: poisson, rate: 2 /s}", "name=it's"))
    (line,) = [line for line in commands([run, run]) if line.startswith("    ")]
    assert _run_of(line) == run


def test_the_page_of_published_numbers_names_the_runs_that_it_rests_on() -> None:
    page = (REPO / "results" / "papers.md").read_text(encoding="utf-8")
    printed = {_run_of(line) for line in re.findall(r"^    pagecast simulate .*", page, re.MULTILINE)}
    made = {*paged_attention.runs(), *speculation.runs()}
    assert len(printed) > 30
    assert not printed - made, "a command that is no run of the page"
    assert {run.config for run in printed} == {run.config for run in made}
    for run in printed:
        load_experiment(REPO / "configs" / "papers" / f"{run.config}.yaml", run.changes)


def _run_of(line: str) -> Run:
    """What a printed command runs."""
    words = shlex.split(line)
    assert words[:2] == ["pagecast", "simulate"]
    assert set(words[3::2]) <= {"--set"}
    return Run(Path(words[2]).stem, tuple(words[4::2]))
