"""The edges of what can be asked: exit code 2, a message with its place, nothing half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import sim.cli.sensitivity
import sim.cli.waste  # noqa: F401  # so that their parts can be taken away
from sim.cli.app import BAD_INPUT, INTERRUPTED
from tests.command_line import COMMAND, EXPERIMENT, pagecast, refused, refused_by_a_process

pytestmark = pytest.mark.usefixtures("here")
TRACED = "model: llama-3-8b\nhardware: a100-80gb-sxm\nworkload: {{kind: trace, path: {}, format: {}}}\n"
DEEP = "[" * 100_000 + "]" * 100_000
LONG = "9" * 5000


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with one good experiment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT)
    return tmp_path


# Text -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "place"),
    [
        ('note: "\\UFFFFFFFF"\n', "bad.yaml:1:10: not YAML: a character code"),
        ('note: "\\UFFFFFF"\n', "bad.yaml:1:10: not YAML"),
        ('note: "\\uD800"\n', "bad.yaml:1:7: note: half a character"),
        (f"%YAML {LONG}.1\n---\n", "bad.yaml:1:7: not YAML: a character code or a version"),
        ("%YAML 99999999999.1\n---\n", "bad.yaml:1:1: not YAML: found incompatible YAML document"),
        ("%YAML 1.x\n---\n", "bad.yaml:1:9: not YAML"),
    ],
)
def test_characters_and_versions_that_do_not_exist_are_told_by_their_place(head: str, place: str) -> None:
    Path("bad.yaml").write_text(head + EXPERIMENT)
    assert place in refused("check", "bad.yaml")


@pytest.mark.parametrize(
    "arguments", [("check", "tiny\udcff.yaml"), ("simulate", "tiny.yaml", "--out", "r\udcff")]
)
def test_names_that_are_not_utf8_are_refused(arguments: tuple[str, ...]) -> None:
    Path("tiny.yaml").rename(arguments[1])
    told = refused_by_a_process(*arguments)
    assert "\\udcff" in told
    assert "is not UTF-8" in told


def test_a_folder_whose_name_is_not_utf8_is_refused_as_a_place_for_runs(here: Path) -> None:
    folder = here / "f\udcff"
    folder.mkdir()
    (folder / "tiny.yaml").write_text(EXPERIMENT)
    script = f"import os; os.chdir({str(folder)!r}); from sim.cli import main; main()"
    command = [sys.executable, "-c", script, "simulate", "tiny.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (BAD_INPUT, "")
    assert "its name is not UTF-8" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["tiny.yaml"]


# Files of others ------------------------------------------------------------------------------------


def _row(**changes: object) -> str:
    return json.dumps({"timestamp": 0, "input_length": 1, "output_length": 1} | changes)


HEADER = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
TRACES = {
    "deep JSON": ("mooncake", f"{_row()}\n{DEEP}\n", "t:2: no valid JSON: nested too deep (column 100000)"),
    "a long integer in JSON": (
        "mooncake",
        f'{_row()}\n{{"a": "{LONG}", "timestamp": {LONG}}}\n',
        "t:2: no valid JSON: an integer of thousands of digits (column 5024)",
    ),
    "a request_id twice": (
        "mooncake",
        f"{_row(request_id='a')}\n{_row(request_id='b')}\n{_row(request_id='a')}\n",
        "t:3: request_id: a is that of line 1: each must be there once",
    ),
    "an underscore in a number": (
        "vidur",
        f"{HEADER}0,1_0,5\n",
        "t:2: num_prefill_tokens: must be a number, not '1_0'",
    ),
    "digits of another script": (
        "vidur",
        f"{HEADER}0,\u0663,5\n",
        "t:2: num_prefill_tokens: must be a number",
    ),
    "an underscore in a JSON text": (
        "mooncake",
        _row(input_length="1_0"),
        "t:1: input_length: must be a number",
    ),
    "a long CSV field": (
        "vidur",
        f"{HEADER}0,1,5\n0,{'1' * 140_000},5\n",
        "t:3: no valid CSV: field larger than",
    ),
    "a long CSV header": ("vidur", f"{'a' * 140_000},b\n", "t:1: no valid CSV: field larger than"),
    "stamps 10,000 years apart": (
        "azure",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n0001-01-01 00:00:00,1,1\n9999-01-01 00:00:00,1,1\n",
        "t:3: this request comes 10,005 years after the first one",
    ),
}


@pytest.mark.parametrize("what", TRACES)
def test_edges_of_a_trace_are_told_by_their_line(what: str) -> None:
    kind, text, place = TRACES[what]
    Path("t").write_text(text, encoding="utf-8")
    Path("traced.yaml").write_text(TRACED.format("./t", kind))
    assert place in refused("check", "traced.yaml")


@pytest.mark.parametrize("text", [DEEP, f'{{"a": {LONG}}}'])
@pytest.mark.parametrize(
    "name", ["hf", "conform", "accepted", "bench", "calibration", "environment", "record"]
)
def test_json_beyond_what_python_reads_is_told_by_its_place(name: str, text: str, here: Path) -> None:
    folder = here / "folder"
    folder.mkdir()
    for part in ("about", "environment", "summary", "record", "config"):
        (folder / f"{part}.json").write_text("{}" if part != name and part != "config" else text)
    (folder / "config.yaml").write_text("name: run\n")
    Path("bad.json").write_text(text)
    recorded = "speculation={proposer: ngram, acceptance: {kind: recorded, path: bad.json}}"
    arguments = {
        "hf": ("check", "tiny.yaml", "--set", "model={hf_config: folder}"),
        "conform": ("conform", "bad.json"),
        "accepted": ("simulate", "tiny.yaml", "--set", recorded),
        "bench": ("import-bench", "bad.json"),
        "calibration": ("simulate", "tiny.yaml", "--set", "step_time={calibration: folder}"),
    }.get(name, ("compare", "folder", "folder"))
    if name == "calibration":
        (folder / "calibration.json").write_text(text)
    told = refused(*arguments)
    assert "json" in told
    assert (
        "nested too deep" in told or "integer of thousands of digits" in told or name in ("summary", "record")
    )


@pytest.mark.parametrize("number", ["1_0", "\u0663"])
def test_what_is_no_number_is_none_in_tables_of_steps(number: str) -> None:
    Path("t.csv").write_text(f"m,n,k,latency_ms\n16,16,16,{number}\n", encoding="utf-8")
    arguments = ("fit", "t.csv", "--hardware", "h100-sxm", "--out", "o.yaml")
    assert "t.csv:2: latency_ms: must be a number" in refused(*arguments)


# Standard output, and interrupts ----------------------------------------------------------------------


def _ended(script: str, **streams: object) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", script, COMMAND[0], *COMMAND]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **streams)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(
    "arguments", ["check tiny.yaml", "schema", "--help", "--version", "simulate tiny.yaml --no-plots"]
)
@pytest.mark.parametrize(
    ("script", "why"),
    [
        ('"$@" {} >/dev/full', "standard output: cannot be written: No space left on device"),
        ('"$@" {} >&-', "standard output: is closed"),
        ('set -o pipefail; "$@" {} | true', "standard output: cannot be written: Broken pipe"),
    ],
)
def test_an_output_that_cannot_be_written_is_told_in_a_line(arguments: str, script: str, why: str) -> None:
    done = _ended(script.format(arguments))
    if "Broken pipe" in why and not done.stderr:
        return  # it was written before anybody had closed the pipe
    assert (done.returncode, done.stderr.count("\n")) == (BAD_INPUT, 1), done.stderr
    assert why in done.stderr


def test_without_standard_error_a_command_works_as_ever() -> None:
    done = _ended('"$@" check tiny.yaml 2>&-', stdout=subprocess.PIPE)
    assert done.returncode == 0
    assert done.stdout.startswith("tiny.yaml: fine")


@pytest.mark.parametrize("module", ["typer", "pydantic", "numpy", "sim.cli.engine_commands"])
def test_an_interruption_while_modules_are_loaded_is_told_in_a_line(module: str) -> None:
    script = f"""
