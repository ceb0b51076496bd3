"""What is said to have been meant: what begins so before what looks alike, and keys wherever they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.config import load_experiment
from sim.config.errors import nearest
from sim.errors import ConfigError
from tests.config.experiment_files import MINIMAL, write


@pytest.mark.parametrize(
    ("wrong", "known", "meant"),
    [
        ("h100", ["h200", "l40s", "h100-sxm"], "h100-sxm"),
        ("H100", ["h200", "h100-sxm"], "h100-sxm"),
        ("llama-3", ["llama-2-7b", "llama-3.1-405b", "llama-3-8b", "llama-2"], "llama-3-8b"),
        ("h300", ["h200", "l4"], "h200"),
        ("x", ["xylem", "b"], None),
        ("nothing", ["like", "it"], None),
    ],
)
def test_what_begins_so_goes_before_what_looks_alike(wrong: str, known: list[str], meant: str | None) -> None:
    assert nearest(wrong, known) == meant


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("tensor_parallel_size=2", "parallelism.tensor_parallel_size"),
        ("engine.tensor_parallel_size=2", "parallelism.tensor_parallel_size"),
        ("max_model_len=1024", "engine.max_model_len"),
        ("engine.max_batch_size=4", "engine.batching.max_batch_size"),
        ("speculation.max_batch_size=4", "speculation.by_batch.max_batch_size"),
        ("workload.ttft=1 s", "slo.ttft"),
        ("engine.max_modle_len=1024", "max_model_len"),
        ("hardware=h100", "h100-sxm"),
        ("engine.kv_cache=fp8", "kv_cache_dtype"),
    ],
)
def test_a_wrong_key_is_found_elsewhere_in_the_tree(tmp_path: Path, override: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(tmp_path, MINIMAL), [override])
    assert f"(did you mean '{meant}'?)" in str(caught.value)
