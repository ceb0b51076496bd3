"""The workload section: every kind reaches the dataclass behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from sim.config import load_experiment
from sim.config.schema import ClusterSection
from sim.config.workload import TraceSection
from sim.config.yaml_dump import dump_yaml
from sim.errors import ConfigError
from sim.fleet.router import RouterKind
from workloads import arrivals, lengths
from workloads.servegen import ServeGenWorkload
from workloads.synthetic import SyntheticWorkload
from workloads.trace import TraceFormat, TraceWorkload, TurnRule


def load_workload(folder: Path, workload: dict[str, Any]) -> Any:
    """What a workload section becomes."""
    path = folder / "experiment.yaml"
    path.write_text(dump_yaml({"model": "llama-3-8b", "hardware": "h100-sxm", "workload": workload}))
    return load_experiment(path).workload


def synthetic(**changes: Any) -> dict[str, Any]:
    """A synthetic workload section."""
    fixed = {"kind": "fixed", "tokens": 10}
    laws = {"arrivals": {"kind": "all_at_once"}, "prompt_tokens": fixed, "output_tokens": fixed}
    return {"kind": "synthetic", "num_requests": 1, **laws, **changes}


@pytest.mark.parametrize(
    ("section", "law"),
    [
        ({"kind": "poisson", "rate": "2.5 /s"}, arrivals.Poisson(2.5)),
        ({"kind": "gamma", "rate": "60 /min", "burstiness": 0.5}, arrivals.Gamma(1.0, 0.5)),
        ({"kind": "vllm_gamma", "rate": "1 /s", "burstiness": 2}, arrivals.VllmGamma(1.0, 2.0)),
        ({"kind": "constant", "rate": "1 /s"}, arrivals.Constant(1.0)),
        ({"kind": "all_at_once"}, arrivals.AllAtOnce()),
        ({"kind": "closed_loop", "concurrency": 4}, arrivals.ClosedLoop(4, 0)),
    ],
)
def test_every_law_of_arrivals_is_reached(
    tmp_path: Path, section: dict[str, Any], law: arrivals.Arrivals
) -> None:
    workload = load_workload(tmp_path, synthetic(arrivals=section))
    assert isinstance(workload, SyntheticWorkload)
    assert workload.arrivals == law


@pytest.mark.parametrize(
    ("section", "law"),
    [
        ({"kind": "fixed", "tokens": 7}, lengths.Fixed(7)),
        ({"kind": "uniform", "low": 1, "high": 9}, lengths.Uniform(1, 9)),
        ({"kind": "normal", "mean": 50, "std": 5.5, "high": 99}, lengths.Normal(50.0, 5.5, 1, 99)),
        ({"kind": "lognormal", "mean": 50, "cv": 1, "low": 4}, lengths.Lognormal(50.0, 1.0, 4)),
        ({"kind": "gamma", "mean": 50, "cv": 0.5}, lengths.GammaLengths(50.0, 0.5)),
        ({"kind": "zipf", "exponent": 1.1, "low": 1, "high": 9}, lengths.Zipf(1.1, 1, 9)),
        (
            {"kind": "empirical", "values": [1, 5], "weights": [1, 2.5]},
            lengths.Empirical((1, 5), (1.0, 2.5)),
        ),
    ],
)
def test_every_law_of_lengths_is_reached(
    tmp_path: Path, section: dict[str, Any], law: lengths.Lengths
) -> None:
    workload = load_workload(tmp_path, synthetic(prompt_tokens=section))
    assert isinstance(workload, SyntheticWorkload)
    assert workload.prompt_tokens == law


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "empirical", "values": []}, "prompt_tokens: lengths: empirical needs at least one value"),
        ({"kind": "empirical", "values": [1], "weights": [1, 2]}, "1 values have 2 weights"),
        ({"kind": "empirical", "values": [0]}, "prompt_tokens.values.0: must be at least 1, not 0"),
        ({"kind": "empirical", "values": [1], "weights": [-1]}, "weights.0: must be at least 0.0, not -1"),
        ({"kind": "normal", "mean": -5, "std": 1}, "prompt_tokens.mean: must be more than 0.0, not -5"),
        ({"kind": "zipf", "exponent": 1, "low": 9, "high": 1}, "need 1 <= low <= high"),
    ],
)
def test_laws_that_make_no_sense_are_refused(tmp_path: Path, section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_workload(tmp_path, synthetic(prompt_tokens=section))


def test_every_setting_of_a_trace_is_reached(tmp_path: Path) -> None:
    (tmp_path / "trace.jsonl").write_text("{}\n")
    workload = load_workload(
        tmp_path,
        {
            "kind": "trace",
            "path": "trace.jsonl",
            "format": "mooncake",
            "limit": 3,
            "window": {"start": "1 s", "end": "2 s"},
            "rate_scale": 2,
            "hash_block_tokens": 64,
            "sort": True,
            "keep_empty": True,
            "turns": "wait",
            "arrivals": {"kind": "constant", "rate": "1 /s"},
            "num_samples": 2,
            "cancel_after": "3 s",
        },
    )
    assert workload == TraceWorkload(
        path=tmp_path / "trace.jsonl",
        format=TraceFormat.MOONCAKE,
        limit=3,
        window_start_ns=10**9,
        window_end_ns=2 * 10**9,
        rate_scale=2.0,
        hash_block_tokens=64,
        sort=True,
        keep_empty=True,
        turns=TurnRule.WAIT,
        arrivals=arrivals.Constant(1.0),
        num_samples=2,
        cancel_after_ns=3 * 10**9,
    )


def test_every_setting_of_servegen_clients_is_reached(tmp_path: Path) -> None:
    (tmp_path / "clients").mkdir()
    section = {
        "kind": "servegen",
        "folder": "clients",
        "window": {"start": "10 min", "end": "20 min"},
        "clients": [7, 12],
        "rate_scale": 0.5,
    }
    assert load_workload(tmp_path, section) == ServeGenWorkload(
        folder=tmp_path / "clients",
        window_start_ns=600 * 10**9,
        window_end_ns=1200 * 10**9,
        clients=(7, 12),
        rate_scale=0.5,
    )


def test_a_folder_of_clients_that_is_not_there_is_refused(tmp_path: Path) -> None:
    section = {"kind": "servegen", "folder": "absent", "window": {"end": "10 min"}}
    with pytest.raises(ConfigError, match=r"workload\.folder: there is no folder .*absent"):
        load_workload(tmp_path, section)


def test_the_words_of_the_form_are_those_of_the_code() -> None:
    def words(annotation: Any) -> list[str]:
        return sorted(get_args(annotation))

    assert words(TraceSection.model_fields["format"].annotation) == sorted(kind.value for kind in TraceFormat)
    assert words(TraceSection.model_fields["turns"].annotation) == sorted(rule.value for rule in TurnRule)
    (router,) = ClusterSection.model_fields["router"].metadata
    assert sorted(router.names) == sorted(kind.value for kind in RouterKind)
