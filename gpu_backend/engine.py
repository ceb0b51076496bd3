"""`DeviceBody`: an experiment's engine on a device, in the same fleet that simulates it. Read this first.

    the fleet (sim.fleet)        arrivals, routing, closed loops, turns, give-ups        the same for both
    the brain (sim.core)         which step, which blocks                                the same for both
    the body                     physics: predicts a step      device: does it, and says how long it took

Two clocks. `measured`: time is the sum of the steps' own times, so nobody waits for arrivals and whatever
else the machine does is left out. `wall`: requests arrive in real time, and a step ends when it really ended.

Owns how models, storage and executors are put together. Refuses to measure and to decide.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import Enum

from gpu_backend.cuda_graphs import cuda_capture
from gpu_backend.devices import Place, check_room
from gpu_backend.executor import TorchExecutor
from gpu_backend.memory.block_tables import BlockTables
from gpu_backend.memory.kv_storage import KVStorage, StorageShape
from gpu_backend.model.llama import LlamaModel
from gpu_backend.model.texts import Prompts, Texts
from gpu_backend.runner import GraphSettings, ModelRunner, padded_sizes
from gpu_backend.speculation.choosing import Chooser
from gpu_backend.speculation.drafting import Drafter
from gpu_backend.yardstick import WithYardstick, Yardstick
from sim.core.engine import EngineConfig, EngineCore
from sim.core.group import GroupSchedulerConfig, VictimCost
from sim.core.kv_cache import CacheConfig
from sim.core.step import Executor, StepOutcome, StepPlan, StepResult
from sim.cost.host_traffic import HostTraffic
from sim.fleet.clocks import RealTime, Time, real_time, simulated_time
from sim.fleet.driver import Timeline
from sim.record.plan_log import PlanFacts, PlanLog
from sim.replay_settings import SamplingSettings
from sim.speculation.speculator import DraftCounter, Speculation, SpeculationCost

LARGEST_GRAPH = 512
"""Sequences; above, a step's kernels are long enough to hide their launches."""


class Clock(Enum):
    """What time is."""

    MEASURED = "measured"
    """The sum of the times that the steps took."""
    WALL = "wall"
    """Real time."""


@dataclass(frozen=True, slots=True)
class Models:
    """What is served, and what drafts for it."""

    target: LlamaModel
    draft: LlamaModel | None = None


@dataclass(frozen=True, slots=True)
class Speculating:
    """How much is drafted, and the step times that an adaptive number goes by."""

    config: Speculation
    cost: SpeculationCost


