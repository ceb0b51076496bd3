"""The whole Azure 2023 conversation trace, as `configs/azure_conv.yaml` asks for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.config import load_experiment
from sim.simulation import simulate

REPO = Path(__file__).resolve().parent.parent


@pytest.mark.usefixtures("traces_dir")
def test_every_request_of_the_azure_trace_ends_with_all_its_tokens_and_no_block_is_kept() -> None:
    record = simulate(load_experiment(REPO / "configs" / "azure_conv.yaml"))
    requests = record.requests
    assert record.num_requests == 19_366
    assert set(requests["finish_reason"].tolist()) == {"length"}
    assert int(requests["prompt_tokens"].sum()) == 22_361_870
    assert int(requests["output_tokens"].sum()) == len(record.token_times) == 4_088_665
    assert not np.isnat(requests["finished"]).any()
    assert set(requests["replica"].tolist()) == {0, 1}
