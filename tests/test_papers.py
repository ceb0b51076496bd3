"""Published tables, from the files of `configs/papers/`: the quick rows, and in `make test-all` all rows."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import pytest

from sim.speculation.theory import (
    best_num_drafts,
    expected_tokens,
    operations_factor,
    walltime_improvement,
)
from tests.bench import papers_pagedattention as paged_attention
from tests.bench import papers_speculation as speculation
from tests.bench.papers_runs import execute

CONTIGUOUS = ("max", "pow2", "oracle")


@pytest.mark.parametrize("system", CONTIGUOUS)
def test_contiguous_memory_holds_what_the_paper_s_figures_2_and_13_say(system: str) -> None:
    outcome = execute(paged_attention._saturated(paged_attention.SHAREGPT, system))
    shares = (getattr(outcome.shares, state) for state in paged_attention._STATES)
    assert sum(getattr(outcome.shares, state) for state in paged_attention._STATES) == pytest.approx(1)
    for published, share in zip(paged_attention.FIG2[system], shares, strict=True):
        if published is not None:
            assert share * 100 == pytest.approx(published, abs=2.5)
    batched = paged_attention.FIG13[paged_attention.SHAREGPT][system]
    assert outcome.mean_batched == pytest.approx(batched, rel=0.12)


@pytest.mark.parametrize(("kind", "width"), [("num_samples", 4), ("beam_width", 2)])
def test_sharing_saves_what_figure_15_says_of_alpaca(kind: str, width: int) -> None:
    outcome = execute(paged_attention._sharing(kind, paged_attention.ALPACA, width))
    published = paged_attention.FIG15[kind, paged_attention.ALPACA][width]
    assert outcome.saved_fraction * 100 == pytest.approx(published, abs=2)


def test_swap_and_recompute_cross_where_the_paper_says() -> None:
    swap_ms, recompute_ms = paged_attention.recovery_ms()
    assert len(set(recompute_ms)) == 1, "recompute does not depend on the block size"
    assert swap_ms == sorted(swap_ms, reverse=True), "larger blocks swap faster"
    at = dict(zip(paged_attention.BLOCK_SIZES, swap_ms, strict=True))
    assert at[1] > 3 * recompute_ms[0]
    assert all(0.5 < at[size] / recompute_ms[0] < 2 for size in (16, 32, 64)), "comparable from 16 to 64"


@pytest.mark.parametrize("point", [(0.5, 3, 0.05), (0.7, 5, 0.0), (0.9, 10, 0.2)])
def test_the_simulator_agrees_with_leviathan_s_closed_forms(point: tuple[float, int, float]) -> None:
    rate, drafts, cost = point
    outcome = execute(speculation.leviathan(*point))
    assert outcome.acceptance_length == pytest.approx(expected_tokens(rate, drafts), rel=0.01)
    assert 100 / outcome.tpot_ms == pytest.approx(walltime_improvement(rate, drafts, cost), rel=0.01)


def test_the_closed_forms_are_the_printed_tables() -> None:
    for rate, drafts, operations, speed in speculation.TABLE_1:
        assert round(operations_factor(rate, drafts, 0), 2) == operations
        assert round(walltime_improvement(rate, drafts, 0), 2) == speed
    assert all(row.is_within for row in speculation.table_2())
    assert best_num_drafts(0.8, 0.02) > best_num_drafts(0.6, 0.02) > best_num_drafts(0.6, 0.3)
    assert best_num_drafts(0.2, 0.5) == 0, "a draft that costs half and is rarely right does not pay"


@pytest.mark.parametrize(("task", "rate", "published"), speculation.CHEN_ROWS)
def test_chinchilla_takes_about_half_the_time(task: str, rate: float, published: float) -> None:
    outcome = execute(speculation.chen(rate))
    assert outcome.tpot_ms == pytest.approx(published, rel=0.03), task
    assert speculation.PLAIN_MS / outcome.tpot_ms > 1.8


def test_speculation_pays_at_a_low_rate_and_costs_at_a_high_one() -> None:
    wanted = [speculation.serving(qps, drafts) for qps in (1, 48) for drafts in (None, 4)]
    outcomes = {run: execute(run) for run in wanted}
    assert 1.3 < speculation.speed_up(outcomes, 1, 4, 0.7) < 1.7
    assert 1 / 1.8 < speculation.speed_up(outcomes, 48, 4, 0.7) < 1 / 1.3


@pytest.mark.slow
def test_every_row_of_the_page_is_within_its_tolerance() -> None:
    runs = list(dict.fromkeys(paged_attention.runs()))
    with ProcessPoolExecutor(2) as pool:
        outcomes = dict(zip(runs, pool.map(execute, runs), strict=True))
    for figure in (
        paged_attention.fig2,
        paged_attention.fig12,
        paged_attention.fig13,
        paged_attention.fig15,
    ):
        assert [row.line() for row in figure(outcomes) if not row.is_within] == []
    for config, good, bad in (
        (paged_attention.SHAREGPT, (16, 32, 64, 128), (1, 2, 4, 256)),
        (paged_attention.ALPACA, (16, 32), (1, 128, 256)),
    ):
        latency = {
            size: outcomes[paged_attention._block_size(config, size)].normalized_latency_ms
            for size in paged_attention.BLOCK_SIZES
        }
        assert max(latency[size] for size in good) < min(latency[size] for size in bad)
