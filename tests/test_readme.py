"""What the README shows is what happens: its output, its example, its mistake, its tree, its commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sim.config import load_experiment
from tests.command_line import pagecast, refused

REPO = Path(__file__).resolve().parent.parent
README = (REPO / "README.md").read_text(encoding="utf-8")
BATCHING = ("static, max_batch_size: 32", "dynamic, max_batch_size: 32, max_wait: 200 ms", "continuous")


def _block(language: str, word: str) -> list[str]:
    """The lines of the one fenced block of a language that has a word."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if word in block]
    return [line.rstrip() for line in found.splitlines() if line.strip()]


def _printed(*arguments: str, out: Path) -> set[str]:
    output = pagecast("simulate", *arguments, "--no-plots", "--set", f"results.dir={out}").stdout
    return {line.rstrip() for line in output.splitlines()}


@pytest.mark.parametrize(("name", "word"), [("quickstart", "TTFT <= 40 ms"), ("chat_l40s", "TTFT <= 500 ms")])
def test_the_output_of_both_first_runs_is_the_real_one(name: str, word: str, tmp_path: Path) -> None:
    printed = _printed(str(REPO / "configs" / f"{name}.yaml"), out=tmp_path)
    assert not [line for line in _block("text", word) if line not in printed]


def test_the_three_rows_of_batching_are_the_real_ones(tmp_path: Path) -> None:
    options = [part for kind in BATCHING for part in ("--vary", f"engine.batching={{kind: {kind}}}")]
    printed = _printed(str(REPO / "configs" / "batching.yaml"), *options, out=tmp_path)
    assert not [line for line in _block("text", "[3] continuous") if line not in printed]


def test_the_four_shares_of_memory_are_the_real_ones(tmp_path: Path) -> None:
    config = str(REPO / "configs" / "papers" / "sharegpt_opt13b.yaml")
    printed = pagecast("explain-waste", config, "--out", str(tmp_path / "waste")).stdout.splitlines()
    for line in _block("text", "Slots at"):
        assert any(row.startswith(line) for row in printed), line


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example experiment, with a data folder that has its trace."""
    trace = tmp_path / "data" / "traces" / "azure_llm_2023_conv.csv"
    trace.parent.mkdir(parents=True)
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n")
    monkeypatch.setenv("PAGECAST_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("\n".join(_block("yaml", "name: my-service")) + "\n")
    return tmp_path / "my.yaml"


def test_the_example_is_a_valid_experiment(example: Path) -> None:
    assert load_experiment(example).name == "my-service"


def test_the_mistake_is_told_as_shown(example: Path) -> None:
    example.write_text(example.read_text().replace("max_num_seqs", "max_num_seq"))
    assert refused("check", "my.yaml").splitlines() == _block("text", "did you mean")


def test_every_command_is_in_the_table() -> None:
    known = set(re.findall(r"^│ ([a-z][a-z-]*) ", pagecast("--help").stdout, re.MULTILINE))
    assert set(re.findall(r"^\| `pagecast ([a-z-]+)", README, re.MULTILINE)) == known >= {"simulate"}


def test_the_tree_names_what_is_there() -> None:
    (tree,) = re.findall(r"^    sim/ .*?(?=^\S)", README, re.MULTILINE | re.DOTALL)
    there = {path.name for path in REPO.iterdir()}
    there |= {
        path.name
        for folder in ("sim", "tests", "gpu_backend", "workloads")
        for path in (REPO / folder).rglob("*")
    }
    named = re.findall(r"\b[a-z_]+(?:\.py\b|/)", tree)
    assert len(named) > 20
    assert not [name for name in named if name.rstrip("/") not in there]


def test_links_lead_somewhere() -> None:
    for folder, text in (
        (REPO, README),
        (REPO / "sim", (REPO / "sim" / "README.md").read_text(encoding="utf-8")),
    ):
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (folder / target).exists(), target
