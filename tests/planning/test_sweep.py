"""A sweep: every point once, whoever simulates it; nothing that was done is lost; what is wrong is told."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from sim.errors import ConfigError
from sim.planning import point_run, workers
from sim.planning.point_run import Row, Task
from sim.planning.points import Axes
from sim.planning.sweep import Sweep, Swept, Where, run_sweep
from sim.recording import simulated
from tests.command_line import COMMAND, EXPERIMENT, pagecast, refused

AXES = Axes({"engine.block_size": [16, 32], "workload.arrivals.rate": "20 /s..80 /s log 3"})


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(EXPERIMENT, encoding="utf-8")
    return tmp_path


def swept(folder: str, *, where: Where | None = None, axes: Axes = AXES, **more: Any) -> Swept:
    return run_sweep(Sweep(Path("tiny.yaml"), (), axes, **more), Path(folder), where=where or Where())


def table(folder: str, name: str = "runs.csv") -> list[dict[str, str]]:
    with Path(folder, name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_a_run_has_the_numbers_of_that_very_experiment() -> None:
    swept("sweep", replications=2)
    rows = table("sweep")
    numbered = [(row["point"], row["replication"]) for row in rows]
    assert numbered == [(str(point), str(replication)) for point in range(6) for replication in (0, 1)]
    changes = ("--set", "engine.block_size=32", "--set", "workload.arrivals.rate=40 /s")
    pagecast("simulate", "tiny.yaml", *changes, "--out", "one", "--no-plots")
    alone = json.loads(Path("one", "summary.json").read_text(encoding="utf-8"))
    (row,) = [row for row in rows if (row["point"], row["replication"]) == ("4", "0")]
    assert (row["engine.block_size"], row["workload.arrivals.rate"]) == ("32", "40 /s")
    for key in ("median_ttft_ms", "p99_tpot_ms", "request_throughput", "completed"):
        assert float(row[key]) == alone[key]
    assert (row["source"], row["num_gpus"], row["error"]) == ("modelled", "1", "")
    points = table("sweep", "points.csv")
    assert all(float(point["mean_ttft_ms_low"]) < float(point["mean_ttft_ms"]) for point in points)


def test_one_process_and_a_pool_leave_the_same_bytes() -> None:
    swept("alone")
    swept("pool", where=Where(2))
    for name in ("runs.csv", "points.csv"):
        assert Path("alone", name).read_bytes() == Path("pool", name).read_bytes()


def test_replications_are_the_same_for_all_points() -> None:
    found = swept("sweep", replications=2, axes=Axes({"engine.block_size": [16, 32]}))
    seeds = [task.overrides[-1] for task, _ in found.rows]
    assert seeds[:2] == seeds[2:]
    assert len(set(seeds)) == 2


def test_a_second_session_simulates_only_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    swept("sweep")
    whole = Path("sweep", "runs.csv").read_bytes()
    lost = sorted(Path("sweep", "rows").iterdir())[:2]
    lost[0].unlink()
    lost[1].write_text('{"key": "half a r', encoding="utf-8")
    Path("sweep", "runs.csv").unlink()
    calls: list[object] = []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return simulated(*arguments)

    monkeypatch.setattr(point_run, "simulated", counted)
    swept("sweep")
    assert len(calls) == 2
    assert Path("sweep", "runs.csv").read_bytes() == whole


def test_shards_are_disjoint_and_their_folder_completes_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = swept("sweep", shard=(1, 2)), swept("sweep", shard=(2, 2))
    assert len(first.rows) == len(second.rows) == 3
    monkeypatch.setattr(point_run, "simulated", None)  # nothing is left to simulate
    swept("sweep")
    assert len(table("sweep")) == 6


def test_a_point_that_does_not_do_is_a_row_and_the_sweep_goes_on() -> None:
    found = swept("sweep", axes=Axes({"engine.max_model_len": [4096, 10**9]}))
    assert len(found.failed) == 1
    bad, good = sorted(table("sweep"), key=lambda row: row["error"] == "")
    assert "engine.max_model_len" in bad["error"]
    assert float(good["completed"]) == 30


def test_whole_runs_are_kept_when_asked_for() -> None:
    found = swept("sweep", axes=Axes({"engine.block_size": [16]}), keeps_runs=True)
    ((_, row),) = found.rows
    assert (Path("sweep", "runs", row.key) / "summary.json").is_file()


# Workers that die --------------------------------------------------------------------------------------


def _dies_at_first(task: Task) -> Row:
    """Kills its process when it first meets the second run, as whoever runs out of memory is killed."""
    mark = task.store / "died"
    if task.number == 1 and not mark.exists():
        mark.write_text("once", encoding="utf-8")
        os.kill(os.getpid(), signal.SIGKILL)
    return Row(str(task.number), "", "", 1, {})


def _always_dies(task: Task) -> Row:
    if task.number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return Row(str(task.number), "", "", 1, {})


def tasks(store: Path) -> list[Task]:
    return [Task(number, number, 0, Path("tiny.yaml"), (), store, None, "") for number in range(6)]


def test_the_pool_outlives_a_killed_worker(here: Path) -> None:
    rows = dict(workers.run_in_a_pool(tasks(here), 2, _dies_at_first))
    assert (here / "died").exists()
    assert sorted(row.key for row in rows.values()) == [str(number) for number in range(6)]


def test_a_run_that_kills_every_worker_is_given_up_and_the_others_are_not(here: Path) -> None:
    rows = {task.number: row for task, row in workers.run_in_a_pool(tasks(here), 2, _always_dies)}
    assert "died 3 times" in rows[1].error
    assert [number for number, row in sorted(rows.items()) if row.error] == [1]
    assert len(rows) == 6


def test_a_killed_driver_loses_nothing_that_was_done() -> None:
    asked = ("sweep", "tiny.yaml", "--grid", "seed=0..39 40", "--workers", "1", "--out")
    with subprocess.Popen([*COMMAND, *asked, "killed"], stdout=subprocess.DEVNULL) as process:
        while len(list(Path().glob("killed/rows/*.json"))) < 5:
            assert process.poll() is None, "it ended too early"
            time.sleep(0.01)
        process.kill()
    done = {path.name: path.read_bytes() for path in Path("killed", "rows").glob("*.json")}
    assert len(done) < 40
    pagecast(*asked, "killed")
    pagecast(*asked, "whole")
    assert Path("killed", "runs.csv").read_bytes() == Path("whole", "runs.csv").read_bytes()
    assert all(Path("killed", "rows", name).read_bytes() == content for name, content in done.items())


# What is wrong -----------------------------------------------------------------------------------------


def test_the_folder_of_another_sweep_is_refused() -> None:
    swept("sweep")
    with pytest.raises(ConfigError, match=r"folder of another sweep \(points differ\)"):
        swept("sweep", axes=Axes({"engine.block_size": [16]}))
    with pytest.raises(ConfigError, match="is no folder of a sweep"):
        swept(".")


def test_rows_of_other_code_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    swept("sweep")
    monkeypatch.setattr("sim.planning.sweep.code_version", lambda: "another")
    with pytest.raises(ConfigError, match="another version of the code"):
        swept("sweep")


def test_a_changed_input_file_is_another_run() -> None:
    trace = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.0,{},9\n2023-11-16 18:15:47.0,30,9\n"
    )
    Path("trace.csv").write_text(trace.format(50), encoding="utf-8")
    change = "workload={kind: trace, path: trace.csv, format: azure}"
    sweep = Sweep(Path("tiny.yaml"), (change,), Axes({"engine.block_size": [16]}))
    first = run_sweep(sweep, Path("sweep"))
    Path("trace.csv").write_text(trace.format(90), encoding="utf-8")
    os.utime("trace.csv", ns=(1, 1))
    second = run_sweep(sweep, Path("sweep"))
    assert first.rows[0][1].values["total_input_tokens"] == 80
    assert second.rows[0][1].values["total_input_tokens"] == 120


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "varies nothing"),
        (("--grid", "engine.block_sise=16,32"), "unknown key (did you mean 'block_size'?)"),
        (("--grid", "engine.block_size"), "is not KEY=A,B,C"),
        (("--grid", "engine.block_size="), "is not KEY=A,B,C"),
        (("--grid", "engine.block_size=16..4 3"), "must be below"),
        (("--grid", "workload.arrivals.rate=1 /s..9 3"), "and the upper one none"),
        (("--zip", "engine.block_size=16,32;engine.max_num_seqs=8"), "equally many values"),
        (("--grid", "seed=1,2", "--shard", "3/2"), "must be like 2/4"),
        (("--grid", "seed=1,2", "--keep", "all"), "must be runs"),
        (("--grid", "seed=1,2", "--out", "tiny.yaml"), "cannot be written"),
        (("--grid", "seed=1,2", "--out", "/proc/sweep"), "cannot be written"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_simulated(arguments: tuple[str, ...], said: str) -> None:
    assert said in " ".join(refused("sweep", "tiny.yaml", *arguments).split())


def test_a_section_of_the_file_says_what_is_swept_and_is_no_part_of_a_run() -> None:
    section = "sweep:\n  grid: {engine.block_size: [16, 32]}\n  replications: 2\n"
    Path("swept.yaml").write_text(EXPERIMENT + section, encoding="utf-8")
    told = pagecast("sweep", "swept.yaml", "--workers", "1", "--out", "sweep").stdout
    assert "4 of 4 have numbers" in told
    pagecast("simulate", "swept.yaml", "--out", "run", "--no-plots")
    assert "sweep" not in Path("run", "config.yaml").read_text(encoding="utf-8")


def test_ray_leaves_the_same_bytes_or_says_how_it_is_installed() -> None:
    if importlib.util.find_spec("ray") is None:
        with pytest.raises(ConfigError, match=r"pip install 'pagecast\[cluster\]'"):
            swept("ray", where=Where(2, is_ray=True))
    else:
        swept("alone")
        swept("ray", where=Where(2, is_ray=True))
        assert Path("alone", "runs.csv").read_bytes() == Path("ray", "runs.csv").read_bytes()


def test_parquet_says_what_csv_says() -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    swept("sweep")
    rows = parquet.read_table(Path("sweep", "runs.parquet")).to_pylist()
    assert [str(row["median_ttft_ms"]) for row in rows] == [row["median_ttft_ms"] for row in table("sweep")]
