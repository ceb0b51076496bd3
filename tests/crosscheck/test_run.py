"""A cross-check of an engine that is exactly what the simulator is told, and of every lie it may be told."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from sim.core.engine import EngineConfig, EngineCore
from sim.core.kv_cache import CacheConfig
from sim.core.scheduler import Scheduler
from sim.crosscheck.comparison import Status
from sim.crosscheck.run import compare_decisions, crosscheck
from sim.crosscheck.verdict import Crosscheck
from sim.experiment import Experiment
from sim.record.plan_log import PlanFacts
from tests.crosscheck.exact_engine import (
    DRAFT,
    MOVES,
    TRUTH,
    ExactEngine,
    as_json,
    device_config,
    load,
    truthful,
)
from workloads.generate import build

CASES = ("continuous", "recompute", "swap", "sampling", "prefixes", "chunked", "speculation")


def checked(
    experiment: Experiment, engine: ExactEngine | None = None, config: EngineConfig | None = None
) -> Crosscheck:
    workload = build(experiment.workload, seed=experiment.seed)
    engine = engine or ExactEngine(experiment, truthful(experiment))
    check, _, _ = crosscheck(experiment, workload, engine, config or device_config(experiment))
    return check


@pytest.mark.parametrize("name", CASES)
def test_an_honest_simulation_is_exact(name: str) -> None:
    """Same decisions, and not a nanosecond of error: without tolerance."""
    experiment = load(name)
    check = checked(experiment)
    assert check.decisions.are_equal, check.decisions
    assert check.holds
    assert {row.metric: row.error for row in check.rows if row.error} == {}
    assert check.attribution.total == pytest.approx(0, abs=1e-12)
    assert all(share.error == pytest.approx(0, abs=1e-12) for share in check.attribution.shares)
    assert {row.half_within for row in check.differences.closeness()} == {0.0}
    assert {row.most_within for row in check.differences.closeness()} == {0.0}
    assert as_json(check.to_json())["holds"] is True


def plans_of(name: str) -> Sequence[PlanFacts]:
    experiment = load(name)
    workload = build(experiment.workload, seed=experiment.seed)
    return ExactEngine(experiment, truthful(experiment))(workload).plans


def test_each_cross_check_does_what_its_name_says() -> None:
    totals = {name: checked(load(name)).decisions.totals for name in CASES}
    assert totals["continuous"]["preemptions"] == 0
    assert totals["recompute"]["preemptions"] > 10
    assert totals["recompute"]["recomputed_tokens"] > 0
    assert totals["swap"]["blocks_swapped_in"] > 10
    assert totals["sampling"]["blocks_copied"] > 10
    assert totals["prefixes"]["prefix_hits_tokens"] > 1000
    assert totals["speculation"]["accepted_tokens"] > 100
    chunks = [row for plan in plans_of("chunked") for row in plan["rows"] if 1 < row[3] < 64]
    assert len(chunks) > 50, "prompts in pieces, beside sequences that decode"


SMALL_BATCHES = "[{max_batch_size: 2, num_tokens: 4}, {max_batch_size: 8, num_tokens: 1}]"


@pytest.mark.parametrize(
    "overrides",
    [
        ["speculation.adaptive=true"],
        [f"speculation.by_batch={SMALL_BATCHES}"],
        ["engine.num_gpu_blocks_override=30"],
        ["speculation.adaptive=true", "cluster={replicas: 2}", "engine.num_gpu_blocks_override=30"],
    ],
    ids=["adaptive", "by_batch", "tight", "all"],
)
def test_speculation_is_exact_whatever_is_drafted_and_survives_a_schedule_that_diverges(
    overrides: list[str],
) -> None:
    experiment = load("speculation", *overrides)
    honest = checked(experiment)
    assert honest.decisions.are_equal, honest.decisions
    assert {row.metric: row.error for row in honest.rows if row.error} == {}
    slow = replace(truthful(experiment), target=replace(TRUTH, per_step_ns=2 * TRUTH.per_step_ns))
    lied_to = checked(experiment, ExactEngine(experiment, slow))
    assert lied_to.decisions.are_equal
    assert not lied_to.holds


# Lies about time ----------------------------------------------------------------------------------


def test_attention_taken_for_too_cheap_is_found_where_much_is_attended_to() -> None:
    experiment = load("chunked")
    lying = replace(truthful(experiment), target=replace(TRUTH, per_attended_ns=0.7 * TRUTH.per_attended_ns))
    check = checked(experiment, ExactEngine(experiment, lying))
    assert check.decisions.are_equal
    assert not check.holds
    assert check.attribution.worst_cause.name == "per attended token"
    cause = next(cause for cause in check.attribution.causes if cause.name == "per attended token")
    assert cause.error == pytest.approx(-0.3 * (cause.measured or 0), rel=1e-3)


def test_free_launches_are_found_in_every_step_alike() -> None:
    experiment = load("continuous")
    lying = replace(truthful(experiment), target=replace(TRUTH, per_step_ns=0))
    check = checked(experiment, ExactEngine(experiment, lying))
    assert not check.holds
    assert check.attribution.worst_cause.name == "per step"
    assert check.attribution.worst.name == "decode steps"


def test_free_swap_is_found_in_the_moves() -> None:
    experiment = load("swap")
    free = replace(MOVES, per_swapped_ns=0)
    check = checked(experiment, ExactEngine(experiment, replace(truthful(experiment), moves=free)))
    assert not check.holds
    share = check.attribution.worst
    assert share.name == "swap"
    assert share.error == pytest.approx(-(share.measured or 0))


def test_free_copies_are_found_in_copy_on_write_alone() -> None:
    experiment = load("sampling")
    free = replace(MOVES, per_copied_ns=0)
    check = checked(experiment, ExactEngine(experiment, replace(truthful(experiment), moves=free)))
    (share,) = [share for share in check.attribution.shares if share.error < -1e-9]
    assert share.name == "copy-on-write"
    assert share.error == pytest.approx(-(share.measured or 0))


def test_a_free_draft_model_is_found_in_drafting() -> None:
    experiment = load("speculation")
    lying = replace(truthful(experiment), draft=type(DRAFT)(1))
    check = checked(experiment, ExactEngine(experiment, lying))
    assert not check.holds
    assert check.attribution.worst.name == "drafting"


def test_deciding_in_no_time_is_found_in_deciding() -> None:
    experiment = load("continuous")
    lying = replace(truthful(experiment), target=replace(TRUTH, decide_ns=0))
    check = checked(experiment, ExactEngine(experiment, lying))
    share = next(share for share in check.attribution.shares if share.name == "deciding")
    assert share.error == pytest.approx(-(share.measured or 0))
    assert check.attribution.worst.name == "deciding"
    model = [cause.error for cause in check.attribution.causes]
    assert model == pytest.approx([0, 0, 0], abs=1e-9)


def test_single_steps_and_requests_show_what_a_mean_may_hide() -> None:
    """A step's own time is 6 ms and more; a tenth of that amiss is seen in every step, at most so much."""
    experiment = load("chunked")
    lying = replace(truthful(experiment), target=replace(TRUTH, per_step_ns=TRUTH.per_step_ns * 9 // 10))
    check = checked(experiment, ExactEngine(experiment, lying))
    files = check.differences.files()
    requests, steps = (
        list(csv.DictReader(files[name].splitlines())) for name in ("requests.csv", "steps.csv")
    )
    assert len(requests) == check.replayed.latencies_ms["e2el"].size
    assert len(steps) == check.decisions.num_steps
    for row in steps:
        off_us = float(row["model_measured_us"]) - float(row["model_predicted_us"])
        assert off_us == pytest.approx(TRUTH.per_step_ns / 10 / 1e3, abs=0.01)
        assert row["schedule_measured_us"] == row["schedule_predicted_us"]
    decode, prompts = (
        next(row for row in check.differences.closeness() if row.of_what == f"time of a {kind}")
        for kind in ("decode step", "step with prompts")
    )
    assert 0.08 < decode.half_within <= decode.most_within < 0.1
    assert prompts.half_within < decode.half_within, "the same, of more"


def test_parts_add_up_to_the_whole_error() -> None:
    experiment = load("recompute")
    lying = replace(truthful(experiment), target=replace(TRUTH, per_token_ns=2 * TRUTH.per_token_ns))
    found = checked(experiment, ExactEngine(experiment, lying)).attribution
    assert sum(share.error for share in found.shares) == pytest.approx(found.total)
    assert found.total > 0.05


# Lies about decisions -----------------------------------------------------------------------------


def one_block_less(config: EngineConfig) -> EngineCore:
    cache = config.cache
    assert isinstance(cache, CacheConfig)
    return EngineCore(replace(config, cache=replace(cache, num_blocks=cache.num_blocks - 1)))


def test_one_block_too_few_is_found_at_its_first_step() -> None:
    experiment = load("recompute")
    check = checked(experiment, ExactEngine(experiment, truthful(experiment), one_block_less))
    assert not check.decisions.are_equal
    assert not check.holds
    workload = build(experiment.workload, seed=experiment.seed)
    replay = ExactEngine(experiment, truthful(experiment), one_block_less)(workload)
    _, lockstep = compare_decisions(experiment, workload, replay, device_config(experiment))
    number = next(at for at, (a, b) in enumerate(zip(lockstep.plans, replay.plans, strict=False)) if a != b)
    assert number > 0, "they part where memory gets short"
    assert check.decisions.difference is not None
    assert check.decisions.difference.startswith(f"step {number} ({number:,} steps before it are equal)")


@pytest.mark.plain
def test_a_victim_from_the_wrong_end_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load("recompute")
    honest = ExactEngine(experiment, truthful(experiment))
    with monkeypatch.context() as patched:
        patch_victims(patched)
        replay = honest(build(experiment.workload, seed=experiment.seed))
    check, _, _ = crosscheck(
        experiment,
        build(experiment.workload, seed=experiment.seed),
        lambda _: replay,
        device_config(experiment),
    )
    difference = check.decisions.difference or ""
    found = re.search(r"preempted: (request \d+) by the simulator, (request \d+) by the engine", difference)
    assert found is not None, difference
    newest, oldest = (int(who.removeprefix("request ")) for who in found.groups())
    assert oldest < newest


def patch_victims(patched: pytest.MonkeyPatch) -> None:
    """The oldest running sequence is preempted, instead of the newest."""

    def oldest(self: Scheduler) -> object:
        return next(iter(self.running))

    patched.setattr(Scheduler, "_choose_victim", oldest)


# What is reported ---------------------------------------------------------------------------------


def test_tolerances_are_judged_and_errors_told_with_their_sign() -> None:
    experiment = load("continuous")
    slower = replace(truthful(experiment), target=replace(TRUTH, per_step_ns=round(1.2 * TRUTH.per_step_ns)))
    check = checked(experiment, ExactEngine(experiment, slower))
    rows = {row.metric: row for row in check.rows}
    assert rows["tpot_p50"].status is Status.BEYOND
    assert rows["tpot_p50"].error > 0.05
    assert rows["tpot_p99"].status is Status.NOT_JUDGED
    lenient = load(
        "continuous", "crosscheck.tpot_p50=50 %", "crosscheck.e2el_mean=50 %", "crosscheck.ttft_p99=50 %"
    )
    assert checked(lenient, ExactEngine(lenient, slower)).holds


def test_a_constant_rate_is_held_against_recorded_counts() -> None:
    check = checked(load("speculation"))
    assert check.acceptance_rate == pytest.approx(0.6, abs=0.05)
    assert {row.metric for row in check.acceptance} >= {"tpot_mean", "e2el_mean"}
    for row in check.acceptance:
        assert row.with_recorded_counts == pytest.approx(row.replayed)
    assert any(row.with_constant_rate != row.replayed for row in check.acceptance)
