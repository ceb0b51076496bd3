"""Speculative decoding in whole simulations: what may not change, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.config import load_experiment
from sim.config.catalog import load_model
from sim.core.engine import EngineConfig
from sim.core.kv_cache import CacheConfig
from sim.core.request import Request, Sequence
from sim.core.scheduler_config import SchedulerConfig
from sim.cost.fixed import FixedCost
from sim.fleet.cluster import Physics
from sim.metrics.summary import Identity, Slo, summarize
from sim.record.run_record import RunRecord
from sim.simulation import run, simulate
from sim.speculation.acceptance import AcceptanceLaw, Constant, PerPosition, PerRequest, Runs
from sim.speculation.acceptance_file import dump_recorded
from sim.speculation.speculator import (
    Adaptive,
    ByBatch,
    DraftCounter,
    Fixed,
    HowMany,
    Proposer,
    Speculation,
    SpeculationCost,
)
from sim.speculation.theory import expected_rounds
from tests.command_line import pagecast, refused
from tests.strategies import CoarseCost, examples
from workloads.spec import Workload

REPO = Path(__file__).resolve().parents[2]
TARGET, DRAFT = FixedCost(100), FixedCost(10)
SPECULATION = Speculation(Proposer.DRAFT_MODEL, Adaptive(4), Constant(0.9), draft=load_model("qwen3-0.6b"))
LAWS: list[AcceptanceLaw] = [
    Constant(0.0),
    Constant(0.6),
    Constant(1.0),
    PerPosition((0.9, 0.4)),
    PerRequest(0.6, 0.2),
    Runs(0.9, 0.2, 5, 5),
]


def workload(lengths: list[tuple[int, int]], every_ns: int = 150) -> Workload:
    count = len(lengths)
    return Workload(
        name="test",
        arrival_ns=np.arange(count) * every_ns,
        prompt_tokens=np.array([prompt for prompt, _ in lengths]),
        output_tokens=np.array([output for _, output in lengths]),
    )


def engine(most: int, *, num_blocks: int = 200, lookahead: bool = True) -> EngineConfig:
    scheduler = SchedulerConfig(
        128,
        max_num_seqs=8,
        max_num_batched_tokens=256,
        num_speculative_tokens=most,
        num_lookahead_slots=most if lookahead else 0,
        num_draft_rows=int(lookahead),
    )
    return EngineConfig(CacheConfig(num_blocks, 4, enable_prefix_caching=False), scheduler)


def speculated(
    asked: Workload,
    how_many: HowMany,
    law: AcceptanceLaw,
    *,
    num_blocks: int = 200,
    max_horizon: int = 2**31,
    target: FixedCost | CoarseCost = TARGET,
) -> RunRecord:
    plan = Speculation(Proposer.DRAFT_MODEL, how_many, law, draft=load_model("qwen3-0.6b"))
    settings = replace(engine(how_many.most, num_blocks=num_blocks), max_horizon=max_horizon)
    return run(asked, settings, Physics(target, speculation=plan, draft_cost=DRAFT))


lengths = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 40)), min_size=1, max_size=8)


@examples(120)
@given(lengths, st.integers(1, 6), st.sampled_from(LAWS), st.integers(30, 200))
def test_output_depends_neither_on_the_drafts_nor_on_what_is_kept(
    asked: list[tuple[int, int]], num_drafts: int, law: AcceptanceLaw, num_blocks: int
) -> None:
    record = speculated(workload(asked), Fixed(num_drafts), law, num_blocks=num_blocks)
    completed = record.requests["finish_reason"] == "length"
    outputs = np.array([output for _, output in asked])
    assert (record.requests["output_tokens"][completed] == outputs[completed]).all()
    counters = record.counters
    assert counters["accepted_tokens"] <= counters["drafted_tokens"]
    for start, stop in zip(record.token_offsets[:-1], record.token_offsets[1:], strict=True):
        _, counts = np.unique(record.token_times[start:stop], return_counts=True)
        assert counts.max(initial=1) <= num_drafts + 1, "a step yields one token to K + 1"


@pytest.mark.parametrize("num_drafts", [1, 3, 5])
def test_with_nothing_kept_time_is_plain_decoding_and_the_wasted_drafts(num_drafts: int) -> None:
    asked = workload([(10, 30)])
    record = speculated(asked, Fixed(num_drafts), Constant(0.0))
    plain = run(asked, engine(0, lookahead=False), TARGET)
    gaps = np.diff(record.token_times)
    assert set(gaps[:-1].tolist()) == {100 + 10 * num_drafts}
    assert set(np.diff(plain.token_times).tolist()) == {100}
    assert record.num_steps == plain.num_steps


def test_with_all_kept_every_run_is_all_drafts_and_one_more() -> None:
    record = speculated(workload([(10, 1 + 5 * 6)]), Fixed(4), Constant(1.0))
    _, counts = np.unique(record.token_times, return_counts=True)
    assert counts.tolist() == [1] + [5] * 6
    assert record.counters["accepted_tokens"] == record.counters["drafted_tokens"] == 24


@pytest.mark.parametrize("num_tokens", [2, 3, 4, 5, 6, 9, 17, 40])
@pytest.mark.parametrize(("rate", "num_drafts"), [(0.7, 4), (0.7, 1), (0.3, 3), (0.9, 8), (1.0, 4), (0.0, 4)])
def test_a_report_counts_what_was_tested_and_delivered(rate: float, num_drafts: int, num_tokens: int) -> None:
    """Closed forms at every output length: drafts past the last token are neither tested nor kept."""
    count = 1500
    record = speculated(workload([(4, num_tokens)] * count), Fixed(num_drafts), Constant(rate))
    values = summarize(record, Slo(), Identity("", "", 0)).values
    closed = expected_rounds(rate, num_drafts, num_tokens - 1)
    runs = record.counters["draft_runs"]
    assert runs / count == pytest.approx(closed.num_rounds, rel=0.03)
    assert values["sim_mean_num_drafts"] == num_drafts
    assert values["sim_acceptance_rate"] == pytest.approx(closed.num_kept / closed.num_tested, abs=0.03)
    assert values["sim_mean_acceptance_length"] == pytest.approx((num_tokens - 1) * count / runs)
    assert values["sim_acceptance_rate_at_1"] == pytest.approx(rate, abs=0.03)


@pytest.mark.parametrize("law", [PerPosition((0.7,)), PerRequest(0.7, 0.0), Runs(0.7, 0.7, 3, 3)])
def test_every_law_ends_where_the_output_does(law: AcceptanceLaw) -> None:
    record = speculated(workload([(4, 2)] * 1500), Fixed(4), law)
    counters = record.counters
    assert counters["drafted_tokens"] - counters["drafted_past_end_tokens"] == counters["draft_runs"] == 1500
    assert counters["accepted_tokens"] / 1500 == pytest.approx(0.7, abs=0.04)


def test_adaptive_drafting_expects_nothing_past_the_end_and_learns_nothing_from_it() -> None:
    """One token is to come, whatever is drafted for it; and drafts that nobody could keep say nothing."""
    record = speculated(workload([(4, 2)] * 50), Adaptive(4), Constant(1.0))
    assert record.counters["drafted_tokens"] == 0
    counter = DraftCounter(SPECULATION, SpeculationCost(SPECULATION, TARGET, DRAFT))
    ends = Sequence(0, Request(0, 0, 4, 2), 0, 100)
    ends.num_known += 1
    for _ in range(1000):
        counter.note(ends, 4, 0)
        counter.note(ends, 4, 4)
    assert counter.rate == pytest.approx(0.5, abs=0.01), "of each two drafts for the last place one was kept"


@examples(60)
@given(lengths, st.integers(1, 5), st.sampled_from(LAWS), st.integers(40, 120))
def test_a_horizon_changes_nothing(
    asked: list[tuple[int, int]], num_drafts: int, law: AcceptanceLaw, num_blocks: int
) -> None:
    cost = CoarseCost(3, 40)
    one, other = (
        speculated(
            workload(asked), Fixed(num_drafts), law, num_blocks=num_blocks, max_horizon=horizon, target=cost
        )
        for horizon in (1, 2**31)
    )
    np.testing.assert_array_equal(one.token_times, other.token_times)
    for name in one.steps:
        np.testing.assert_array_equal(one.steps[name], other.steps[name])


def test_drafting_by_batch_size_stops_in_large_batches() -> None:
    by_batch = ByBatch(((1, 4), (3, 2)))
    assert [by_batch.at(batch) for batch in (1, 2, 3, 4)] == [4, 2, 2, 0]
    alone = speculated(workload([(5, 30)]), by_batch, Constant(0.5))
    many = speculated(workload([(5, 30)] * 6, every_ns=0), by_batch, Constant(0.5))
    assert alone.counters["drafted_tokens"] / alone.counters["draft_runs"] == 4
    steps = many.steps
    is_large = (steps["num_running"] >= 4) & (steps["num_prefill_tokens"] == steps["num_prefill_seqs"])
    drafting = steps["drafting"][is_large & (steps["num_decode_seqs"] >= 4)].astype(int)
    assert set(drafting[:-1]) == {10}, "one pass of the draft model, which keeps up and proposes nothing"


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0), (0.98, 6)])
def test_adaptive_drafting_finds_what_pays(rate: float, expected: int) -> None:
    record = speculated(workload([(5, 100)] * 3, every_ns=0), Adaptive(6), Constant(rate))
    counters = record.counters
    if expected == 0:
        assert counters["drafted_tokens"] == 0
    else:
        assert counters["drafted_tokens"] / counters["draft_runs"] > 5


def test_adaptive_drafting_is_never_much_slower_than_none() -> None:
    """In serving at a high rate, where a fixed number of drafts hurts."""
    path = REPO / "configs" / "papers" / "speculation_serving.yaml"
    load = ["workload.arrivals={kind: poisson, rate: 40 /s}", "workload.num_requests=400"]
    e2el = {}
    for name, change in (
        ("none", "speculation=null"),
        ("fixed", ""),
        ("adaptive", "speculation.adaptive=true"),
    ):
        record = simulate(load_experiment(path, [*load, *([change] if change else [])]))
        latency = (record.requests["finished"] - record.requests["arrival"]).astype(float)
        e2el[name] = float(latency.mean())
    assert e2el["fixed"] > 1.1 * e2el["none"], "drafting always hurts here"
    assert e2el["adaptive"] < 1.1 * e2el["none"]


@pytest.mark.parametrize("proposer", [Proposer.MEDUSA, Proposer.EAGLE])
def test_heads_cost_a_fraction_of_the_target(proposer: Proposer) -> None:
    plan = Speculation(proposer, Fixed(4), Constant(0.0), cost_fraction=0.1)
    asked = workload([(10, 30)])
    record = run(asked, engine(4, lookahead=False), Physics(TARGET, speculation=plan))
    passes = 1 if proposer is Proposer.MEDUSA else 4
    assert set(np.diff(record.token_times)[:-1].tolist()) == {100 + 10 * passes}


def test_the_baseline_stands_beside_the_run(tmp_path: Path) -> None:
    config = str(REPO / "configs" / "papers" / "chinchilla_speculation.yaml")
    few = ("--set", "workload.num_requests=5", "--no-plots", "--set", f"results.dir={tmp_path}")
    printed = pagecast("simulate", config, "--baseline", "no-speculation", *few).stdout
    assert "acceptance length" in printed
    (speed_up,) = [line for line in printed.splitlines() if "x  mean TPOT" in line]
    assert 1.6 < float(speed_up.split()[1]) < 2.1
    assert "has no speculation" in refused(
        "simulate", str(REPO / "configs" / "quickstart.yaml"), "--baseline", "no-speculation"
    )
    assert "must be no-speculation" in refused("simulate", config, "--baseline", "nothing")


RECORDED = """\
model: qwen3-8b
hardware: h100-sxm
engine: {max_model_len: 4096}
speculation: {proposer: ngram, acceptance: {kind: recorded, path: accepted.json}}
workload:
  kind: synthetic
  num_requests: 2
  arrivals: {kind: poisson, rate: 2 /s}
  prompt_tokens: {kind: fixed, tokens: 10}
  output_tokens: {kind: fixed, tokens: 10}
