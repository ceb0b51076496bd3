"""Replicas behind a router, and the clients in front of it.

Open loop: each request arrives when the workload says. Closed loop: a fixed number of users, each
sending the next request of the workload some time after his last one ended. Turns: a request that waits
for others (a session's next turn) arrives some time after all of them ended, however they ended.

Routers: `round_robin`; `least_outstanding` requests; `prefix_affine`, which prefers the replica that
served the longest part of the prompt before (or the session), unless that one is much busier than the
idlest.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import simpy
from workloads.spec import RequestSpec, Workload

from sim.content import RequestContent
from sim.core.engine import EngineConfig, EngineCore
from sim.core.request import Request
from sim.core.request import Sequence as TokenStream
from sim.driver import Replica, SimulationError, Wait
from sim.executor import CostModel, SimExecutor
from sim.record_builder import build_record
from sim.recorder import Recorder
from sim.run_record import RunRecord

Progress = Callable[[int, int, int], None]
"""Called now and then with simulated nanoseconds, requests ended, requests in all."""


class RouterKind(Enum):
    """How a request finds its replica."""

    ROUND_ROBIN = "round_robin"
    LEAST_OUTSTANDING = "least_outstanding"
    PREFIX_AFFINE = "prefix_affine"


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """Size of the fleet, and how requests are spread over it.

    Attributes:
        num_replicas: Engines, each with a memory of its own. router: How a request finds its replica.
        max_affinity_excess: With `prefix_affine`: how many more outstanding requests than the idlest
        replica the
            preferred one may have.
    """

    num_replicas: int = 1
    router: RouterKind = RouterKind.ROUND_ROBIN
    max_affinity_excess: int = 8

    def __post_init__(self) -> None:
        if self.num_replicas < 1 or self.max_affinity_excess < 0:
            raise ValueError(
                f"replicas ({self.num_replicas}) must be at least 1, max_affinity_excess "
                f"({self.max_affinity_excess}) not negative"
            )


class Router(Protocol):
    """Chooses a replica for each request."""

    def choose(self, spec: RequestSpec, outstanding: Sequence[int]) -> int:
        """The replica for `spec`, given each replica's number of unfinished requests."""
        ...


class RoundRobin:
    """Each replica in turn."""

    def __init__(self) -> None:
        self._next = 0

    def choose(self, spec: RequestSpec, outstanding: Sequence[int]) -> int:
        """The next in turn."""
        chosen = self._next
        self._next = (chosen + 1) % len(outstanding)
        return chosen


class LeastOutstanding:
    """The replica with the fewest unfinished requests; of equals the first."""

    def choose(self, spec: RequestSpec, outstanding: Sequence[int]) -> int:
        """The idlest."""
        return outstanding.index(min(outstanding))


class PrefixAffine:
    """The replica that last served the longest known prefix, or the session, of a request."""

    def __init__(self, max_excess: int) -> None:
        self._max_excess = max_excess
        self._last_replica: dict[int | str, int] = {}

    def choose(self, spec: RequestSpec, outstanding: Sequence[int]) -> int:
        """The preferred replica, or the idlest if nothing is known or the preferred one is too busy."""
        idlest = outstanding.index(min(outstanding))
        known = (self._last_replica.get(key) for key in self._keys(spec))
        preferred = next((replica for replica in known if replica is not None), idlest)
        if outstanding[preferred] > outstanding[idlest] + self._max_excess:
            preferred = idlest
        self._last_replica.update(dict.fromkeys(self._keys(spec), preferred))
        return preferred

    @staticmethod
    def _keys(spec: RequestSpec) -> list[int | str]:
        """What a request may be known by, the longest prefix first (ids are chained)."""
        keys: list[int | str] = list(reversed(spec.hash_ids))
        if spec.session is not None:
            keys.append(spec.session)
        return keys


def make_router(config: ClusterConfig) -> Router:
    """The router a configuration asks for."""
    match config.router:
        case RouterKind.ROUND_ROBIN:
            return RoundRobin()
        case RouterKind.LEAST_OUTSTANDING:
            return LeastOutstanding()
        case RouterKind.PREFIX_AFFINE:
            return PrefixAffine(config.max_affinity_excess)


