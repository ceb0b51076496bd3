"""Experiment files with faults: all are reported at once, each with its place and a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.config import load_experiment
from sim.errors import ConfigError
from tests.config.experiment_files import MINIMAL, write


def faults(path: Path, *overrides: str) -> list[str]:
    """Everything reported of a file, its path cut off."""
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, overrides)
    return [str(problem).replace(f"{path}:", "") for problem in caught.value.problems]


MANY_FAULTS = """\
name: no spaces!
seed: 1.5
model: llama-3-8bb
hardwear: a100-80gb-sxm
engine:
  schedular: vllm-0.32
  block_size: "16"
  block_size: 32
  gpu_memory_utilization: .nan
  max_num_seqs: 99999999999999999999999
  enable_prefix_caching: off
  scheduling_policy: fcsf
  batching: {kind: dynamik, max_batch_size: 8}
cluster: 3
workload:
  kind: synthetic
  num_requests: -5
  arrivals: {kind: poisson, rate: 10}
  prompt_tokens: {kind: uniform, low: 10, high: 5}
  output_tokens: {tokens: 5}
  cancel_after: -1 s
slo: {ttft: 500 GB, tpott: 5 ms}
"""

REPORT = [
    "1:1: hardware: this key is required and missing",
    "1:7: name: must be letters, digits, '.', '_' and '-' only, not the text 'no spaces!'",
    "2:7: seed: must be a whole number, not 1.5",
    (
        "3:8: model: 'llama-3-8bb' is not in the catalogue (did you mean 'llama-3-8b'?); "
        "a path ending in .yaml names a file of your own"
    ),
    "4:1: hardwear: unknown key (did you mean 'hardware'?)",
    "6:3: engine.schedular: unknown key (did you mean 'scheduler'?)",
    "7:15: engine.block_size: must be a whole number, not the text '16'",
    "8:3: engine.block_size: duplicate key; first on line 7",
    "9:27: engine.gpu_memory_utilization: must be a finite number, not nan",
    "10:17: engine.max_num_seqs: the number 999999999999... (23 digits) is too large",
    "11:26: engine.enable_prefix_caching: must be true or false, not the text 'off'",
    ("12:22: engine.scheduling_policy: the text 'fcsf' is not one of fcfs, priority (did you mean 'fcfs'?)"),
    (
        "13:20: engine.batching.kind: the text 'dynamik' is not one of continuous, static, dynamic "
        "(did you mean 'dynamic'?)"
    ),
    "14:10: cluster: must be a mapping of keys, not 3",
    "17:17: workload.num_requests: must be at least 1, not -5",
    "18:35: workload.arrivals.rate: 10 has no unit: a rate is written like '10 /s' (/s, /min, /h)",
    "19:18: workload.prompt_tokens: lengths: need 1 <= low <= high <= 10000000, not low 10, high 5",
    (
        "20:3: workload.output_tokens.kind: this key is required and missing: one of fixed, uniform, "
        "normal, lognormal, gamma, zipf, empirical"
    ),
    "21:17: workload.cancel_after: a time must be positive, not '-1 s'",
    "22:13: slo.ttft: 'GB' is a unit of memory, not of time: write it like '50 ms'",
    "22:21: slo.tpott: unknown key (did you mean 'tpot'?)",
]


def test_all_faults_of_a_file_are_reported_at_once_in_file_order(tmp_path: Path) -> None:
    assert faults(write(tmp_path, MANY_FAULTS)) == REPORT


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("rate: 10 /s", "rate: 10", "rate: 10 has no unit: a rate is written like '10 /s'"),
        ("rate: 10 /s", "rate: -10 /s", "rate: a rate must be positive, not '-10 /s'"),
        ("rate: 10 /s", "rate: .nan", "rate: a rate must be finite, not nan"),
        ("rate: 10 /s", "rate: nan /s", "rate: a rate must be finite, not 'nan /s'"),
        ("rate: 10 /s", "rate: 10 ms", "rate: 'ms' is a unit of time, not of rate"),
        ("rate: 10 /s", "burstiness: 2", "burstiness: unknown key; known here: rate, kind"),
        ("num_requests: 10", "num_requests: 1e30", "num_requests: must be at most 1,000,000,000"),
        ("num_requests: 10", "num_requests: 100000000", "num_requests must be from 1 to 10,000,000"),
        ("num_requests: 10", "num_requests: true", "num_requests: must be a whole number, not true"),
        ("num_requests: 10", "num_requests:", "num_requests: must be a whole number, not nothing"),
        ("num_requests: 10", "num_requests: [1]", "num_requests: must be a whole number, not a list"),
        ("kind: synthetic", "kind: synthetik", "kind: the text 'synthetik' is not one of synthetic, trace"),
        ("kind: synthetic", "kinds: synthetic", "workload.kind: this key is required and missing"),
        ("model: llama-3-8b", "model: 8", "model: must be text, not 8"),
        ("{kind: fixed, tokens: 250}", "250", "output_tokens: must be a mapping of keys, not 250"),
    ],
)
def test_a_wrong_value_is_named_with_what_to_write(tmp_path: Path, old: str, new: str, fault: str) -> None:
    text = MINIMAL.replace(old, new)
    assert text != MINIMAL
    assert fault in "\n".join(faults(write(tmp_path, text)))


def test_faults_of_the_yaml_and_of_the_values_come_together(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: 007\n" + MINIMAL + "sed: 1\nmodel: twice\n")
    assert faults(path) == [
        "1:7: seed: 007 has a leading zero, octal to some: write 7, or quote",
        "10:1: sed: unknown key (did you mean 'seed'?)",
        "11:1: model: duplicate key; first on line 2",
    ]


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_lacks_everything(tmp_path: Path, text: str) -> None:
    assert [fault.split(": ")[1] for fault in faults(write(tmp_path, text))] == [
        "model",
        "hardware",
        "workload",
    ]


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    assert faults(write(tmp_path, "- 1\n- 2\n")) == ["1:1: must be a mapping of keys, not a list"]


def test_text_that_yaml_11_takes_for_a_boolean_or_a_number_stays_text(tmp_path: Path) -> None:
    assert load_experiment(write(tmp_path, MINIMAL + "name: off\n")).name == "off"
    assert faults(write(tmp_path, MINIMAL + "name: 1e3\n")) == ["9:7: name: must be text, not 1000.0"]


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:os.system [true]\n",
        "a: &a [1,2]\nb: &b [*a,*a]\n" + "".join(f"x{i}: &x{i} [{'*b,' * 9}]\n" for i in range(200)),
        "[" * 3000,
        "model: 'unfinished\n",
        "model: a\n---\nmodel: b\n",
    ],
)
def test_hostile_and_broken_texts_are_config_errors(tmp_path: Path, text: str) -> None:
    assert len(faults(write(tmp_path, text))) == 1


def test_a_file_that_is_not_utf8_is_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: \xe9t\xe9\n")
    assert faults(path) == ["1:7: is not UTF-8: byte 0xe9; save the file as UTF-8"]


def test_faults_of_a_hardware_file_of_ones_own_are_placed_in_that_file(tmp_path: Path) -> None:
    write(tmp_path, "name: mine\nmemory: {value: 80, unit: GiB, source: guess}\n", "mine.yaml")
    path = write(tmp_path, MINIMAL.replace("a100-80gb-sxm", "./mine.yaml") + "sed: 1\n")
    found = faults(path)
    assert found[0] == "9:1: sed: unknown key (did you mean 'seed'?)"
    mine = f"{tmp_path / 'mine.yaml'}:2:40: memory.source: the text 'guess' is not one of"
    assert any(fault.startswith(mine) for fault in found[1:])
