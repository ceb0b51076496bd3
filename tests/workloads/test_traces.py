"""Readers of public traces: every format's sample, the traps of real files, faults by line."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.core.engine import EngineConfig
from sim.core.kv_cache import CacheConfig
from sim.core.scheduler_config import SchedulerConfig
from sim.cost.fixed import FixedCost
from sim.simulation import run
from tests.strategies import examples
from workloads.arrivals import AllAtOnce, Arrivals, ClosedLoop, Constant, Poisson
from workloads.errors import WorkloadError
from workloads.generate import build
from workloads.servegen import ServeGenWorkload
from workloads.spec import Turn, Workload
from workloads.trace import TraceFormat, TraceWorkload, TurnRule

MS = 1_000_000
S = 1_000_000_000


def _read(path: Path, kind: str, **settings: Any) -> Workload:
    return build(TraceWorkload(path, TraceFormat(kind), **settings), seed=0)


def _lines(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_the_azure_trace_is_read_to_the_last_token_and_digit(traces_dir: Path) -> None:
    workload = _read(traces_dir / "azure_llm_2023_conv.csv", "azure")
    assert len(workload) == 19_366
    assert workload.total_prompt_tokens == 22_361_870
    assert workload.total_output_tokens == 4_088_665
    assert workload.arrival_ns[:2].tolist() == [0, 4_314_579_000]
    assert workload.arrival_ns[-1] == 3_501_721_937_000


def test_the_mooncake_trace_has_an_id_for_every_block(traces_dir: Path) -> None:
    workload = _read(traces_dir / "mooncake_fast25_conversation_first_half.jsonl", "mooncake")
    assert len(workload) == 5_606
    assert workload.hash_ids is not None
    for spec in workload.requests():
        assert len(spec.hash_ids) == -(-spec.prompt_tokens // 512)


def test_lengths_without_stamps_need_arrivals(traces_dir: Path) -> None:
    path = traces_dir / "sharegpt_8k_lengths_llama2_part1.csv"
    with pytest.raises(WorkloadError, match="set arrivals"):
        _read(path, "vidur")
    assert len(_read(path, "vidur", arrivals=Poisson(2.0))) == 15_365
    assert _read(path, "vidur", arrivals=ClosedLoop(8)).concurrency == 8


SAMPLES = [
    ("azure_lmm_2025_synthetic.csv", "azure", 2, [0, 1_500_000_000]),
    ("bailian_synthetic.jsonl", "bailian", 3, [0, 14_386_000_000]),
    ("burstgpt_v1_real.csv", "burstgpt", 3, [0, 40 * S]),
    ("burstgpt_v2_synthetic.csv", "burstgpt", 3, [0, 32_500_000_000]),
    ("llmservingsim_flat_and_agentic_synthetic.jsonl", "llmservingsim", 3, [0, 940_260]),
    ("mooncake_sessions_synthetic.jsonl", "mooncake", 3, [0, 0]),
    ("mooncake_toolagent_real.jsonl", "mooncake", 2, [0, 3_053 * MS]),
    ("agentic_mooncake_synthetic.jsonl", "mooncake", 4, [0, 0]),
    ("splitwise_sim_real.csv", "splitwise", 3, [0, 2 * S]),
    ("vidur_arrived_at_real.csv", "vidur", 50, [0, 4_314_579_000]),
]


@pytest.mark.parametrize(("name", "kind", "count", "first"), SAMPLES)
def test_every_sample_is_read(traces_dir: Path, name: str, kind: str, count: int, first: list[int]) -> None:
    workload = _read(traces_dir / "format_samples" / name, kind)
    assert len(workload) == count
    assert workload.arrival_ns[: len(first)].tolist() == first


def test_stamps_with_offsets_and_without_fractions(traces_dir: Path) -> None:
    path = traces_dir / "format_samples" / "azure_llm_2024_synthetic.csv"
    with pytest.raises(WorkloadError, match=r":4: the trace is not sorted.*sort: true"):
        _read(path, "azure")
    workload = _read(path, "azure", sort=True)
    assert workload.arrival_ns.tolist() == [0, 9_930_000, 17_335_000]
    assert workload.prompt_tokens.tolist() == [76, 2162, 2399]


def test_offsets_are_taken_into_account(tmp_path: Path) -> None:
    rows = (
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2024-05-10 02:00:00+02:00,1,1",
        "2024-05-10 00:00:01Z,1,1",
    )
    assert _read(_lines(tmp_path / "t.csv", *rows), "azure").arrival_ns.tolist() == [0, S]


def test_carriage_returns_and_a_missing_last_newline_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"arrived_at,num_prefill_tokens,num_decode_tokens\r\n1.5,10,2\r\n1.75,20,3")
    workload = _read(path, "vidur")
    assert workload.arrival_ns.tolist() == [0, 250 * MS]
    assert workload.output_tokens.tolist() == [2, 3]


def test_rows_without_output_are_dropped_and_counted_unless_kept(traces_dir: Path) -> None:
    path = traces_dir / "format_samples" / "burstgpt_v2_synthetic.csv"
    assert "1 requests" in _read(path, "burstgpt").notes[0]
    kept = _read(path, "burstgpt", keep_empty=True)
    assert (len(kept), int(kept.output_tokens.min())) == (4, 1)


def test_turns_of_a_session_wait_for_each_other(traces_dir: Path) -> None:
    samples = traces_dir / "format_samples"
    assert _read(samples / "mooncake_sessions_synthetic.jsonl", "mooncake").waits_for == {
        1: Turn((0,), 500 * MS)
    }
    agentic = _read(samples / "agentic_mooncake_synthetic.jsonl", "mooncake").waits_for
    assert agentic[2] == Turn((0,), 100 * MS)
    assert agentic[3].after == (1, 2)
    tools = _read(samples / "llmservingsim_flat_and_agentic_synthetic.jsonl", "llmservingsim").waits_for
    assert tools == {2: Turn((1,), 127_348_767)}


def test_bailian_turns_follow_their_stamps_unless_told_to_wait(traces_dir: Path) -> None:
    path = traces_dir / "format_samples" / "bailian_synthetic.jsonl"
    assert not _read(path, "bailian").waits_for
    assert _read(path, "bailian", turns=TurnRule.WAIT).waits_for[1] == Turn((0,), 14_386 * MS)


def _stamped(tmp_path: Path) -> Path:
    rows = [
        {"timestamp": 1000 * second, "input_length": 10 + second, "output_length": 1} for second in range(10)
    ]
    return _lines(tmp_path / "t.jsonl", *rows)


def test_window_limit_and_rate_scale_cut_and_squeeze(tmp_path: Path) -> None:
    path = _stamped(tmp_path)
    workload = _read(path, "mooncake", window_start_ns=2 * S, window_end_ns=8 * S, limit=3, rate_scale=4.0)
    assert workload.prompt_tokens.tolist() == [12, 13, 14]
    assert workload.arrival_ns.tolist() == [0, S // 4, S // 2]


def test_a_turn_whose_leader_is_cut_starts_at_its_own_stamp_or_goes(tmp_path: Path) -> None:
    rows = [
        {"session_id": "a", "timestamp": 0, "input_length": 5, "output_length": 1},
        {"session_id": "a", "timestamp": 4000, "input_length": 6, "output_length": 1},
        {"session_id": "a", "delay": 10, "input_length": 7, "output_length": 1},
        {"session_id": "b", "timestamp": 0, "input_length": 8, "output_length": 1},
        {"session_id": "b", "delay": 10, "input_length": 9, "output_length": 1},
    ]
    workload = _read(_lines(tmp_path / "t.jsonl", *rows), "mooncake", window_start_ns=2 * S)
    assert workload.prompt_tokens.tolist() == [6, 7]
    assert workload.waits_for == {1: Turn((0,), 10 * MS)}


def test_turns_of_a_dropped_request_wait_for_what_came_before_it(tmp_path: Path) -> None:
    rows = [
        {"session_id": "a", "timestamp": 1000, "input_length": 5, "output_length": 0},
        {"session_id": "a", "delay": 2000, "input_length": 6, "output_length": 1},
        {"session_id": "a", "delay": 10, "input_length": 7, "output_length": 0},
        {"session_id": "a", "delay": 20, "input_length": 8, "output_length": 1},
        {"session_id": "b", "timestamp": 1500, "input_length": 9, "output_length": 1},
    ]
    workload = _read(_lines(tmp_path / "t.jsonl", *rows), "mooncake")
    assert workload.prompt_tokens.tolist() == [9, 6, 8], "2 s after the dropped one is after b"
    assert workload.arrival_ns[:2].tolist() == [500 * MS, 2000 * MS]
    assert workload.waits_for == {2: Turn((1,), 30 * MS)}
    assert workload.left_out == {"without prompt or output": 2}
    assert "2 requests" in workload.notes[0]
    assert "2 turns that waited for one of them" in workload.notes[0]
    assert len(_read(tmp_path / "t.jsonl", "mooncake", keep_empty=True)) == 5


def test_turns_left_out_with_their_leaders_are_counted(tmp_path: Path) -> None:
    rows = [
        {"session_id": "b", "timestamp": 0, "input_length": 8, "output_length": 1},
        {"session_id": "b", "delay": 10, "input_length": 9, "output_length": 1},
        {"session_id": "b", "delay": 10, "input_length": 9, "output_length": 1},
        {"timestamp": 3000, "input_length": 7, "output_length": 1},
    ]
    workload = _read(_lines(tmp_path / "t.jsonl", *rows), "mooncake", window_start_ns=2 * S)
    assert workload.left_out == {"outside the window": 1, "turns of requests outside the window": 2}
    assert workload.notes[0].startswith("2 later turns of t.jsonl have no stamp of their own")


def test_turns_that_begin_anew_are_put_in_order(tmp_path: Path) -> None:
    rows = [
        {"session_id": name, "timestamp": stamp, "input_length": size, "output_length": 1}
        for name, stamp, size in [("a", 0, 1), ("a", 5000, 2), ("b", 500, 3), ("b", 4000, 4), ("c", 3000, 5)]
    ]
    workload = _read(_lines(tmp_path / "t.jsonl", *rows), "mooncake", window_start_ns=2 * S)
    assert workload.prompt_tokens.tolist() == [5, 4, 2]
    assert workload.arrival_ns.tolist() == [1 * S, 2 * S, 3 * S]


_LAST = {"timestamp": 10**6, "input_length": 1, "output_length": 1}
SESSION_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "session_id": st.sampled_from("abc"),
            "input_length": st.integers(1, 9),
            "output_length": st.integers(0, 3),
        },
        optional={"delay": st.integers(0, 5000), "no_stamp": st.just(True), "leaders": st.integers(1, 3)},
    ),
    min_size=1,
    max_size=20,
)


@examples(300)
@given(
    SESSION_ROWS,
    st.integers(0, 5),
    st.none() | st.integers(6, 20),
    st.none() | st.integers(1, 12),
    st.booleans(),
)
def test_every_row_is_served_or_counted(
    rows: list[dict[str, Any]], start: int, end: int | None, limit: int | None, keep_empty: bool
) -> None:
    seen: set[str] = set()
    for number, row in enumerate(rows):
        leaders, no_stamp = row.pop("leaders", 0), row.pop("no_stamp", False)
        row["request_id"] = number
        if leaders and number:
            row["wait_for"] = [max(number - leader, 0) for leader in range(1, leaders + 1)]
        elif row["session_id"] not in seen or not no_stamp:
            row["timestamp"] = 1000 * number
        seen.add(row["session_id"])
    with TemporaryDirectory() as folder:
        cut = {"window_start_ns": start * S, "window_end_ns": None if end is None else end * S}
        whole = _read(_lines(Path(folder) / "all.jsonl", *rows, _LAST), "mooncake", keep_empty=keep_empty)
        assert len(whole) + whole.left_out.get("without prompt or output", 0) == len(rows) + 1
        rows.append(_LAST | {"timestamp": 1000 * start})
        path = _lines(Path(folder) / "t.jsonl", *rows)
        workload = _read(path, "mooncake", limit=limit, keep_empty=keep_empty, sort=True, **cut)
    assert len(workload) + sum(workload.left_out.values()) == len(rows)
    engine = EngineConfig(CacheConfig(64, 4), SchedulerConfig(64, max_num_seqs=4, max_num_batched_tokens=64))
    record = run(workload, engine, FixedCost(1000))
    assert (record.requests["finish_reason"] == "length").all()


def test_a_window_chooses_the_requests_whose_arrivals_are_drawn(tmp_path: Path) -> None:
    cut = {"window_start_ns": 2 * S, "window_end_ns": 8 * S}
    workload = _read(_stamped(tmp_path), "mooncake", arrivals=Constant(2.0), rate_scale=4.0, **cut)
    assert workload.prompt_tokens.tolist() == [12, 13, 14, 15, 16, 17]
    assert workload.arrival_ns.tolist() == [S // 8 * place for place in range(1, 7)]
    closed = _read(_stamped(tmp_path), "mooncake", arrivals=ClosedLoop(2), **cut)
    assert closed.prompt_tokens.tolist() == [12, 13, 14, 15, 16, 17]


@pytest.mark.parametrize("arrivals", [AllAtOnce(), ClosedLoop(2)])
def test_a_rate_scale_without_rate_is_refused(tmp_path: Path, arrivals: Arrivals) -> None:
    with pytest.raises(WorkloadError, match="rate_scale has no times to bring together"):
        _read(_stamped(tmp_path), "mooncake", arrivals=arrivals, rate_scale=2.0)


def test_a_window_of_a_trace_without_stamps_is_refused(tmp_path: Path) -> None:
    path = _lines(tmp_path / "t.csv", "num_prefill_tokens,num_decode_tokens", "3,4")
    with pytest.raises(WorkloadError, match=r"t\.csv:2: .*no arrival times to choose a window by"):
        _read(path, "vidur", arrivals=Constant(1.0), window_end_ns=S)


def test_a_window_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="leaves nothing"):
        _read(_stamped(tmp_path), "mooncake", window_start_ns=100 * S)


BAD_ROWS = {
    "no JSON": ("{", "no valid JSON"),
    "no object": ("[1]", "one JSON object"),
    "missing length": ('{"timestamp": 0, "output_length": 1}', "input_length: is missing"),
    "no stamp and no leader": ('{"input_length": 1, "output_length": 1}', "timestamp: is missing"),
    "unknown leader": (
        '{"input_length": 1, "output_length": 1, "wait_for": ["x"]}',
        "wait_for: no earlier line has the request_id x",
    ),
    "ids that do not fit": (
        '{"timestamp": 0, "input_length": 1024, "output_length": 1, "hash_ids": [1]}',
        "set hash_block_tokens",
    ),
    "a boolean": (
        '{"timestamp": 0, "input_length": true, "output_length": 1}',
        "input_length: must be a number",
    ),
    "a NaN stamp": (
        '{"timestamp": NaN, "input_length": 1, "output_length": 1}',
        "timestamp: must be a finite",
    ),
    "zero prompt": (
        '{"timestamp": 0, "input_length": 0, "output_length": 1}',
        "input_length: must be a whole",
    ),
}


@pytest.mark.parametrize("what", BAD_ROWS)
def test_a_bad_row_is_named_by_line_and_key(tmp_path: Path, what: str) -> None:
    row, message = BAD_ROWS[what]
    good = '{"timestamp": 0, "input_length": 1, "output_length": 1}'
    with pytest.raises(WorkloadError, match=rf"t\.jsonl:2: .*{message}"):
        _read(_lines(tmp_path / "t.jsonl", good, row), "mooncake")


def test_many_faults_come_together_and_the_rest_is_counted(tmp_path: Path) -> None:
    bad = {"timestamp": 0, "input_length": "many", "output_length": 1}
    with pytest.raises(WorkloadError) as caught:
        _read(_lines(tmp_path / "t.jsonl", *[bad] * 30), "mooncake")
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1].endswith("... and 10 more")


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    _stamped(tmp_path)
    with pytest.raises(WorkloadError, match=r"did you mean t\.jsonl"):
        _read(tmp_path / "tt.jsonl", "mooncake")


def test_servegen_clients_send_what_their_windows_say(traces_dir: Path) -> None:
    folder = traces_dir / "servegen_m-large_day1"
    workload = build(ServeGenWorkload(folder, 7200 * S, clients=(7, 61)), seed=3)
    rates = [
        float(line.split(",")[1])
        for client in (7, 61)
        for line in (folder / f"chunk-{client}-trace.csv").read_text().splitlines()[:12]
    ]
    assert len(workload) == sum(round(rate * 600) for rate in rates)
    assert int(workload.arrival_ns[-1]) < 7200 * S
    again = build(ServeGenWorkload(folder, 7200 * S, clients=(7,)), seed=3)
    assert len(again) < len(workload)


def test_a_histogram_that_is_code_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "chunk-1-trace.csv").write_text("0,1.0,1.0,Gamma,1.0,1.0\n")
    code = "__import__('os').abort()"
    data = {"0": {"input_tokens": code, "output_tokens": code}}
    (tmp_path / "chunk-1-dataset.json").write_text(json.dumps(data))
    with pytest.raises(WorkloadError, match="no histogram"):
        build(ServeGenWorkload(tmp_path, 600 * S), seed=0)
