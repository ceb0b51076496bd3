"""What comments in `configs/` claim of numbers is what comes out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from sim.config import load_experiment
from sim.metrics.summary import Identity, summarize
from sim.record.run_record import RunRecord
from sim.simulation import simulate

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
_WITHOUT_CACHE = "engine.enable_prefix_caching=false"


def says(name: str, claim: str) -> bool:
    """Whether the comments of a configuration have these words, however they are broken into lines."""
    lines = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    return claim in re.sub(r"\s+", " ", comment)


def run(name: str, *changes: str) -> tuple[RunRecord, float]:
    """A simulation, and the fraction of its requests that met every goal."""
    experiment = load_experiment(CONFIGS / f"{name}.yaml", changes)
    record = simulate(experiment)
    values = summarize(record, experiment.slo, Identity(name, name, experiment.seed)).values
    met = values["sim_slo_attainment"]
    assert isinstance(met, float)
    return record, met


def mean_wait_s(record: RunRecord, until: str) -> float:
    """Mean time from arrival to something."""
    return float((record.requests[until] - record.requests["arrival"]).astype(np.int64).mean() / 1e9)


def test_without_prefix_caching_two_of_five_requests_of_quickstart_miss_a_goal() -> None:
    assert says("quickstart", "without that, two of five requests miss a goal")
    _, met = run("quickstart", _WITHOUT_CACHE)
    assert 1 - met == pytest.approx(2 / 5, abs=0.05)
    _, met = run("quickstart")
    assert 1 - met < 0.2, "it pays"


def test_nine_of_ten_requests_of_chat_are_good_and_without_prefix_caching_one_in_twenty() -> None:
    assert says("chat_l40s", "about nine of ten requests meet the goals")
    _, met = run("chat_l40s")
    assert met == pytest.approx(0.9, abs=0.02)
    assert says("chat_l40s", "requests wait some 13 seconds, and only one in twenty is served well")
    record, met = run("chat_l40s", _WITHOUT_CACHE)
    assert met == pytest.approx(0.05, abs=0.01)
    assert mean_wait_s(record, "first_scheduled") == pytest.approx(13, abs=0.5)


@pytest.mark.slow
@pytest.mark.usefixtures("traces_dir")
def test_an_affine_router_reuses_more_of_mooncake_s_trace_and_its_requests_do_not_start_sooner() -> None:
    assert says("mooncake_conv", "reuses 70 % more tokens than the second")
    assert says("mooncake_conv", "its first tokens do not come sooner")
    affine, _ = run("mooncake_conv")
    in_turn, _ = run("mooncake_conv", "cluster.router=round_robin")
    hits, others = (each.counters["prefix_hits_tokens"] for each in (affine, in_turn))
    assert hits / others == pytest.approx(1.7, abs=0.05)
    assert mean_wait_s(affine, "first_token") >= mean_wait_s(in_turn, "first_token")
    computing, others_computing = (
        mean_wait_s(each, "first_token") - mean_wait_s(each, "first_scheduled") for each in (affine, in_turn)
    )
    assert computing < others_computing, "won in computing, lost in waiting"