@dataclass(slots=True)
class DeviceBody:
    """Engines on a device; implements `sim.fleet.cluster.Body`.

    Attributes:
        prompts: What the requests say.
        counts_launches: Whether each step's launches are counted.
        yardstick: Measures the machine between steps, where time is measured.
        victim_cost: By which a victim is swapped or recomputed, where that is to be decided.
        executors: Those made so far, one for each replica.
        plans: What was decided so far.
    """

    place: Place
    models: Models
    config: EngineConfig
    prompts: Prompts
    settings: SamplingSettings
    seed: int
    time: Clock = Clock.MEASURED
    speculating: Speculating | None = None
    victim_cost: VictimCost | None = None
    yardstick: Yardstick | None = None
    counts_launches: bool = False
    executors: list[TorchExecutor] = field(default_factory=list)
    plans: list[PlanFacts] = field(default_factory=list)

    @property
    def traffic(self) -> HostTraffic | None:
        """None: blocks are moved within the steps."""
        return None

    def clock(self) -> Time:
        """Time that passes by itself, or that steps let pass."""
        if self.time is Clock.MEASURED:
            return simulated_time()
        return real_time()

    def core(self, config: EngineConfig) -> EngineCore:
        """A brain whose time to decide is measured."""
        return TimedCore(config, self.victim_cost, by_thread=not self.place.is_cuda)

    def executor(self, core: EngineCore, timeline: Timeline) -> Executor:
        """The engine of one more replica, with memory of its own."""
        assert isinstance(core, TimedCore), "made by `core`"
        executor = self._executor(core)
        executor.counts_launches = self.counts_launches
        self.executors.append(executor)
        clocked: Executor = executor
        if self.yardstick is not None:
            clocked = WithYardstick(executor, self.yardstick)
        elif self.time is Clock.WALL:
            clocked = OnTheWall(executor, timeline)
        return PlanLog(clocked, self.plans, len(self.executors) - 1)

    def release(self) -> None:
        """Give the memory of all keys, values and graphs back; what was said and measured stays."""
        for executor in self.executors:
            executor.release()

    def _executor(self, core: TimedCore) -> TorchExecutor:
        shape, texts = storage_shape(core), Texts(self.prompts)
        block_size, seed = shape.block_size, self.seed
        scheduler = core.config.scheduler
        max_blocks = -(-(scheduler.max_model_len + scheduler.num_lookahead_slots) // block_size)
        tables = BlockTables(scheduler.max_num_seqs, max_blocks)
        target, draft = self.models.target, self.models.draft
        chooser = Chooser(
            texts,
            self.settings,
            seed=seed,
            forks_samples=isinstance(scheduler, GroupSchedulerConfig),
            implementation=self.place.implementation,
        )
        drafter = counter = None
        if draft is not None and self.speculating is not None:
            runner = self._runner(draft, shape, scheduler.max_num_seqs, max_blocks)
            drafter = Drafter(runner, texts, self.settings, block_size=block_size, seed=seed)
            counter = DraftCounter(self.speculating.config, self.speculating.cost)
        return TorchExecutor(
            self._runner(target, shape, scheduler.max_num_seqs, max_blocks),
            texts,
            tables,
            chooser,
            drafter,
            counter,
            block_size=block_size,
            take_schedule_ns=core.take_spent_ns,
        )

    def _runner(
        self, model: LlamaModel, shape: StorageShape, max_num_seqs: int, max_blocks: int
    ) -> ModelRunner:
        graphs = None
        if self.place.uses_graphs:
            sizes = padded_sizes(min(max_num_seqs, LARGEST_GRAPH))
            graphs = GraphSettings(cuda_capture(self.place.device), sizes, max_blocks)
        runner = ModelRunner(model, self._storage(model, shape), graphs)
        runner.capture()
        return runner

    def _storage(self, model: LlamaModel, shape: StorageShape) -> KVStorage:
        needed = storage_bytes(model, shape)
        check_room(self.place, needed, f"the KV cache of {shape.num_device_blocks:,} blocks")
        return KVStorage(model.config, shape, model.dtype, self.place.device, self.place.implementation)


class TimedCore(EngineCore):
    """A brain that says how long it thought."""

    __slots__ = ("_now_ns", "_spent_ns")

    def __init__(self, config: EngineConfig, victim_cost: VictimCost | None, *, by_thread: bool) -> None:
        super().__init__(config, victim_cost)
        self._now_ns = time.thread_time_ns if by_thread else time.perf_counter_ns
        self._spent_ns = 0

    def begin_step(self, now_ns: int) -> StepPlan | None:
        """See `EngineCore`."""
        began_ns = self._now_ns()
        plan = super().begin_step(now_ns)
        self._spent_ns += self._now_ns() - began_ns
        return plan

    def finish_step(self, plan: StepPlan, result: StepResult, num_steps: int = 1) -> StepOutcome:
        """See `EngineCore`."""
        began_ns = self._now_ns()
        outcome = super().finish_step(plan, result, num_steps)
        self._spent_ns += self._now_ns() - began_ns
        return outcome

    def take_spent_ns(self) -> int:
        """Time spent deciding since this was last asked."""
        spent_ns, self._spent_ns = self._spent_ns, 0
        return spent_ns


class OnTheWall:
    """Lets a step end when it ends in real time, all that came before it included."""

    def __init__(self, executor: Executor, timeline: Timeline) -> None:
        assert isinstance(timeline.env, RealTime), "real time passes by itself"
        self._executor = executor
        self._timeline = timeline
        self._env = timeline.env
        self._env.sync()  # requests come once the engine is ready

    def execute(self, plan: StepPlan) -> StepResult:
        """See `sim.core.step.Executor`."""
        result = self._executor.execute(plan)
        wall_ns = round((time.monotonic() - self._env.real_start) * 1e9)
        return result._replace(ends_ns=[max(wall_ns - self._timeline.now_ns, 1)])


def storage_shape(core: EngineCore) -> StorageShape:
    """The blocks that a brain gives out, on the device and on the host."""
    cache = core.config.cache
    assert isinstance(cache, CacheConfig), "checked before: a device has pages only"
    scheduler = core.config.scheduler
    num_host = scheduler.num_host_blocks if isinstance(scheduler, GroupSchedulerConfig) else 0
    return StorageShape(
        num_device_blocks=cache.num_blocks + cache.has_null_block,
        num_host_blocks=num_host + cache.num_offload_blocks,
        block_size=cache.block_size,
    )


def storage_bytes(model: LlamaModel, shape: StorageShape) -> int:
    """Device memory of a model's blocks."""
    config = model.config
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return shape.num_device_blocks * shape.block_size * per_token * model.dtype.itemsize
