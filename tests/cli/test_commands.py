"""The command line as its users meet it: what each command prints, where, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sim.cli import simulate
from sim.cli.app import BAD_INPUT, INTERRUPTED, THE_ANSWER_IS_NO
from sim.compiled import running_code
from sim.results.run_folder import load_run
from sim.simulation import simulate as simulate_as_ever
from tests.command_line import COMMAND, EXPERIMENT, pagecast, refused
from tests.recordings import write_recording

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with one good experiment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT)
    return tmp_path


# simulate -------------------------------------------------------------------------------------------


def test_simulate_prints_numbers_with_definitions_and_says_where_the_pictures_are(here: Path) -> None:
    result = pagecast("simulate", "tiny.yaml")
    (folder,) = (here / "results" / "tiny").iterdir()
    relative = folder.relative_to(here)
    assert f"Run folder  {relative}\n" in result.stdout
    assert f"Picture     {relative / 'plots' / 'latency.png'}\n" in result.stdout
    assert "TTFT" in result.stdout
    assert "time to first token" in result.stdout
    assert result.stderr == ""
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.yaml",
        "environment.json",
        "summary.json",
        "bench.json",
        "requests.npz",
        "steps.npz",
    }
    assert (folder / "plots" / "latency.png").is_file()


def test_json_is_exactly_the_summary_document(here: Path) -> None:
    result = pagecast("simulate", "tiny.yaml", "--json", "--out", "run")
    document = json.loads(result.stdout)
    assert document["completed"] == 30
    assert result.stdout == (here / "run" / "summary.json").read_text()


def test_warnings_go_to_standard_error_and_leave_the_json_alone(here: Path) -> None:
    result = pagecast("simulate", "tiny.yaml", "--json", "--no-plots", "--set", "engine.max_model_len=16384")
    json.loads(result.stdout)
    assert "warning: engine.max_model_len 16384" in result.stderr


def test_a_run_without_pictures_is_a_whole_run(here: Path) -> None:
    pagecast("simulate", "tiny.yaml", "--no-plots", "--out", "run")
    assert not (here / "run" / "plots").exists()
    assert load_run(here / "run").record.num_requests == 30


def test_identical_runs_within_a_second_are_both_kept(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.recording.unique_run_name", lambda *_: "now")
    for _ in range(2):
        pagecast("simulate", "tiny.yaml", "--no-plots")
    assert sorted(path.name for path in (here / "results" / "tiny").iterdir()) == ["now", "now-2"]


def test_a_run_whose_folder_is_taken_meanwhile_is_kept_and_said_to_be_elsewhere(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def simulate_meanwhile(*arguments: Any, **named: Any) -> Any:
        (here / "run").mkdir(exist_ok=True)
        (here / "run" / "theirs").write_text("kept")
        return simulate_as_ever(*arguments, **named)

    monkeypatch.setattr("sim.recording.simulate", simulate_meanwhile)
    result = pagecast("simulate", "tiny.yaml", "--no-plots", "--out", "run")
    assert "Run folder  run-2" in result.stdout
    assert "run was taken meanwhile: the run is in run-2" in result.stderr
    assert [path.name for path in (here / "run").iterdir()] == ["theirs"]
    assert (here / "run-2" / "summary.json").exists()


def test_an_empty_folder_is_a_fine_place_for_a_run(here: Path) -> None:
    (here / "empty").mkdir()
    pagecast("simulate", "tiny.yaml", "--no-plots", "--out", "empty")
    assert (here / "empty" / "summary.json").exists()


def test_a_folder_is_printed_as_it_is_called(here: Path) -> None:
    assert (
        "Run folder  a[b]/[red]c\n"
        in pagecast("simulate", "tiny.yaml", "--no-plots", "--out", "a[b]/[red]c").stdout
    )
    assert (here / "a[b]" / "[red]c" / "summary.json").is_file()


def test_the_same_seed_gives_the_same_bytes(here: Path) -> None:
    for name in ("first", "second"):
        pagecast("simulate", "tiny.yaml", "--out", name)
    for file in sorted((here / "first").rglob("*")):
        if file.is_file() and file.name not in ("environment.json", "bench.json"):
            other = here / "second" / file.relative_to(here / "first")
            assert file.read_bytes() == other.read_bytes(), file.name


def test_a_resolved_configuration_gives_the_same_run_again(here: Path) -> None:
    pagecast("simulate", "tiny.yaml", "--no-plots", "--set", "seed=7", "--out", "first")
    pagecast("simulate", "first/config.yaml", "--no-plots", "--out", "second")
    assert (here / "first" / "requests.npz").read_bytes() == (here / "second" / "requests.npz").read_bytes()
    assert (here / "first" / "config.yaml").read_text() == (here / "second" / "config.yaml").read_text()


@pytest.mark.usefixtures("here")
def test_set_changes_a_value_and_what_follows_from_it() -> None:
    result = pagecast("simulate", "tiny.yaml", "--json", "--no-plots", "--set", "workload.num_requests=5")
    assert json.loads(result.stdout)["completed"] == 5


def test_vary_compares_three_ways_of_batching_in_one_command(here: Path) -> None:
    policies = ("static, max_batch_size: 4", "dynamic, max_batch_size: 4, max_wait: 50 ms", "continuous")
    options = [part for policy in policies for part in ("--vary", f"engine.batching={{kind: {policy}}}")]
    lines = pagecast("simulate", "tiny.yaml", "--no-plots", *options).stdout.splitlines()
    for place, policy in enumerate(policies, 1):
        assert f"[{place}] {policy}" in lines
        (row,) = [line for line in lines if line.startswith(f"[{place}] {policy[:7]}") and "%" in line]
        assert len(row.split()) > 5, "a row of numbers"
    assert len(list((here / "results" / "tiny").iterdir())) == 3


@pytest.mark.usefixtures("here")
def test_variations_of_different_keys_are_named_by_them() -> None:
    changes = ("--vary", "seed=1", "--vary", "engine.block_size=32")
    lines = pagecast("simulate", "tiny.yaml", "--no-plots", *changes).stdout.splitlines()
    assert {"[1] seed=1", "[2] engine.block_size=32"} <= set(lines)


@pytest.mark.usefixtures("here")
def test_every_variation_is_checked_before_the_first_is_run() -> None:
    wrong = ("--vary", "engine.block_size=0", "--vary", "engine.max_num_seqs=-1")
    message = refused("simulate", "tiny.yaml", "--vary", "engine.block_size=32", *wrong)
    assert "engine.block_size: must be at least 1" in message
    assert "engine.max_num_seqs: must be at least 1" in message


def test_a_terminal_sees_progress_and_an_interrupted_run_leaves_nothing(here: Path) -> None:
    (here / "long.yaml").write_text(EXPERIMENT.replace("num_requests: 30", "num_requests: 200000"))
    ours, theirs = pty.openpty()
    command = [*COMMAND, "simulate", "long.yaml"]
    with (
        _interruptible_children(),
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs) as process,
    ):
        os.close(theirs)
        try:
            seen = _read_until(b" s simulated", ours)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    os.close(ours)
    assert b"of 200,000 requests" in seen
    assert (process.returncode, output) == (INTERRUPTED, b"")
    assert not (here / "results").exists()


@contextmanager
def _interruptible_children() -> Iterator[None]:
    """What is started in here can be interrupted, even if whoever started the tests cannot."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _read_until(text: bytes, terminal: int) -> bytes:
    """What a terminal shows up to a text; fails where its other side ends before."""
    seen = b""
    while text not in seen:
        try:
            seen += os.read(terminal, 1000)
        except OSError:
            pytest.fail(f"ended without {text!r}: {seen.decode()}")
    return seen


