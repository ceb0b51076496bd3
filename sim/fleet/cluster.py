"""The fleet and its clients: replicas behind a router, and when each request is sent.

Open loop: each request arrives when the workload says. Closed loop: a fixed number of users, each sending
the next request of the workload some time after his last one ended. Turns: a request that waits for
others (a session's next turn) arrives some time after all of them have ended, however they ended.

Owns which replica serves which request. Refuses to know what an engine does with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sim.core.engine import EngineConfig, EngineCore
from sim.core.kv_cache import CacheConfig
from sim.core.request import Request, Sequence
from sim.core.step import Executor
from sim.cost.cost_model import CostModel
from sim.cost.host_traffic import HostTraffic
from sim.fleet.beam_search import BeamChanges, BeamLaw
from sim.fleet.clocks import Time, simulated_time
from sim.fleet.content import RequestContent
from sim.fleet.driver import Engine, Replica, SimulationError, Timeline, Wait
from sim.fleet.executor import SimExecutor
from sim.fleet.links import HostLink, host_links
from sim.fleet.router import HearsOfEnds, Router, RouterKind, make_router
from sim.fleet.victim_cost import CheaperOfTwo
from sim.record.recorder import Recorder
from sim.speculation.speculator import DraftCounter, Speculation, SpeculationCost, Speculator
from workloads.spec import RequestSpec, Workload

Progress = Callable[[int, int, int], None]
"""Called now and then with simulated nanoseconds, requests ended, requests in all."""
_PROGRESS_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """Size of the fleet, and how requests are spread over it.

    Attributes:
        num_replicas: Engines, each with a memory of its own.
        router: How a request finds its replica.
        max_affinity_excess: With `prefix_affine`: how many more unfinished requests than the idlest replica
            the preferred one may have.
        make_router: Makes a router of one's own; None: one of kind `router`.
    """

    num_replicas: int = 1
    router: RouterKind = RouterKind.ROUND_ROBIN
    max_affinity_excess: int = 8
    make_router: Callable[[], Router] | None = None

    def __post_init__(self) -> None:
        if self.num_replicas < 1 or self.max_affinity_excess < 0:
            raise ValueError(
                f"replicas ({self.num_replicas}) must be at least 1, max_affinity_excess "
                f"({self.max_affinity_excess}) not negative"
            )

    def new_router(self) -> Router:
        """A router that knows nothing yet."""
        if self.make_router is not None:
            return self.make_router()
        return make_router(self.router, max_affinity_excess=self.max_affinity_excess)


class Body(Protocol):
    """What a fleet's brains are put into: physics (`Physics`), or a device (`gpu_backend.engine`)."""

    @property
    def traffic(self) -> HostTraffic | None:
        """How blocks travel to the host and back beside the steps; None: in no time, or within them."""
        ...

    def clock(self) -> Time:
        """The time that passes, in nanoseconds from 0."""
        ...

    def core(self, config: EngineConfig) -> EngineCore:
        """The brain of one more replica."""
        ...

    def executor(self, core: EngineCore, timeline: Timeline) -> Executor:
        """What carries out the plans of that brain."""
        ...


@dataclass(frozen=True, slots=True)
class Physics:
    """The simulated body: what takes time, and what only a model could decide.

    Attributes:
        cost: Step times.
        traffic: How blocks travel to the host and back, and are copied; None: in no time.
        beams: How often beams change parents; None: never.
        speculation: What is drafted and kept; None: nothing.
        draft_cost: Step times of the draft model, where there is one.
        decides_by: By whose times an engine decides what depends on them (an adaptive number of drafts,
            swapping a victim or not); None: by these.
    """

    cost: CostModel
    traffic: HostTraffic | None = None
    beams: BeamLaw | None = None
    speculation: Speculation | None = None
    draft_cost: CostModel | None = None
    decides_by: Physics | None = None

    def clock(self) -> Time:
        """Simulated time: it takes none."""
        return simulated_time()

    def core(self, config: EngineConfig) -> EngineCore:
        """The brain of a replica; whether a victim is swapped or recomputed follows from the step times."""
        times = self.decides_by or self
        if times.traffic is None:
            return EngineCore(config)
        return EngineCore(config, CheaperOfTwo(times.traffic.moves, times.cost))

    def executor(self, core: EngineCore, timeline: Timeline) -> SimExecutor:
        """Predicts, whoever asks and whenever."""
        moves = self.traffic.moves if self.traffic is not None else None
        beams = BeamChanges(self.beams) if self.beams is not None else None
        speculator = None
        if self.speculation is not None:
            times = self.decides_by or self
            by = SpeculationCost(self.speculation, times.cost, times.draft_cost)
            counter = DraftCounter(self.speculation, by)
            speculator = Speculator(self.speculation, self.cost, self.draft_cost, counter)
        return SimExecutor(self.cost, moves, beams, speculator)


