"""Runs side by side: which settings differ, by how much the numbers do, and what to beware of."""

from __future__ import annotations

from typing import Any

import pytest

from sim.metrics.summary import Identity, Slo, summarize
from sim.record.run_record import RunRecord
from sim.results.compare import Row, compare_runs, differing_settings, flatten
from sim.results.run_folder import Run
from tests.records import Served, make_record, toy_run

CONFIG = {
    "name": "a",
    "seed": 1,
    "engine": {"block_size": 16, "batching": {"kind": "continuous"}},
    "workload": {"kind": "synthetic", "num_requests": 1},
}


def make_run(record: RunRecord, config: dict[str, Any] | None = None) -> Run:
    summary = summarize(record, Slo(), Identity("toy", "llama-3-8b", 1))
    return Run(config or CONFIG, record, summary, {})


def one_request(first_ms: float) -> Run:
    return make_run(make_record([Served(0, 0, ((first_ms, first_ms + 10),))]))


def test_numbers_are_set_against_the_first_run() -> None:
    comparison = compare_runs([("a", one_request(100)), ("b", one_request(150)), ("c", one_request(50))])
    row = comparison.row("mean_ttft_ms")
    assert row is not None
    assert row.values == (100, 150, 50)
    assert (row.difference(1), row.difference(2)) == (50, -50)
    assert (row.ratio(1), row.ratio(2)) == (1.5, 0.5)


def test_what_is_undefined_has_no_difference_and_no_ratio() -> None:
    assert Row("mean_ttft_ms", (None, 3.0)).difference(1) is None
    assert Row("mean_ttft_ms", (None, 3.0)).ratio(1) is None
    assert Row("sim_preemptions", (0, 3)).ratio(1) is None
    assert Row("sim_preemptions", (0, 3)).difference(1) == 3


def test_numbers_that_no_run_has_are_left_out() -> None:
    comparison = compare_runs([("a", one_request(100)), ("b", one_request(150))])
    assert comparison.row("request_goodput") is None
    assert comparison.row("completed") is not None


def test_settings_that_differ_are_named_by_their_path() -> None:
    other = {**CONFIG, "name": "b", "engine": {"block_size": 32, "batching": {"kind": "static", "size": 8}}}
    settings = differing_settings([CONFIG, other, CONFIG])
    assert [(setting.key, setting.values) for setting in settings] == [
        ("engine.block_size", ("16", "32", "16")),
        ("engine.batching.kind", ("continuous", "static", "continuous")),
        ("engine.batching.size", ("not set", "8", "not set")),
    ]


def test_nested_settings_become_dotted_keys() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": [2]}) == {"a.b.c": 1, "d": [2]}


def test_runs_of_the_same_requests_get_no_warning_and_others_do() -> None:
    same = compare_runs([("a", one_request(100)), ("b", one_request(150))])
    assert not [note for note in same.notes if "same requests" in note]
    other = make_run(make_record([Served(0, 0, ((5,),))]), {**CONFIG, "seed": 2})
    different = compare_runs([("a", one_request(100)), ("b", other)])
    assert "The runs did not serve the same requests (seed differ)." in different.notes


def test_the_warnings_of_each_run_are_repeated_with_its_number() -> None:
    calm, overloaded = make_run(toy_run(600, 2.0)), make_run(toy_run(600, 40.0))
    notes = compare_runs([("calm", calm), ("overloaded", overloaded)]).notes
    assert [note[:20] for note in notes if "queue grew" in note] == ["[2] The queue grew a"]
    assert [note for note in notes if "600 completed requests" in note and not note.startswith("[")]


def test_one_run_is_no_comparison() -> None:
    with pytest.raises(ValueError, match="at least two runs, not 1"):
        compare_runs([("a", one_request(1))])