import os, signal, sys
class Interrupts:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupts())
from sim.cli import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, "check", "tiny.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == INTERRUPTED, done.stderr
    assert done.stderr.startswith("interrupted")
    assert done.stderr.count("\n") == 1


# What is to be written --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("tiny.yaml/x", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("folder", "is a folder"),
        ("deep/tiny.yaml/x", "tiny.yaml"),
    ],
)
@pytest.mark.parametrize("command", ["explain-waste", "sensitivity"])
def test_a_file_that_cannot_be_written_is_told_before_the_simulation(
    command: str, out: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("folder", "folder.svg", "deep"):
        Path(name).mkdir()
    Path("deep", "tiny.yaml").write_text("a file")
    monkeypatch.delattr("sim.cli.sensitivity.simulate", raising=False)
    monkeypatch.delattr("sim.cli.waste.core_at", raising=False)
    assert why in refused(command, "tiny.yaml", "--out", out)


# Times and sizes --------------------------------------------------------------------------------------

FAR_DELAY = json.dumps({"session_id": "a", "delay": 3.1e12, "input_length": 5, "output_length": 4})


@pytest.mark.parametrize(
    "change",
    [
        "workload.arrivals={kind: closed_loop, concurrency: 1, think_time: 1e6 h}",
        "step_time={target: 1e6 h}",
        "workload={kind: trace, path: far.jsonl, format: mooncake}",
    ],
)
def test_a_simulation_of_more_time_than_can_be_told_is_refused(change: str) -> None:
    first = json.dumps({"session_id": "a", "timestamp": 0, "input_length": 5, "output_length": 4})
    Path("far.jsonl").write_text("\n".join([first, *[FAR_DELAY] * 4]))
    told = refused("simulate", "tiny.yaml", "--set", change, "--out", "run")
    assert told.startswith("tiny.yaml: more than 146 years pass")


def test_so_is_one_that_is_only_looked_at() -> None:
    drawn = "workload.arrivals={kind: closed_loop, concurrency: 1, think_time: 1e6 h}"
    told = refused("explain-waste", "tiny.yaml", "--set", drawn, "--at", "1e6 h")
    assert "nothing runs at" in told
    steps = "step_time={target: 1e6 h}"
    told = refused("sensitivity", "tiny.yaml", "--set", drawn)
    assert told.startswith("tiny.yaml: more than 146 years pass")
    assert "step_time" in refused("sensitivity", "tiny.yaml", "--set", steps)


def test_a_rate_scale_that_stretches_a_trace_over_centuries_is_refused() -> None:
    Path("t").write_text(f"{HEADER}0,1,5\n1000,1,5\n")
    Path("traced.yaml").write_text(TRACED.format("./t", "vidur"))
    assert "rate_scale 1e-11 stretches it over more than a century" in refused(
        "check", "traced.yaml", "--set", "workload.rate_scale=1e-11"
    )
    drawn = "workload.arrivals={kind: constant, rate: 1e-3 /s}"
    changes = ("--set", drawn, "--set", "workload.rate_scale=1e-11")
    assert "rate_scale 1e-11 stretches" in refused("check", "traced.yaml", *changes)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        (("engine.num_gpu_blocks_override=1e9",), "engine.num_gpu_blocks_override: 999,999,999 KV blocks"),
        (("offload={space: 1000000 TiB}",), "offload.space: 524,288,000,000 KV blocks"),
        (("offload={space: 1 GiB, num_blocks: 1e9}",), "offload.num_blocks: 1,000,000,000 KV blocks"),
        (
            ("engine.scheduler=vllm-v0", "swap={space: 1000000 TiB}"),
            "swap.space: 524,288,000,000 KV blocks",
        ),
        (("cluster.replicas=10000",), "engine.block_size: "),
        (("workload.num_samples=1e9",), "workload.num_samples: 1,000,000,000 are more than"),
        (
            ("workload.num_requests=1e6", "workload.num_samples=11"),
            "workload.num_samples: 1,000,000 requests",
        ),
    ],
)
def test_sizes_that_cannot_be_held_are_told_by_their_place(changes: tuple[str, ...], place: str) -> None:
    told = refused("check", "tiny.yaml", *[part for change in changes for part in ("--set", change)])
    assert place in told.replace("--set ", "").replace("offload: offload", "offload")


def test_priorities_that_nobody_looks_at_are_told() -> None:
    given = ("--set", "workload.priorities=[0, 1]")
    told = pagecast("check", "tiny.yaml", *given).stderr.replace("\n", " ")
    assert "workload.priorities are ignored: engine.scheduling_policy is fcfs" in told
    chosen = ("--set", "engine.scheduling_policy=priority")
    assert "priorities" not in pagecast("check", "tiny.yaml", *given, *chosen).stderr