"""


def test_a_recording_is_replayed_to_the_letter(tmp_path: Path) -> None:
    (tmp_path / "recorded.yaml").write_text(RECORDED)
    (tmp_path / "accepted.json").write_text(dump_recorded({(0, 0): (4, 0, 2, 0), (1, 0): (3, 4)}, 4))
    record = simulate(load_experiment(tmp_path / "recorded.yaml"))
    assert record.requests["output_tokens"].tolist() == [10, 10]
    counters = record.counters
    assert (counters["draft_runs"], counters["accepted_tokens"]) == (5, 13)


@pytest.mark.parametrize(
    "change",
    [
        "engine.long_prefill_token_threshold=3",
        "speculation.by_batch=[{max_batch_size: 1, num_tokens: 4}, {max_batch_size: 8, num_tokens: 2}]",
    ],
)
def test_a_recording_of_more_drafts_than_are_verified_is_told_by_its_place(
    tmp_path: Path, change: str
) -> None:
    text = RECORDED.replace("tokens: 10}\n", "tokens: 20}\n").replace("2 /s", "2000 /s")
    (tmp_path / "recorded.yaml").write_text(text)
    counts = {(request, 0): (4, 4, 4, 4) for request in range(2)}
    (tmp_path / "accepted.json").write_text(dump_recorded(counts, 4))
    config, out = str(tmp_path / "recorded.yaml"), str(tmp_path / "run")
    told = refused("simulate", config, "--out", out, "--set", change)
    assert f"{tmp_path / 'accepted.json'}: accepted.0[0]: run " in told
    assert "kept 4 drafts, and 2 are verified now" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("max_model_len", [20, 17])
def test_a_recording_may_keep_more_than_the_longest_sequence_has_room_for(
    tmp_path: Path, max_model_len: int
) -> None:
    """The last round gives the tokens that are missing, however many drafts fit."""
    (tmp_path / "recorded.yaml").write_text(RECORDED)
    (tmp_path / "accepted.json").write_text(dump_recorded({(0, 0): (4, 4), (1, 0): (2, 4, 4)}, 4))
    change = f"engine.max_model_len={max_model_len}"
    record = simulate(load_experiment(tmp_path / "recorded.yaml", [change]))
    assert record.requests["output_tokens"].tolist() == [max_model_len - 10] * 2


def test_a_token_budget_that_holds_no_sequence_with_its_drafts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recorded.yaml").write_text(RECORDED)
    (tmp_path / "accepted.json").write_text(dump_recorded({(0, 0): (4, 4), (1, 0): (4, 4)}, 4))
    change = "engine.max_num_scheduled_tokens=4"
    told = refused("simulate", str(tmp_path / "recorded.yaml"), "--set", change)
    assert (
        "--set engine.max_num_scheduled_tokens: 4 do not hold one sequence with its drafts, 5 tokens" in told
    )
    fine = load_experiment(tmp_path / "recorded.yaml", ["engine.max_num_scheduled_tokens=5"])
    assert simulate(fine).requests["output_tokens"].tolist() == [10, 10]


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({(0, 0): (4, 4)}, "accepted.1[0]: is shorter than the run: 0 tokens of 9"),
        ({(0, 0): (4, 4), (1, 0): (3, 3)}, "accepted.1[0]: is shorter than the run: 8 tokens of 9"),
        ({(0, 0): (8,), (1, 0): (4, 4)}, "accepted.0[0]: a run kept 8 drafts"),
    ],
)
def test_a_recording_that_is_too_short_is_told_before_the_run(
    tmp_path: Path, counts: dict[tuple[int, int], tuple[int, ...]], says: str
) -> None:
    (tmp_path / "recorded.yaml").write_text(RECORDED)
    (tmp_path / "accepted.json").write_text(dump_recorded(counts, 4))
    told = refused("simulate", str(tmp_path / "recorded.yaml"), "--out", str(tmp_path / "run"))
    assert f"{tmp_path / 'accepted.json'}: {says}" in told
    assert not (tmp_path / "run").exists()
