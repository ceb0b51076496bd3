"""The matrix of block tables follows plans: it holds what the sequences hold, whatever happened to them."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gpu_backend.memory.block_tables import BlockTables
from sim.core.engine import EngineConfig, EngineCore, PlanDetail
from sim.core.group import GroupSchedulerConfig, PreemptionMode
from sim.core.kv_cache import CacheConfig
from sim.core.request import Request
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import StepPlan, StepResult

BLOCK_SIZE = 2
MAX_MODEL_LEN = 24


def core(num_blocks: int, *, is_paper: bool) -> EngineCore:
    cache = CacheConfig(num_blocks, BLOCK_SIZE, enable_prefix_caching=False)
    scheduler = (
        GroupSchedulerConfig(
            MAX_MODEL_LEN, num_host_blocks=60, preemption=PreemptionMode.SWAP, watermark_fraction=0.0
        )
        if is_paper
        else SchedulerConfig(MAX_MODEL_LEN, max_num_batched_tokens=9)
    )
    return EngineCore(EngineConfig(cache, scheduler, 1, PlanDetail.SEQUENCES))


def check(tables: BlockTables, plan: StepPlan) -> None:
    seqs = [row.seq for row in plan.rows]
    matrix = tables.of(seqs)
    assert matrix.dtype == np.int32
    for row, seq in zip(matrix.tolist(), seqs, strict=True):
        assert row[: len(seq.table)] == seq.table


@given(
    sizes=st.lists(
        st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3)), min_size=1, max_size=8
    ),
    num_blocks=st.integers(14, 40),
    is_paper=st.booleans(),
    num_rows=st.integers(1, 3),
)
def test_every_scheduled_row_is_its_sequences_table(
    sizes: list[tuple[int, int, int]], num_blocks: int, *, is_paper: bool, num_rows: int
) -> None:
    """With few rows to begin with: they are given to others, and the matrix grows where it must."""
    engine, tables = core(num_blocks, is_paper=is_paper), BlockTables(num_rows, 1)
    for number, (prompt, output, samples) in enumerate(sizes):
        engine.submit(Request(number, 0, prompt, output, samples))
    while (plan := engine.begin_step(0)) is not None:
        tables.update(plan)
        check(tables, plan)
        engine.finish_step(plan, StepResult([1]))
    assert not engine.has_unfinished