ONE_REPLICA = ClusterConfig()


class Cluster:
    """One fleet, serving one workload once."""

    def __init__(
        self,
        workload: Workload,
        engine: EngineConfig,
        body: Body,
        config: ClusterConfig = ONE_REPLICA,
        on_progress: Progress | None = None,
    ) -> None:
        self.recorder = Recorder(config.num_replicas)
        self.cores = [body.core(engine) for _ in range(config.num_replicas)]
        self._timeline = timeline = Timeline(len(workload), body.clock())
        links = _links(timeline, config, body.traffic)
        engines = [
            Engine(core, body.executor(core, timeline), log, body.traffic, link)
            for core, log, link in zip(self.cores, self.recorder.replicas, links, strict=True)
        ]
        self._replicas = [
            Replica(number, engine, timeline, self._note_ended) for number, engine in enumerate(engines)
        ]
        self._router = config.new_router()
        self._hears_of_ends = self._router if isinstance(self._router, HearsOfEnds) else None
        self._outstanding = [0] * config.num_replicas
        self._replica_of: dict[int, int] = {}
        """By id of each request that has not ended."""
        self._cache = engine.cache
        paged = engine.cache if isinstance(engine.cache, CacheConfig) else None
        self._num_key_lookahead_tokens = paged.num_key_lookahead_tokens if paged is not None else 0
        self._beam_width = workload.beam_width
        self._clients = _Clients(workload, timeline, self._arrive)
        self._num_ended = 0
        self._num_requests = len(workload)
        self._progress = _Throttled(on_progress) if on_progress is not None else None

    def run(self, until_ns: int | None = None) -> None:
        """Run until nothing is left to happen, or until an instant."""
        self._timeline.env.process(self._clients.arrivals())
        self._timeline.env.run(until_ns)

    def check_ended(self) -> None:
        """Verify that every request has ended and gave back what it held.

        Raises:
            SimulationError: Requests stand still, or blocks are held.
        """
        if self._num_ended < self._num_requests:
            raise SimulationError(self._standstill())
        for core in self.cores:
            core.check_invariants()
            if core.num_used_blocks or core.num_used_host_blocks:
                raise SimulationError(
                    f"{core.num_used_blocks} blocks are still held at the end, and "
                    f"{core.num_used_host_blocks} of the host"
                )

    def _arrive(self, spec: RequestSpec) -> None:
        """A request arrives now."""
        self._timeline.refuse_late()
        now_ns = self._timeline.now_ns
        replica = self._router.choose(spec, self._outstanding)
        if not 0 <= replica < len(self._replicas):
            raise SimulationError(
                f"{type(self._router).__name__} sent request {spec.request_id} to replica {replica} of "
                f"{len(self._replicas)}"
            )
        content = None
        if self._cache.enable_prefix_caching:
            content = RequestContent(spec, self._cache.block_size, self._num_key_lookahead_tokens)
        index, _, prompt_tokens, output_tokens, num_samples, priority, *_ = spec
        beam_width = self._beam_width
        request = Request(
            index,
            now_ns,
            prompt_tokens,
            output_tokens,
            beam_width or num_samples,
            priority,
            content,
            beam_width=beam_width,
        )
        self._outstanding[replica] += 1
        self._replica_of[index] = replica
        if not self._replicas[replica].submit(request):
            self.recorder.note_refused(request, replica, now_ns)
            self._note_request_ended(index)
        elif spec.cancel_after_ns is not None:
            priority_of_it = self._timeline.give_up_priority(index)
            self._timeline.call(lambda: self._give_up(index), spec.cancel_after_ns, priority_of_it)

    def _give_up(self, index: int) -> None:
        replica = self._replica_of.get(index)
        if replica is not None:
            self._replicas[replica].give_up(index)

    def _note_ended(self, seqs: list[Sequence], replica: int) -> None:
        """Sequences of a replica have ended now."""
        now_ns = self._timeline.now_ns
        for seq in seqs:
            self.recorder.note_end(seq, replica, now_ns)
        for seq in seqs:
            request = seq.request
            if not request.num_unfinished and request.request_id in self._replica_of:
                self._note_request_ended(request.request_id)

    def _note_request_ended(self, index: int) -> None:
        replica = self._replica_of.pop(index)
        self._outstanding[replica] -= 1
        if self._hears_of_ends is not None:
            self._hears_of_ends.ended(self._clients.spec(index), replica)
        self._num_ended += 1
        self._clients.note_ended(index)
        if self._progress is not None:
            self._progress(self._timeline.now_ns, self._num_ended, self._num_requests)

    def _standstill(self) -> str:
        arrived = sorted(self._replica_of)
        num_missing = self._num_requests - self._num_ended - len(arrived)
        return (
            f"nothing moves any more: {self._num_ended} of {self._num_requests} requests have ended, "
            f"{len(arrived)} stand still ({_first_few(arrived)}), {num_missing} never arrived"
            f"{self._circling()}"
        )

    def _circling(self) -> str:
        """Which replicas are caught in a circle, as vLLM's scheduler would be, and what gets them out."""
        caught = [number for number, core in enumerate(self.cores) if core.is_circling]
        if not caught:
            return ""
        return (
            f"; the scheduler of replica {_first_few(caught)} goes in circles: requests of equal priority "
            "preempt each other before any of them gets a token, and so would vLLM's. More blocks, a smaller "
            "max_num_seqs, full_sequence_gate: true or scheduling_policy: fcfs lets them end"
        )


