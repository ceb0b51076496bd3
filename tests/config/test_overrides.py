"""`--set`: the same checks as in the file, located by the override."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.config import load_experiment
from sim.core.policy import Static
from sim.errors import ConfigError
from tests.config.experiment_files import MINIMAL, write
from tests.v1 import v1_scheduler
from workloads.arrivals import Constant, Gamma
from workloads.synthetic import SyntheticWorkload

TEXT = MINIMAL + "  priorities: [0, 1, 2]\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A configuration to change."""
    return write(tmp_path, TEXT)


def faults(path: Path, *overrides: str) -> list[str]:
    """Everything reported, the file's path cut off."""
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, overrides)
    return [str(problem).replace(f"{path}:", "") for problem in caught.value.problems]


def test_an_override_changes_one_value_and_the_last_one_wins(path: Path) -> None:
    experiment = load_experiment(path, ["engine.block_size=32", "engine.block_size=8"])
    assert experiment.engine.cache.block_size == 8


def test_values_are_read_as_yaml_with_their_units(path: Path) -> None:
    workload = load_experiment(
        path, ["workload.arrivals={kind: constant, rate: 600 /min}", "workload.num_requests=1e3"]
    ).workload
    assert isinstance(workload, SyntheticWorkload)
    assert workload.arrivals == Constant(10.0)
    assert workload.num_requests == 1000


def test_a_part_of_a_mapping_keeps_the_rest(path: Path) -> None:
    workload = load_experiment(path, ["workload.arrivals.kind=gamma"]).workload
    assert isinstance(workload, SyntheticWorkload)
    assert workload.arrivals == Gamma(10.0)


def test_sections_that_the_file_lacks_are_made(path: Path) -> None:
    overrides = ["engine.batching.kind=static", "engine.batching.max_batch_size=4"]
    assert v1_scheduler(load_experiment(path, overrides).engine).batching == Static(4)


def test_a_position_in_a_list_can_be_changed(path: Path) -> None:
    workload = load_experiment(path, ["workload.priorities.1=5"]).workload
    assert isinstance(workload, SyntheticWorkload)
    assert workload.priorities == (0, 5, 2)


def test_an_override_mends_a_fault_of_the_file(path: Path) -> None:
    path.write_text(TEXT.replace("rate: 10 /s", "rate: 10"))
    assert load_experiment(path, ["workload.arrivals.rate=5 /s"])


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("engine.block_size=x", "--set engine.block_size: must be a whole number, not the text 'x'"),
        ("engine.block_sise=8", "--set engine.block_sise: unknown key (did you mean 'block_size'?)"),
        (
            "slo.ttft=5",
            ("--set slo.ttft: 5 has no unit: a time is written like '50 ms' (ns, us, ms, s, min, h)"),
        ),
        (
            "workload.arrivals.rate=-1 /s",
            "--set workload.arrivals.rate: a rate must be positive, not '-1 /s'",
        ),
        ("workload.arrivals.rate=.nan", "--set workload.arrivals.rate: a rate must be finite, not nan"),
        ("seed=007", "--set seed: 007 has a leading zero, octal to some: write 7, or quote"),
        (
            "seed=[1",
            (
                "--set seed: not YAML: expected ',' or ']', but got '<stream end>' "
                "(while parsing a flow sequence)"
            ),
        ),
        (
            "seed=!!python/name:os.system x",
            ("--set seed: tag '!!python/name:os.system' is not allowed: a configuration is plain data"),
        ),
        ("cluster={replicas: 0}", "--set cluster: cluster.replicas: must be at least 1, not 0"),
        (
            "engine.batching.kind=static",
            ("--set engine.batching.kind: engine.batching.max_batch_size: this key is required and missing"),
        ),
        ("engine", "--set engine: is not key=value, such as engine.block_size=32"),
        ("=3", "--set =3: is not key=value, such as engine.block_size=32"),
        (
            "engine..block_size=3",
            "--set engine..block_size=3: is not key=value, such as engine.block_size=32",
        ),
        (
            "workload.num_requests.x=3",
            ("--set workload.num_requests.x: workload.num_requests is a single value: there is no x in it"),
        ),
        (
            "workload.priorities.3=1",
            (
                "--set workload.priorities.3: workload.priorities is a list of 3: '3' is no "
                "position in it, from 0"
            ),
        ),
    ],
)
def test_a_wrong_override_is_located_by_its_name(path: Path, override: str, fault: str) -> None:
    assert faults(path, override) == [fault]


def test_faults_of_file_and_overrides_come_together_the_file_first(path: Path) -> None:
    path.write_text("sed: 1\n" + TEXT)
    assert faults(path, "engine.block_size=0", "nonsense") == [
        "1:1: sed: unknown key (did you mean 'seed'?)",
        "--set nonsense: is not key=value, such as engine.block_size=32",
        "--set engine.block_size: must be at least 1, not 0",
    ]


def test_what_an_override_replaced_is_no_longer_a_place(path: Path) -> None:
    assert faults(path, "workload.arrivals={kind: poisson}") == [
        "--set workload.arrivals: workload.arrivals.rate: this key is required and missing"
    ]
