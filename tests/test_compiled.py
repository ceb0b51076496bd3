"""Compiled or plain, it is the same: which one runs, what a user's own Python may do, the bytes of runs.

`make test` runs this with plain Python, `make test-compiled` with the wheel.
"""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import sysconfig
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from sim.compiled import is_compiled
from sim.config.catalog import load_gpu, load_model
from sim.core.block_pool import BlockPool, NoFreeBlocksError
from sim.core.engine import EngineConfig, EngineCore
from sim.core.kv_cache import CacheConfig, KVCacheManager
from sim.core.policy import FcfsQueue
from sim.core.request import Request, Sequence
from sim.core.scheduler import Scheduler
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import StepPlan, StepResult
from sim.cost.step_time import KernelCost
from tests import same_bytes
from tests.core.stepping import in_queue, make_core, step_until_preemption

CONFIG = SchedulerConfig(max_model_len=64, max_num_batched_tokens=64)
CACHE = CacheConfig(10, block_size=4, enable_prefix_caching=False)
CORE = EngineConfig(CACHE, CONFIG)

# Which one runs -------------------------------------------------------------------------------------------


def _python(code: str, **environment: str) -> str:
    """What this interpreter prints, with the code that is under test."""
    env = {**os.environ, "PYTHONPATH": str(Path(sys.modules["sim"].__path__[0]).parent), **environment}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    return done.stdout.strip()


def test_plain_python_can_always_be_asked_for() -> None:
    where = (
        "import sim.core.engine, sim.compiled; print(sim.core.engine.__file__, sim.compiled.running_code())"
    )
    assert _python(where, PAGECAST_PURE="1").endswith("engine.py plain Python")
    asked_for_nothing = _python(where, PAGECAST_PURE="0")
    assert asked_for_nothing.endswith(" compiled" if is_compiled() else "engine.py plain Python")


def test_sources_are_found_beside_modules_that_would_come_first(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for folder in (tmp_path, package / "inner"):
        (folder / "twice.py").write_text("")
        (folder / f"twice{suffix}").write_text("no library at all")
    where = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    inside, outside = where + "import package.inner.twice", where + "import twice"
    chosen = f"from sim.compiled import find_sources_only; find_sources_only({str(package)!r})\n"
    _python(chosen + inside)
    for fails in (inside, chosen + outside):
        with pytest.raises(subprocess.CalledProcessError):
            _python(fails)


# What a user's own Python may do --------------------------------------------------------------------------


class OldestFirst(Scheduler):
    """Preempts whoever has run the longest."""

    def _choose_victim(self) -> Sequence:
        return next(iter(self.running))


def _first_victim(kind: type[Scheduler]) -> int:
    scheduler = kind(CONFIG, KVCacheManager(CACHE, max_model_len=64), plans_sequences=True, max_horizon=1)
    for number in range(2):
        request = Request(number, number, 8, 30)
        scheduler.enqueue(request, [Sequence(number, request, 0, 64)])
    for number in range(60):
        plan = scheduler.schedule(number, 0)
        assert plan is not None
        if plan.preempted:
            return int(plan.preempted[0].request.request_id)
        scheduler.settle(plan, StepResult([1]), 1)
    raise AssertionError("nobody was preempted")


def test_a_subclass_in_plain_python_is_obeyed() -> None:
    assert _first_victim(Scheduler) == 1
    assert _first_victim(OldestFirst) == 0


def test_a_subclass_may_add_what_it_likes_and_call_what_it_overrides() -> None:
    class CountingQueue(FcfsQueue):
        def __init__(self) -> None:
            super().__init__()
            self.num_pushed = 0

        def push(self, seq: Sequence) -> None:
            self.num_pushed += 1
            super().push(seq)

    queue, request = CountingQueue(), Request(0, 0, 1, 1)
    queue.push(Sequence(0, request, 0, 8))
    assert queue.num_pushed == len(queue) == 1


def test_a_core_may_be_subclassed_and_its_methods_wrapped() -> None:
    class Noting(EngineCore):
        def begin_step(self, now_ns: int) -> StepPlan | None:
            stamps.append(now_ns)
            return super().begin_step(now_ns)

    stamps: list[int] = []
    core = Noting(CORE)
    core.submit(Request(0, 0, 8, 2))
    assert core.begin_step(7) is not None
    assert stamps == [7]


def test_step_times_may_be_overridden_in_part() -> None:
    class Slower(KernelCost):
        def _per_token_ns(self, num_tokens: int) -> float:
            return 2 * super()._per_token_ns(num_tokens)

    plan = StepPlan(0, 1, 8, 800, (), (), 8, (), 8)
    model, gpu = load_model("llama-3-8b"), load_gpu("a100-80gb-sxm")
    (usual,), (slower,) = (kind(model, gpu).step_ends_ns(plan) for kind in (KernelCost, Slower))
    assert slower > 1.5 * usual


@pytest.mark.parametrize("value", [CONFIG, CORE, CACHE], ids=lambda value: type(value).__name__)
def test_settings_are_copied_pickled_and_replaced_but_not_written_to(value: Any) -> None:
    assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == replace(value) == value
    (name, *_) = value.__dataclass_fields__
    with pytest.raises(FrozenInstanceError):
        setattr(value, name, getattr(value, name))


def test_a_core_under_way_is_copied_and_both_go_on_alike() -> None:
    core = make_core(num_blocks=10)
    for number in range(2):
        core.submit(Request(number, number, 8, 30))
    twins = [copy.deepcopy(core), pickle.loads(pickle.dumps(core))]
    plans = [step_until_preemption(one) for one in (core, *twins)]
    assert len({plan.step for plan in plans}) == 1
    assert [in_queue(one.running) for one in twins] == [in_queue(core.running)] * 2


def test_misuse_is_the_error_it_always_was() -> None:
    with pytest.raises(NoFreeBlocksError, match="5 blocks wanted, 4 free of 4") as misuse:
        BlockPool(4).take(5)
    assert isinstance(misuse.value, RuntimeError)


# The bytes of runs ----------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not is_compiled(), reason="compares compiled code with plain, and there is no compiled code"
)
@pytest.mark.parametrize("case", same_bytes.runnable(), ids=lambda case: case.name)
def test_run_folders_are_the_same_to_the_byte(case: same_bytes.Case) -> None:
    digests = [same_bytes.digests([case], ["--no-plots"], PAGECAST_PURE=pure) for pure in ("0", "1")]
    compiled, plain = (each[case.name] for each in digests)
    assert {"requests.npz", "steps.npz", "tokens.npz", "summary.json"} < compiled.keys()
    assert compiled == plain