class _Clients:
    """Sends the requests of a workload when they are due."""

    def __init__(self, workload: Workload, timeline: Timeline, arrive: Callable[[RequestSpec], None]) -> None:
        self._timeline = timeline
        self._arrive = arrive
        self._specs = workload.requests()
        self._think_time_ns = workload.think_time_ns
        self._num_sent = min(workload.concurrency or 0, len(workload))
        self._is_closed_loop = workload.concurrency is not None
        self._waits_for = workload.waits_for
        self._num_awaited = {index: len(set(turn.after)) for index, turn in workload.waits_for.items()}
        self._followers: dict[int, list[int]] = {}
        for index, turn in workload.waits_for.items():
            for leader in set(turn.after):
                self._followers.setdefault(leader, []).append(index)

    def spec(self, index: int) -> RequestSpec:
        """What was asked for."""
        return self._specs[index]

    def arrivals(self) -> Wait:
        """Send what waits for nothing but its time."""
        timeline, arrive, waits_for = self._timeline, self._arrive, self._waits_for
        if self._is_closed_loop:
            for spec in self._specs[: self._num_sent]:
                arrive(spec)
            return
        for spec in self._specs:
            if spec.request_id in waits_for:
                continue
            delay_ns = spec.arrival_ns - timeline.now_ns
            if delay_ns:
                yield timeline.env.timeout(delay_ns)
            arrive(spec)

    def note_ended(self, index: int) -> None:
        """Send, after their delay, the requests that waited for this one to end."""
        if self._is_closed_loop:
            if self._num_sent < len(self._specs):
                self._num_sent += 1
                self._send(self._num_sent - 1, self._think_time_ns)
            return
        for follower in self._followers.pop(index, ()):
            self._num_awaited[follower] -= 1
            if not self._num_awaited[follower]:
                self._send(follower, self._waits_for[follower].delay_ns)

    def _send(self, index: int, delay_ns: int) -> None:
        spec = self._specs[index]
        self._timeline.call(lambda: self._arrive(spec), delay_ns, self._timeline.follow_up_priority(index))


class _Throttled:
    """Passes progress on, some times a second."""

    def __init__(self, report: Progress) -> None:
        self._report = report
        self._due_s = 0.0

    def __call__(self, now_ns: int, num_ended: int, num_requests: int) -> None:
        """Report, unless that was done just now and more is to come."""
        wall_s = time.monotonic()
        if wall_s >= self._due_s or num_ended == num_requests:
            self._due_s = wall_s + _PROGRESS_INTERVAL_S
            self._report(now_ns, num_ended, num_requests)


def _first_few(indices: list[int]) -> str:
    """The first ten, as text."""
    shown = ", ".join(str(index) for index in indices[:10])
    return f"{shown}, ..." if len(indices) > 10 else shown or "none"


def _links(timeline: Timeline, config: ClusterConfig, traffic: HostTraffic | None) -> list[HostLink | None]:
    """The link of each replica to its host; None where nothing travels."""
    if traffic is None:
        return [None] * config.num_replicas
    per_link = traffic.replicas_per_link
    return [*host_links(timeline.env, config.num_replicas, replicas_per_link=per_link)]
