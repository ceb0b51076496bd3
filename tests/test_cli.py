"""The command line as its users meet it: exit codes, one JSON document, and bad input of every kind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sim import cli

REPO = Path(__file__).resolve().parent.parent
EXPERIMENT = """\
name: tiny
model: llama-3-8b
hardware: a100-80gb-sxm
engine:
  max_model_len: 4096
workload:
  kind: synthetic
  num_requests: 30
  arrivals: {kind: poisson, rate: 20 /s}
  prompt_tokens: {kind: uniform, low: 10, high: 300}
  output_tokens: {kind: uniform, low: 1, high: 40}
slo: {ttft: 100 ms, tpot: 20 ms}
"""
TRACE = """\
name: traced
model: llama-3-8b
hardware: a100-80gb-sxm
workload: {{kind: trace, path: {path}, format: azure}}
"""
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROW = "2023-11-16 18:15:46.6805900,374,44\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with one good experiment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT)
    return tmp_path


def _pagecast(*arguments: str, code: int = 0) -> Result:
    """Run a command in this process, as `main` does."""
    result = CliRunner().invoke(cli.app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def _refused(*arguments: str) -> str:
    """Run the real command and expect exit code 2, a message and no traceback; returns the message."""
    command = [sys.executable, "-c", "from sim.cli import main; main()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert not Path("results").exists(), "something was written"
    return done.stderr


def test_simulate_prints_numbers_with_definitions_and_writes_the_run(here: Path) -> None:
    output = _pagecast("simulate", "tiny.yaml").output
    (folder,) = (here / "results" / "tiny").iterdir()
    assert folder.name in output
    assert "TTFT" in output
    assert "time to first token" in output
    for name in (
        "config.yaml",
        "environment.json",
        "summary.json",
        "bench.json",
        "requests.npz",
        "steps.npz",
    ):
        assert (folder / name).is_file()
    assert list((folder / "plots").iterdir())


def test_json_is_exactly_the_summary_document(here: Path) -> None:
    output = _pagecast("simulate", "tiny.yaml", "--json", "--out", "run").output
    document = json.loads(output)
    assert document["completed"] == 30
    assert output == (here / "run" / "summary.json").read_text()


def test_the_same_seed_gives_the_same_bytes(here: Path) -> None:
    for name in ("first", "second"):
        _pagecast("simulate", "tiny.yaml", "--out", name)
    for file in sorted((here / "first").rglob("*")):
        if file.is_file() and file.name not in ("environment.json", "bench.json"):
            other = here / "second" / file.relative_to(here / "first")
            assert file.read_bytes() == other.read_bytes(), file.name


def test_a_resolved_configuration_gives_the_same_run_again(here: Path) -> None:
    _pagecast("simulate", "tiny.yaml", "--set", "seed=7", "--out", "first")
    _pagecast("simulate", "first/config.yaml", "--out", "second")
    assert (here / "first" / "requests.npz").read_bytes() == (here / "second" / "requests.npz").read_bytes()
    assert (here / "first" / "config.yaml").read_text() == (here / "second" / "config.yaml").read_text()


def test_set_changes_a_value_and_what_follows_from_it(here: Path) -> None:
    few = json.loads(_pagecast("simulate", "tiny.yaml", "--json", "--set", "workload.num_requests=5").output)
    assert few["completed"] == 5


def test_vary_compares_three_ways_of_batching_in_one_command(here: Path) -> None:
    policies = ("{kind: static, max_batch_size: 4}", "{kind: dynamic, max_batch_size: 4, max_wait: 50 ms}")
    options = [
        part
        for policy in (*policies, "{kind: continuous}")
        for part in ("--vary", f"engine.batching={policy}")
    ]
    output = _pagecast("simulate", "tiny.yaml", *options).output
    for kind in ("static", "dynamic", "continuous"):
        assert kind in output
    assert len(list((here / "results" / "tiny").iterdir())) == 3


def test_compare_says_which_settings_differ(here: Path) -> None:
    _pagecast("simulate", "tiny.yaml", "--out", "a")
    _pagecast("simulate", "tiny.yaml", "--out", "b", "--set", "engine.max_num_seqs=2")
    output = _pagecast("compare", "a", "b").output
    assert "engine.max_num_seqs" in output


def test_check_runs_nothing_and_says_what_it_comes_to(here: Path) -> None:
    output = _pagecast("check", "tiny.yaml").output
    assert "fine" in output
    assert "blocks of 16 tokens" in output
    assert not (here / "results").exists()


def test_schema_is_a_json_schema() -> None:
    schema = json.loads(_pagecast("schema").output)
    assert schema["type"] == "object"
    assert "workload" in schema["properties"]


def test_conform_ends_with_0_where_all_agrees_and_1_where_not(here: Path, decision_traces_dir: Path) -> None:
    name = "real_c_prefix_ample"
    for suffix in (".json", ".jsonl"):
        (here / f"{name}{suffix}").write_text((decision_traces_dir / f"{name}{suffix}").read_text())
    assert "steps agree at level 3" in _pagecast("conform", f"{name}.json").output
    log = here / f"{name}.jsonl"
    log.write_text(log.read_text().replace('"cached_blocks":6', '"cached_blocks":7', 1))
    output = _pagecast("conform", f"{name}.json", code=1).output
    assert "update of step 0: cached_blocks" in output
    assert "expected 7" in output
    assert "got      6" in output
    _pagecast("conform", f"{name}.json", "--level", "1")


def test_a_request_that_can_never_fit_is_a_counted_rejection(here: Path) -> None:
    trace = here / "trace.csv"
    trace.write_text(HEADER + ROW + "2023-11-16 18:15:47,500000,44\n")
    (here / "traced.yaml").write_text(TRACE.format(path=trace))
    document = json.loads(_pagecast("simulate", "traced.yaml", "--json").output)
    assert (document["completed"], document["failed"], document["sim_rejected"]) == (1, 1, 1)


def test_an_existing_run_is_never_overwritten(here: Path) -> None:
    (here / "run").mkdir()
    (here / "run" / "precious").write_text("kept")
    command = [
        sys.executable,
        "-c",
        "from sim.cli import main; main()",
        "simulate",
        "tiny.yaml",
        "--out",
        "run",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "not overwritten" in done.stderr
    assert [path.name for path in (here / "run").iterdir()] == ["precious"]


BAD_EXPERIMENTS: dict[str, tuple[Any, str]] = {
    "unknown key": (EXPERIMENT.replace("max_model_len", "max_modle_len"), r"5:3: engine.max_modle_len"),
    "missing unit": (EXPERIMENT.replace("20 /s", "20"), r"9:35: workload.arrivals.rate"),
    "negative rate": (EXPERIMENT.replace("20 /s", "-20 /s"), r"9:35: workload.arrivals.rate"),
    "not a number": (EXPERIMENT.replace("20 /s", ".nan"), r"9:35: workload.arrivals.rate"),
    "not UTF-8": (EXPERIMENT.encode() + b"# \xff\n", "bad.yaml"),
    "huge integer": (EXPERIMENT.replace("30", "9" * 5000), r"8:17: workload.num_requests"),
    "YAML bomb": ("a: &a [x, x]\nb: &b [*a, *a]\n" + "c: [*b, *b, *b]\n" * 4000, "bad.yaml:"),
    "deep nesting": ("a: " + "[" * 5000 + "]" * 5000, "bad.yaml:"),
    "a tag that would build an object": ("name: !!python/object/apply:os.system [true]\n", "bad.yaml:1:7"),
    "duplicate key": (EXPERIMENT + "name: twice\n", "bad.yaml:13:1: name"),
    "not YAML": ("model: [llama\n", "bad.yaml:"),
    "empty": ("", "bad.yaml"),
}


@pytest.mark.parametrize("what", BAD_EXPERIMENTS)
@pytest.mark.usefixtures("here")
def test_a_bad_experiment_file_is_refused_with_its_place(what: str) -> None:
    text, place = BAD_EXPERIMENTS[what]
    Path("bad.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    for command in ("simulate", "check"):
        assert place in _refused(command, "bad.yaml")


def test_a_wrong_key_names_the_right_one(here: Path) -> None:
    (here / "bad.yaml").write_text(EXPERIMENT.replace("max_model_len", "max_modle_len"))
    assert "did you mean 'max_model_len'" in _refused("check", "bad.yaml")


@pytest.mark.usefixtures("here")
def test_all_errors_of_a_file_come_at_once() -> None:
    text = (
        EXPERIMENT.replace("max_model_len", "max_modle_len").replace("20 /s", "20").replace("100 ms", "100")
    )
    Path("bad.yaml").write_text(text)
    lines = [line for line in _refused("check", "bad.yaml").splitlines() if line.startswith("bad.yaml:")]
    assert len(lines) == 3


BAD_TRACES: dict[str, tuple[bytes, str]] = {
    "missing column": (b"TIMESTAMP,ContextTokens\n2023-11-16 18:15:46,374\n", "trace.csv:1: missing column"),
    "row with a missing column": ((HEADER + ROW + "2023-11-16 18:15:47,5\n").encode(), "trace.csv:3:"),
    "not sorted": (
        (HEADER + ROW + ROW.replace("18:15", "17:15")).encode(),
        "trace.csv:3: the trace is not sorted",
    ),
    "empty": (b"", "trace.csv: the trace is empty"),
    "header only": (HEADER.encode(), "trace.csv: the trace is empty"),
    "a word for a number": ((HEADER + ROW.replace("374", "many")).encode(), "trace.csv:2: ContextTokens"),
    "a NaN": ((HEADER + ROW.replace("374", "nan")).encode(), "trace.csv:2: ContextTokens"),
    "a negative number": ((HEADER + ROW.replace("374", "-374")).encode(), "trace.csv:2: ContextTokens"),
    "a huge number": ((HEADER + ROW.replace("374", "9" * 400)).encode(), "trace.csv:2: ContextTokens"),
    "a bad stamp": ((HEADER + ROW.replace("2023-11-16", "yesterday")).encode(), "trace.csv:2: TIMESTAMP"),
    "not UTF-8": (HEADER.encode() + b"\xff\xfe", "trace.csv: the trace is no UTF-8"),
}


@pytest.mark.parametrize("what", BAD_TRACES)
@pytest.mark.usefixtures("here")
def test_a_bad_trace_is_refused_with_its_line(what: str) -> None:
    content, place = BAD_TRACES[what]
    Path("trace.csv").write_bytes(content)
    Path("traced.yaml").write_text(TRACE.format(path=Path("trace.csv").resolve()))
    assert place in _refused("simulate", "traced.yaml")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "arguments",
    [
        ("simulate", "nowhere.yaml"),
        ("simulate", "tiny.yaml", "--set", "engine.block_size"),
        ("simulate", "tiny.yaml", "--set", "engine.block_size=0"),
        ("simulate", "tiny.yaml", "--nonsense"),
        ("compare", "tiny.yaml"),
        ("compare", "nowhere", "nobody"),
        ("conform", "tiny.yaml"),
        ("conform", "tiny.yaml", "--level", "4"),
        ("nonsense",),
    ],
)
def test_wrong_use_ends_with_2(arguments: tuple[str, ...]) -> None:
    assert _refused(*arguments)


def test_the_shipped_configurations_are_fine() -> None:
    configs = [str(path) for path in (REPO / "configs").glob("*.yaml") if "conv" not in path.name]
    assert _pagecast("check", *configs).output.count(": fine") == len(configs) > 0


@pytest.mark.skipif(shutil.which("script") is None, reason="needs script(1) to have a terminal")
def test_at_a_terminal_a_bar_shows_simulated_time_and_requests_done(here: Path) -> None:
    command = f"{sys.executable} -c 'from sim.cli import main; main()' simulate tiny.yaml --out run"
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "requests" in done.stdout
    assert "simulated" in done.stdout
    assert (here / "run").is_dir()