class Cluster:
    """One simulated fleet serving one workload once."""

    def __init__(
        self,
        workload: Workload,
        engine: EngineConfig,
        cost: CostModel,
        config: ClusterConfig,
        on_progress: Progress | None = None,
    ) -> None:
        self._env = env = simpy.Environment()
        self._workload = workload
        self._router = make_router(config)
        self._recorder = Recorder(config.num_replicas)
        self._replicas = [
            Replica(env, number, EngineCore(engine), SimExecutor(cost), log, self._note_end)
            for number, log in enumerate(self._recorder.replicas)
        ]
        self._outstanding = [0] * config.num_replicas
        self._caches_prefixes = engine.cache.enable_prefix_caching
        self._block_size = engine.cache.block_size
        self._clients = _Clients(workload, env, self._arrive)
        self._num_ended = 0
        self._all_ended = env.event()
        self._on_progress = on_progress
        self._progress_stride = max(len(workload) // 200, 1)

    def run(self) -> RunRecord:
        """Simulate until every request has ended.

        Raises:
            SimulationError: Requests stand still, or blocks are held at the end.
        """
        was_enabled = gc.isenabled()
        gc.disable()  # The hot path makes no cycles; looking for them would take a fifth of the time.
        started = time.process_time()
        try:
            self._env.process(self._clients.arrivals())
            if len(self._workload):
                self._env.run(until=self._all_ended)
        except RuntimeError as error:
            if not self._all_ended.triggered and "No scheduled events left" in str(error):
                raise SimulationError(self._standstill()) from error
            raise
        finally:
            cpu_s = time.process_time() - started
            if was_enabled:
                gc.enable()
        cores = [replica.core for replica in self._replicas]
        self._check_ended(cores)
        return build_record(self._recorder, cores, cpu_s)

    def _arrive(self, spec: RequestSpec) -> None:
        """A request arrives now."""
        replica = self._router.choose(spec, self._outstanding)
        content = None
        if self._caches_prefixes:
            content = RequestContent(
                spec.index, spec.prompt_tokens, self._block_size, spec.hash_ids, spec.hash_block_tokens or 1
            )
        request = Request(
            spec.index,
            self._env.now,  # type: ignore[arg-type]
            spec.prompt_tokens,
            spec.output_tokens,
            spec.num_samples,
            spec.priority,
            content,
        )
        self._outstanding[replica] += 1
        if not self._replicas[replica].submit(request):
            self._recorder.note_refused(request, replica, self._env.now)  # type: ignore[arg-type]
            self._note_request_end(request, replica)
        elif spec.cancel_after_ns is not None:
            self._clients.after(spec.cancel_after_ns, lambda: self._give_up(request, replica))

    def _give_up(self, request: Request, replica: int) -> None:
        if not request.is_finished:
            self._replicas[replica].give_up(request.request_id)

    def _note_end(self, seq: TokenStream, replica: int) -> None:
        self._recorder.note_end(seq, replica, self._env.now)  # type: ignore[arg-type]
        if not seq.request.num_unfinished:
            self._note_request_end(seq.request, replica)

    def _note_request_end(self, request: Request, replica: int) -> None:
        self._outstanding[replica] -= 1
        self._num_ended = num_ended = self._num_ended + 1
        if num_ended == len(self._workload):
            self._all_ended.succeed()
        elif self._clients.has_followers:
            self._clients.note_end(request.request_id)
        if self._on_progress is not None and num_ended % self._progress_stride == 0:
            self._on_progress(self._env.now, num_ended, len(self._workload))  # type: ignore[arg-type]

    def _standstill(self) -> str:
        waiting = sum(replica.core.num_waiting for replica in self._replicas)
        running = sum(replica.core.num_running for replica in self._replicas)
        return (
            f"nothing moves any more: {self._num_ended} of {len(self._workload)} requests ended, "
            f"{waiting} sequences wait, {running} run, the others never arrived"
        )

    def _check_ended(self, cores: list[EngineCore]) -> None:
        for core in cores:
            core.check_invariants()
            if core.has_unfinished or core.num_used_blocks:
                raise SimulationError(f"{core.num_used_blocks} blocks are still held at the end")


class _Clients:
    """Sends the requests of a workload when they are due."""

    def __init__(
        self, workload: Workload, env: simpy.Environment, arrive: Callable[[RequestSpec], None]
    ) -> None:
        self._workload = workload
        self._env = env
        self._arrive = arrive
        self._num_missing = {index: len(set(turn.after)) for index, turn in workload.waits_for.items()}
        self._followers: dict[int, list[int]] = {}
        for index, turn in workload.waits_for.items():
            for leader in dict.fromkeys(turn.after):
                self._followers.setdefault(leader, []).append(index)
        self._next_row = workload.concurrency or 0
        self.has_followers = workload.concurrency is not None or bool(self._followers)

    def arrivals(self) -> Wait:
        """Send what does not wait for anything else."""
        env, request = self._env, self._workload.request
        if self._workload.concurrency is not None:
            for index in range(min(self._next_row, len(self._workload))):
                self._arrive(request(index))
            return
        waiting = self._num_missing
        for index, arrival_ns in enumerate(self._workload.arrival_ns.tolist()):
            if index in waiting:
                continue
            if arrival_ns > env.now:
                yield env.timeout(arrival_ns - env.now)
            self._arrive(request(index))

    def note_end(self, index: int) -> None:
        """Send, after their delay, the requests that waited for this one to end."""
        if self._workload.concurrency is not None:
            if self._next_row < len(self._workload):
                self._send_later(self._next_row, self._workload.think_time_ns)
                self._next_row += 1
            return
        for follower in self._followers.get(index, ()):
            self._num_missing[follower] -= 1
            if not self._num_missing[follower]:
                self._send_later(follower, self._workload.waits_for[follower].delay_ns)

    def after(self, delay_ns: int, act: Callable[[], None]) -> None:
        """Do something later."""
        timeout = self._env.timeout(delay_ns)
        callbacks: list[Callable[[Any], None]] | None = timeout.callbacks
        assert callbacks is not None, "a new event has callbacks"
        callbacks.append(lambda _: act())

    def _send_later(self, index: int, delay_ns: int) -> None:
        self.after(delay_ns, lambda: self._arrive(self._workload.request(index)))


def run(
    workload: Workload,
    engine: EngineConfig,
    cost: CostModel,
    config: ClusterConfig | None = None,
    on_progress: Progress | None = None,
) -> RunRecord:
    """Simulate a fleet serving a workload; see `Cluster.run`."""
    return Cluster(workload, engine, cost, config or ClusterConfig(), on_progress).run()
