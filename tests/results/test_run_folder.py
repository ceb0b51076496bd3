"""Run folders: whole or absent, equal when read back, the same bytes for the same run, clear when damaged."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sim.results.whole_folder
from sim.errors import ConfigError
from sim.metrics.summary import Identity, Slo, summarize
from sim.record.run_record import REQUEST_COLUMNS, RunRecord, RunRecordError
from sim.report.page import draw_run
from sim.report.tables import comparison_table
from sim.results.bench_file import Traffic
from sim.results.compare import compare_runs
from sim.results.run_folder import Run, dump_summary, load_run, unique_run_name, write_run
from sim.results.whole_folder import WholeFolder
from tests.records import MS, S, Served, make_record, toy_run

CONFIG = {"name": "toy", "seed": 7, "engine": {"block_size": 16, "policy": "off", "ratio": 1e3}}
STARTED = "2026-01-02T03:04:05.678+00:00"
TRAFFIC = Traffic(4.0)


def make_run(record: RunRecord | None = None, *, started: str = STARTED, cpu_s: float = 0.5) -> Run:
    record = record or toy_run(40, 4.0)
    summary = summarize(record, Slo(ttft_ns=100 * MS, e2el_ns=2 * S), Identity("toy", "llama-3-8b", 7))
    return Run(CONFIG, record, summary, {"started": started, "simulation_cpu_s": cpu_s})


def write(folder: Path, run: Run | None = None) -> Path:
    """Without pictures, which take most of the time of a small run."""
    return write_run(folder, run or make_run(), TRAFFIC)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def message_of(error: pytest.ExceptionInfo[ConfigError]) -> str:
    return str(error.value)


def test_a_run_reads_back_equal(tmp_path: Path) -> None:
    run = make_run()
    back = load_run(write(tmp_path / "toy" / "first", run))
    assert back.config == CONFIG
    assert back.summary == run.summary
    assert back.environment == run.environment
    assert back.record.counters == run.record.counters
    assert (back.record.num_blocks, back.record.block_size, back.record.cpu_s) == (12_000, 4, 0.5)
    for table in ("requests", "steps"):
        for name, column in getattr(run.record, table).items():
            found = getattr(back.record, table)[name]
            assert found.dtype == column.dtype
            np.testing.assert_array_equal(found, column)
    np.testing.assert_array_equal(back.record.token_times, run.record.token_times)
    np.testing.assert_array_equal(back.record.token_offsets, run.record.token_offsets)
    np.testing.assert_array_equal(back.record.stream_request, run.record.stream_request)


def test_a_run_with_failures_and_nothing_else_reads_back(tmp_path: Path) -> None:
    record = make_record([Served(1, None, (), reason="rejected", finished_ms=1)])
    back = load_run(write(tmp_path / "run", make_run(record)))
    assert np.isnat(back.record.requests["first_token"][0])
    assert back.summary.values["mean_ttft_ms"] is None


def test_times_are_stored_as_times(tmp_path: Path) -> None:
    folder = write(tmp_path / "run")
    with np.load(folder / "requests.npz") as table:
        assert list(table.files) == list(REQUEST_COLUMNS)
        assert table["arrival"].dtype == np.dtype("timedelta64[ns]")
    with np.load(folder / "tokens.npz") as table:
        assert table["token_times"].dtype == np.dtype("timedelta64[ns]")


def test_the_same_run_gives_the_same_bytes_in_all_files_but_the_two_that_tell_the_time(
    tmp_path: Path,
) -> None:
    first = bytes_of(write_run(tmp_path / "first", make_run(), TRAFFIC, draw=draw_run))
    later = make_run(started="2027-01-01T00:00:00+00:00", cpu_s=0.75)
    second = bytes_of(write_run(tmp_path / "second", later, TRAFFIC, draw=draw_run))
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} == {"environment.json", "bench.json"}
    one, two = (json.loads(files["bench.json"]) for files in (first, second))
    assert {key for key in one if one[key] != two[key]} == {"date"}


def test_a_fixed_date_makes_the_vllm_file_the_same_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    folder = write(tmp_path / "run")
    assert json.loads((folder / "bench.json").read_text())["date"] == "19700102-000000"


def test_an_existing_run_is_never_overwritten(tmp_path: Path) -> None:
    folder = write(tmp_path / "run")
    before = bytes_of(folder)
    with pytest.raises(ConfigError, match="exists already"):
        write(folder, make_run(toy_run(10, 1.0)))
    assert bytes_of(folder) == before


def test_a_run_that_dies_while_it_is_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sim.results.whole_folder, "_flush", die)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "toy" / "run")
    assert list((tmp_path / "toy").iterdir()) == []


def test_until_it_is_whole_a_run_has_a_hidden_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        sim.results.whole_folder, "_flush", lambda *_: seen.extend(p.name for p in tmp_path.iterdir())
    )
    write(tmp_path / "run")
    assert len(seen) == 1
    assert seen[0].startswith(".run.partial")


def test_a_run_appears_by_being_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
        write(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_not_lost_when_its_name_is_taken_meanwhile(tmp_path: Path) -> None:
    first, second = WholeFolder(tmp_path / "run"), WholeFolder(tmp_path / "run")
    with first as one, second as other:
        (one / "whose").write_text("first")
        (other / "whose").write_text("second")
    assert (first.folder, second.folder) == (tmp_path / "run-2", tmp_path / "run")
    for writing, whose in ((first, "first"), (second, "second")):
        assert (writing.folder / "whose").read_text() == whose
    assert len(list(tmp_path.iterdir())) == 2


def test_runs_written_at_once_all_survive(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: _writes_after(tmp_path / "run", 0.05), range(8)))
    assert sorted(folders) == sorted(tmp_path.iterdir())
    assert len(set(folders)) == 8


def _writes_after(folder: Path, seconds: float) -> Path:
    writing = WholeFolder(folder)
    with writing as partial:
        (partial / "content").write_text("whole")
        time.sleep(seconds)
    return writing.folder


def test_what_others_are_writing_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / f".run.partial-{os.getpid()}"
    theirs.mkdir()
    (theirs / "half").write_text("theirs")
    with WholeFolder(tmp_path / "run") as mine, pytest.raises(RuntimeError), WholeFolder(tmp_path / "run"):
        raise RuntimeError
    assert (theirs / "half").read_text() == "theirs"
    assert sorted(path.name for path in tmp_path.iterdir()) == [theirs.name, "run"]
    assert not mine.exists()


@pytest.mark.parametrize("is_linked", [False, True])
def test_an_empty_folder_is_taken_over(tmp_path: Path, *, is_linked: bool) -> None:
    (tmp_path / "empty").mkdir()
    folder = tmp_path / "empty"
    if is_linked:
        folder = tmp_path / "link"
        folder.symlink_to("empty")
    assert write(folder) == folder
    assert load_run(tmp_path / "empty").config == CONFIG


def test_a_long_name_is_kept_whole_and_shortened_only_to_be_told_apart(tmp_path: Path) -> None:
    name = "\u00e4" * 125
    with WholeFolder(tmp_path / name) as one, WholeFolder(tmp_path / name) as other:
        (one / "content").touch()
        (other / "content").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["\u00e4" * 100 + "-2", name]


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be written"):
        write(tmp_path / "file" / "run")


@pytest.mark.parametrize(
    "name",
    [
        "requests.npz",
        "steps.npz",
        "tokens.npz",
        "record.json",
        "summary.json",
        "environment.json",
        "config.yaml",
    ],
)
def test_a_missing_or_cut_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "run")
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2] if name != "config.yaml" else b"name: [")
    with pytest.raises(ConfigError) as error:
        load_run(folder)
    assert name in message_of(error)
    (folder / name).unlink()
    with pytest.raises(ConfigError) as error:
        load_run(folder)
    assert name in message_of(error)


def test_a_flipped_bit_in_a_table_is_found(tmp_path: Path) -> None:
    folder = write(tmp_path / "run")
    damaged = bytearray((folder / "steps.npz").read_bytes())
    damaged[len(damaged) // 3] ^= 0x10
    (folder / "steps.npz").write_bytes(damaged)
    with pytest.raises(ConfigError, match=r"steps\.npz: is damaged"):
        load_run(folder)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "run")
    with np.load(folder / "steps.npz") as table:
        columns = {name: table[name] for name in table.files if name != "used_blocks"}
    np.savez(folder / "steps.npz", **columns)
    with pytest.raises(ConfigError, match="steps: missing column used_blocks"):
        load_run(folder)


def test_a_pickle_in_a_table_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "run")
    np.savez(folder / "steps.npz", step=np.array([{"any": "object"}], dtype=object))
    with pytest.raises(ConfigError, match=r"steps\.npz"):
        load_run(folder)


def test_a_summary_of_another_version_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "run")
    document = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(document | {"sim_schema_version": 99}))
    with pytest.raises(ConfigError, match="schema version 99, not 1"):
        load_run(folder)


def test_what_is_no_run_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"environment\.json: is missing"):
        load_run(tmp_path)


def test_summary_json_is_flat_numbers_with_definitions_and_never_nan() -> None:
    text = dump_summary(make_run(make_record([])).summary)
    assert "NaN" not in text
    document = json.loads(text)
    assert document["completed"] == 0
    assert document["mean_tpot_ms"] is None
    assert document["sim_definitions"]["ttft"]["unit"] == "ms"
    assert list(document)[:3] == ["completed", "failed", "duration"]


def test_run_names_tell_the_time_and_the_configuration() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    name = unique_run_name(CONFIG, now)
    assert name.startswith("20260102T030405Z-")
    assert name == unique_run_name(dict(reversed(CONFIG.items())), now)
    assert name != unique_run_name(CONFIG | {"seed": 8}, now)


def test_goals_survive_the_summary() -> None:
    assert make_run().summary.slo == Slo(ttft_ns=100 * MS, e2el_ns=2 * S)


def broken(record: RunRecord, **changes: Any) -> RunRecord:
    kept: dict[str, Any] = {field.name: getattr(record, field.name) for field in fields(RunRecord)}
    return RunRecord(**(kept | changes))


def test_records_that_break_their_rules_are_refused() -> None:
    record = toy_run(5, 4.0)
    requests, steps = dict(record.requests), dict(record.steps)
    without = {name: column for name, column in requests.items() if name != "arrival"}
    cases: dict[str, dict[str, Any]] = {
        "missing column arrival": {"requests": without},
        "is int32, not int64": {"steps": steps | {"step": steps["step"].astype(np.int32)}},
        "differ in length": {"steps": steps | {"end": steps["end"][:-1]}},
        "ends before it starts": {"steps": steps | {"end": steps["start"]}},
        "not in order": {"steps": {name: column[::-1] for name, column in steps.items()}},
        "ids do not ascend": {"requests": {name: column[::-1] for name, column in requests.items()}},
        "has no first_token": {
            "requests": requests | {"first_token": np.full_like(requests["arrival"], "NaT")}
        },
        "fall within a stream": {"token_times": record.token_times[::-1].copy()},
        "does not end at the number of tokens": {"token_times": record.token_times[:-1]},
        "names a request that is not there": {"stream_request": record.stream_request + 1},
        "counters: missing": {"counters": {}},
    }
    for message, changes in cases.items():
        with pytest.raises(RunRecordError, match=message):
            broken(record, **changes).check()


WRONG: list[Any] = [None, "x", [], {}, 1.5, True, -1, [1], {"a": 1}, 10**30]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_a_wrong_type_in_a_run_is_told_by_its_file_or_does_no_harm(tmp_path: Path, wrong: Any) -> None:
    """Whatever somebody wrote into a file: comparing ends with a `ConfigError`, or with a table."""
    good = load_run(write(tmp_path / "run"))
    for name in ("environment.json", "record.json", "summary.json"):
        document = json.loads((tmp_path / "run" / name).read_text())
        for key in [None, *document]:
            changed = wrong if key is None else document | {key: wrong}
            (tmp_path / "run" / name).write_text(json.dumps(changed))
            with suppress(ConfigError):
                found = load_run(tmp_path / "run")
                comparison_table(compare_runs([("good", good), ("wrong", found)]))
        (tmp_path / "run" / name).write_text(json.dumps(document))


@pytest.mark.parametrize("text", ["- a\n", "x\n", "1\n", "null\n", ""])
def test_a_configuration_without_keys_is_told(tmp_path: Path, text: str) -> None:
    write(tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml: is no experiment: it has no keys"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize("table", ["requests", "steps", "tokens"])
def test_columns_of_another_type_or_shape_are_told(tmp_path: Path, table: str) -> None:
    write(tmp_path / "run")
    path = tmp_path / "run" / f"{table}.npz"
    columns = dict(np.load(path))
    for name, column in columns.items():
        text = column.astype(str if column.dtype.kind != "U" else bytes)
        for wrong in (text, np.array(3), column[:, None], np.zeros(len(column), dtype=complex)):
            np.savez(path, **(columns | {name: wrong}))
            with pytest.raises(ConfigError, match=str(tmp_path / "run")):
                load_run(tmp_path / "run")