def test_an_interruption_is_told_in_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(simulate, "record_experiment", interrupted)
    result = pagecast("simulate", "tiny.yaml", code=INTERRUPTED)
    assert result.output == "interrupted: no run is left half-written\n"
    assert not (here / "results").exists()


def test_a_fault_of_our_own_keeps_its_traceback(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(simulate, "record_experiment", broken)
    with pytest.raises(ZeroDivisionError):
        pagecast("simulate", "tiny.yaml")
    assert not (here / "results").exists()


# check, schema, conform, compare --------------------------------------------------------------------


def test_check_runs_nothing_and_says_what_it_comes_to(here: Path) -> None:
    output = pagecast("check", "tiny.yaml").stdout
    assert "tiny.yaml: fine" in output
    assert "blocks of 16 tokens" in output
    assert "30 requests" in output
    assert not (here / "results").exists()


def test_check_goes_on_after_a_file_that_is_wrong(here: Path) -> None:
    (here / "bad.yaml").write_text("name: only\n")
    result = pagecast("check", "bad.yaml", "tiny.yaml", "nowhere.yaml", code=BAD_INPUT)
    assert "tiny.yaml: fine" in result.stdout
    assert "bad.yaml:1:1: model" in result.stderr
    assert "nowhere.yaml: cannot be read" in result.stderr


@pytest.mark.usefixtures("here")
def test_check_counts_the_prompts_that_the_engine_will_refuse() -> None:
    output = pagecast("check", "tiny.yaml", "--set", "engine.max_model_len=100").stdout
    assert "with prompts that max_model_len 100 refuses" in output
    assert "refuses" not in pagecast("check", "tiny.yaml").stdout


def test_the_shipped_configurations_are_fine() -> None:
    configs = [str(path) for path in (REPO / "configs").glob("*.yaml") if "conv" not in path.name]
    assert pagecast("check", *configs).output.count(": fine") == len(configs) > 0


def test_schema_is_a_json_schema() -> None:
    schema = json.loads(pagecast("schema").stdout)
    assert schema["type"] == "object"
    assert "workload" in schema["properties"]


def test_conform_ends_with_0_where_all_agrees_and_1_where_not(here: Path) -> None:
    path = str(write_recording(here))
    assert "stub_tiny: 3 steps agree at level 3" in pagecast("conform", path).stdout
    log = Path(path).with_suffix(".jsonl")
    log.write_text(log.read_text().replace('"cached_blocks": 1', '"cached_blocks": 7'))
    output = pagecast("conform", path, code=THE_ANSWER_IS_NO).stdout
    assert "line 2: update of step 0: cached_blocks" in output
    assert "expected 7" in output
    assert "got      1" in output
    pagecast("conform", path, "--level", "1")


@pytest.mark.usefixtures("here")
def test_compare_says_which_settings_differ() -> None:
    pagecast("simulate", "tiny.yaml", "--no-plots", "--out", "a")
    pagecast("simulate", "tiny.yaml", "--no-plots", "--out", "b", "--set", "engine.max_num_seqs=2")
    assert "engine.max_num_seqs" in pagecast("compare", "a", "b").stdout


def test_the_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert pagecast("--version").stdout == f"pagecast {version('pagecast')}, {running_code()}\n"


def test_explain_waste_prints_four_shares_and_draws_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "waste"
    printed = pagecast(
        "explain-waste", str(REPO / "configs" / "chat_l40s.yaml"), "--at", "20 s", "--out", str(out)
    )
    for word in ("tokens", "reserved", "internal", "external", "max", "pow2", "oracle", "paged"):
        assert word in printed.stdout
    assert (tmp_path / "deep" / "waste.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "deep" / "waste.svg").is_file()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--at", "5"), "has no unit"),
        (("--at", "99999 s"), "nothing runs"),
        (("--reservation", "half"), "must be one of max, pow2, oracle"),
        (
            ("--set", "engine={max_model_len: 100000, num_gpu_blocks_override: 8100}"),
            "does not fit the largest chunk",
        ),
    ],
)
def test_explain_waste_tells_what_is_wrong_and_draws_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: tuple[str, str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)  # nobody else writes here meanwhile
    told = refused(
        "explain-waste", str(REPO / "configs" / "chat_l40s.yaml"), *option, "--out", str(tmp_path / "waste")
    )
    assert says in told
    assert not list(tmp_path.iterdir())
