"""Bad input of every kind: exit code 2, a message that names the place, nothing written, no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_line import EXPERIMENT, pagecast, refused, refused_by_a_process

CATALOG = Path(__file__).resolve().parents[2] / "sim" / "catalog"
TRACE = """\
name: traced
model: llama-3-8b
hardware: a100-80gb-sxm
workload: {kind: trace, path: trace.csv, format: azure}
"""
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROW = "2023-11-16 18:15:46.6805900,374,44\n"

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with one good experiment and one that reads `trace.csv`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT)
    (tmp_path / "traced.yaml").write_text(TRACE)
    return tmp_path


def _changed(old: str, new: str) -> bytes:
    assert EXPERIMENT.count(old) == 1, f"{old} is not once in the experiment"
    return EXPERIMENT.replace(old, new).encode()


BAD_EXPERIMENTS: dict[str, tuple[bytes, str]] = {
    "unknown key": (
        _changed("max_model_len", "max_modle_len"),
        "bad.yaml:5:3: engine.max_modle_len: unknown",
    ),
    "missing unit": (_changed("20 /s", "20"), "bad.yaml:9:35: workload.arrivals.rate"),
    "negative rate": (_changed("20 /s", "-20 /s"), "bad.yaml:9:35: workload.arrivals.rate"),
    "not a number": (_changed("20 /s", ".nan"), "bad.yaml:9:35: workload.arrivals.rate"),
    "not a number, with a unit": (_changed("20 /s", "nan /s"), "bad.yaml:9:35: workload.arrivals.rate"),
    "infinite": (_changed("20 /s", "inf /s"), "bad.yaml:9:35: workload.arrivals.rate"),
    "not UTF-8": (EXPERIMENT.encode() + b"# \xff\n", "bad.yaml:13:3: is not UTF-8"),
    "huge integer": (_changed("num_requests: 30", f"num_requests: {'9' * 5000}"), "bad.yaml:8:17: workload"),
    "YAML bomb": (b"a: &a [x, x]\nb: &b [*a, *a]\n" + b"c: [*b, *b, *b]\n" * 4000, "bad.yaml:"),
    "deep nesting": (b"a: " + b"[" * 5000 + b"]" * 5000, "bad.yaml:"),
    "a tag that would build an object": (b"name: !!python/object/apply:os.mkdir [made]\n", "bad.yaml:1:7"),
    "duplicate key": (EXPERIMENT.encode() + b"name: twice\n", "bad.yaml:13:1: name"),
    "not YAML": (b"model: [llama\n", "bad.yaml:"),
    "a list": (b"- model\n", "bad.yaml:1:1"),
    "empty": (b"", "bad.yaml:1:1: model"),
    "a null byte in a path": (EXPERIMENT.encode() + b'results: {dir: "a\\0b"}\n', "embedded null byte"),
}


@pytest.mark.parametrize("what", BAD_EXPERIMENTS)
def test_a_bad_experiment_file_is_refused_with_its_place(what: str) -> None:
    content, place = BAD_EXPERIMENTS[what]
    Path("bad.yaml").write_bytes(content)
    assert place in refused("simulate", "bad.yaml")


@pytest.mark.parametrize(
    "what", ["unknown key", "huge integer", "a tag that would build an object", "not UTF-8"]
)
def test_the_command_itself_prints_no_traceback(what: str) -> None:
    content, place = BAD_EXPERIMENTS[what]
    Path("bad.yaml").write_bytes(content)
    assert place in refused_by_a_process("check", "bad.yaml")


def test_a_wrong_key_names_the_right_one() -> None:
    Path("bad.yaml").write_bytes(BAD_EXPERIMENTS["unknown key"][0])
    assert "did you mean 'max_model_len'" in refused("check", "bad.yaml")


def test_all_errors_of_a_file_come_at_once_in_the_order_of_the_file() -> None:
    text = (
        EXPERIMENT.replace("max_model_len", "max_modle_len").replace("20 /s", "20").replace("100 ms", "100")
    )
    Path("bad.yaml").write_text(text)
    places = [line.split(": ")[0] for line in refused("check", "bad.yaml").splitlines()]
    assert places == ["bad.yaml:5:3", "bad.yaml:9:35", "bad.yaml:12:13"]


BAD_TRACES: dict[str, tuple[bytes, str]] = {
    "missing column": (b"TIMESTAMP,ContextTokens\n2023-11-16 18:15:46,374\n", "trace.csv:1: missing column"),
    "row with a missing column": (f"{HEADER}{ROW}2023-11-16 18:15:47,5\n".encode(), "trace.csv:3:"),
    "not sorted": (
        f"{HEADER}{ROW}{ROW.replace('18:15', '17:15')}".encode(),
        "trace.csv:3: the trace is not sorted",
    ),
    "empty": (b"", "trace.csv: the trace is empty"),
    "header only": (HEADER.encode(), "trace.csv: the trace is empty"),
    "a word for a number": (f"{HEADER}{ROW.replace('374', 'many')}".encode(), "trace.csv:2: ContextTokens"),
    "a NaN": (f"{HEADER}{ROW.replace('374', 'nan')}".encode(), "trace.csv:2: ContextTokens"),
    "a negative number": (f"{HEADER}{ROW.replace('374', '-374')}".encode(), "trace.csv:2: ContextTokens"),
    "a huge number": (f"{HEADER}{ROW.replace('374', '9' * 5000)}".encode(), "trace.csv:2: ContextTokens"),
    "a bad stamp": (f"{HEADER}{ROW.replace('2023-11-16', 'yesterday')}".encode(), "trace.csv:2: TIMESTAMP"),
    "not UTF-8": (HEADER.encode() + b"\xff\xfe", "trace.csv: the trace is no UTF-8"),
    "a null byte": (HEADER.encode() + b"\0" + ROW.encode(), "trace.csv:2: "),
}


@pytest.mark.parametrize("what", BAD_TRACES)
@pytest.mark.parametrize("command", ["simulate", "check"])
def test_a_bad_trace_is_refused_with_its_line(command: str, what: str) -> None:
    content, place = BAD_TRACES[what]
    Path("trace.csv").write_bytes(content)
    assert place in refused(command, "traced.yaml")


def test_a_trace_that_is_not_there_is_named_in_the_experiment() -> None:
    assert "traced.yaml:4:31: workload.path: there is no file" in refused("simulate", "traced.yaml")


def test_a_request_that_can_never_fit_is_a_counted_rejection() -> None:
    Path("trace.csv").write_text(f"{HEADER}{ROW}2023-11-16 18:15:47,500000,44\n")
    document = json.loads(pagecast("simulate", "traced.yaml", "--json", "--no-plots").stdout)
    assert (document["completed"], document["failed"], document["sim_rejected"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("precious", "is there already"),
        ("dangling", "is there already"),
        ("tiny.yaml/run", "Not a directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_run_folder_that_cannot_be_made_is_refused_before_the_simulation(
    out: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("precious").mkdir()
    Path("precious", "run").write_text("kept")
    Path("dangling").symlink_to("nowhere")
    monkeypatch.delattr("sim.recording.simulate")
    assert why in refused("simulate", "tiny.yaml", "--out", out)
    assert Path("precious", "run").read_text() == "kept"


def test_a_run_that_cannot_be_written_after_all_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sim.results.run_folder.write_columns", full)
    assert "No space left on device" in refused("simulate", "tiny.yaml", "--out", "run")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("simulate", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
        (("simulate", "."), "cannot be read"),
        (("simulate", "tiny.yaml", "--set", "engine.block_size"), "is not key=value"),
        (
            ("simulate", "tiny.yaml", "--set", "engine.block_size=0"),
            "--set engine.block_size: must be at least 1",
        ),
        (("simulate", "tiny.yaml", "--vary", "seed=1", "--json"), "--vary"),
        (("simulate", "tiny.yaml", "--nonsense"), "--nonsense"),
        (("compare", "tiny.yaml"), "at least two"),
        (("compare", "nowhere", "nobody"), "nowhere"),
        (("conform", "tiny.yaml"), "cannot read the recorded trace"),
        (("conform", "tiny.yaml", "--level", "4"), "--level"),
        (("nonsense",), "nonsense"),
    ],
)
def test_wrong_use_is_told(arguments: tuple[str, ...], why: str) -> None:
    assert why in refused(*arguments)


DOES_NOT_SUIT: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "weight type that nobody knows": (
        _changed("engine:\n", "engine:\n  quantization: fp9\n"),
        (
            "bad.yaml:5:17: engine.quantization: the text 'fp9' is not one of none, fp8, int8, int4, awq,",
            "(did you mean 'fp8'?)",
        ),
    ),
    "KV element that nobody knows": (
        _changed("engine:\n", "engine:\n  kv_cache_dtype: fp6\n"),
        (
            "bad.yaml:5:19: engine.kv_cache_dtype: the text 'fp6' is not one of auto, fp16, bf16, fp8, int8",
            "(did you mean 'fp16'?)",
        ),
    ),
    "heads that do not divide": (
        EXPERIMENT.encode() + b"parallelism: {tensor_parallel_size: 3}\n",
        (
            "bad.yaml:13:37: parallelism.tensor_parallel_size: the 32 query and 8 KV heads of llama-3-8b",
            "do not divide over 3 GPUs: use one of 1, 2, 4, 8, 16, 32",
        ),
    ),
    "more stages than layers": (
        EXPERIMENT.encode() + b"parallelism: {pipeline_parallel_size: 33}\n",
        (
            "bad.yaml:13:39: parallelism.pipeline_parallel_size: the 32 layers",
            "make 32 stages at most, not 33",
        ),
    ),
    "model that does not fit": (
        _changed("llama-3-8b", "llama-3-70b"),
        (
            "bad.yaml:2:8: model: llama-3-70b does not fit a100-80gb-sxm: 141.1 GB of weights",
            "short by 67.31 GB (would do: tensor_parallel_size 2, or pipeline_parallel_size 2, or ",
            "or quantization int4, or hardware b200)",
        ),
    ),
    "impossible bandwidth": (
        _changed("a100-80gb-sxm", "./gpu.yaml"),
        ("gpu.yaml:4:19: memory_bandwidth: a bandwidth must be positive, not '-2039.0 GB/s'",),
    ),
    "bandwidth that no GPU has": (
        _changed("a100-80gb-sxm", "./fast.yaml"),
        ("fast.yaml:4:19: memory_bandwidth: 2.039e+09 GB/s is impossible for one GPU: expected",),
    ),
    "unit of something else": (
        _changed("a100-80gb-sxm", "./unit.yaml"),
        ("unit.yaml:4:19: memory_bandwidth: 'TFLOP/s' is a unit of compute rate, not of bandwidth",),
    ),
}


@pytest.mark.parametrize("what", DOES_NOT_SUIT)
def test_what_does_not_suit_model_or_gpu_is_refused_by_the_command(what: str) -> None:
    gpu = (CATALOG / "hardware" / "a100-80gb-sxm.yaml").read_text()
    Path("gpu.yaml").write_text(gpu.replace("value: 2039, unit: GB/s", "value: -2039, unit: GB/s"))
    Path("unit.yaml").write_text(gpu.replace("value: 2039, unit: GB/s", "value: 2039, unit: TFLOP/s"))
    Path("fast.yaml").write_text(gpu.replace("value: 2039, unit: GB/s", "value: 2039000000, unit: GB/s"))
    content, says = DOES_NOT_SUIT[what]
    Path("bad.yaml").write_bytes(content)
    message = refused("simulate", "bad.yaml", "--out", "run")
    assert [part for part in says if part not in message] == [], message


@pytest.mark.parametrize("what", ["weight type that nobody knows", "model that does not fit"])
def test_what_does_not_suit_is_refused_by_a_process_without_traceback(what: str) -> None:
    content, (place, *_) = DOES_NOT_SUIT[what]
    Path("bad.yaml").write_bytes(content)
    assert place in refused_by_a_process("simulate", "bad.yaml", "--out", "run")
