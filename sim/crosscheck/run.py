"""One cross-check: replays on a real engine, simulations of the same, and what comes of comparing them.

    replay (again and again)      ->  measured latencies, plans, parts of steps, drafts kept
    simulate in lockstep          ->  decisions: equal or not; parts of the same steps as predicted
    simulate in time              ->  predicted latencies      ->  errors, attribution

Owns the order of these and what goes from one to the other. Refuses to know the engine: whoever replays is an
`Engine` here, and step times come from a calibration, or whatever stands for one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from sim.core.engine import EngineConfig
from sim.core.step import ScheduleKind
from sim.cost.block_moves import MoveTimes
from sim.cost.calibration import guesses_of
from sim.cost.cost_model import CostModel
from sim.cost.host_traffic import HostTraffic
from sim.crosscheck.attribution import Attribution, attribute
from sim.crosscheck.comparison import error_rows
from sim.crosscheck.decisions import differing_counters, first_difference
from sim.crosscheck.differences import Differences
from sim.crosscheck.lockstep import Lockstep, ReplayedStep, ReplayEndedError
from sim.crosscheck.observed import Observed, observe
from sim.crosscheck.parts import PartCosts, PartialCost, StepParts
from sim.crosscheck.verdict import AcceptanceRow, Crosscheck, Decisions
from sim.experiment import Experiment
from sim.fleet.cluster import Cluster, Physics
from sim.fleet.victim_cost import CheaperOfTwo
from sim.record.builder import build_record
from sim.record.plan_log import PlanFacts
from sim.record.run_record import RunRecord
from sim.simulation import experiment_cost, experiment_draft_cost, no_garbage_collection, run
from sim.speculation.acceptance import Constant, Recorded, RecordingTooShortError, expected_rate
from sim.speculation.speculator import Speculation, SpeculationCost, Speculator
from workloads.spec import Workload

_TIMING_COUNTERS = frozenset({"num_plans"})


class CalibratedTimes(PartialCost, CostModel, Protocol):
    """Step times that can be asked for in parts."""


@dataclass(frozen=True, slots=True)
class Times:
    """What a simulation in time goes by.

    Attributes:
        target: Step times of the model, time to decide included.
        draft: Those of the draft model, if there is one.
        moves: Swap and copy; None: as the experiment says.
    """

    target: CalibratedTimes
    draft: CostModel | None = None
    moves: MoveTimes | None = None


@dataclass(frozen=True, slots=True)
class Replayed:
    """One replay, as far as a cross-check needs it.

    Attributes:
        plans: In the order in which they were made. parts: Of each of them.
        accepted: Drafts kept in each run of each sequence.
        times: What a simulation of this replay goes by; machines change from one to the next.
        facts: For the environment.
    """

    record: RunRecord
    plans: Sequence[PlanFacts]
    parts: Sequence[StepParts]
    accepted: Mapping[tuple[int, int], tuple[int, ...]]
    times: Times
    facts: Mapping[str, Any]


Engine = Callable[[Workload], Replayed]
"""Replays a workload once."""


def crosscheck(
    experiment: Experiment, workload: Workload, engine: Engine, device_config: EngineConfig
) -> tuple[Crosscheck, Replayed, RunRecord]:
    """Cross-check one experiment.

    Args:
        experiment: What is simulated and replayed.
        workload: Its workload.
        engine: Who replays.
        device_config: The experiment's engine as devices run it: a step a plan, all sequences named.

    Returns:
        What was found, the first replay, and the record of the first simulation in time.
    """
    replays = [engine(workload) for _ in range(experiment.crosscheck.repeats)]
    simulations = [simulated_in_time(experiment, workload, replay, device_config) for replay in replays]
    first = replays[0]
    guesses = guesses_of(first.times.target, first.times.draft, first.times.moves)
    decisions, lockstep = compare_decisions(experiment, workload, first, device_config)
    for number, replay in enumerate(replays[1:], 2):
        others, _ = compare_decisions(experiment, workload, replay, device_config)
        if decisions.are_equal and not others.are_equal:
            decisions = others.in_repeat(number)
    simulated = [observe(record, "simulated") for record in simulations]
    replayed = [observe(replay.record, "replayed") for replay in replays]
    check = Crosscheck(
        experiment.name,
        decisions,
        tuple(error_rows(simulated, replayed, experiment.crosscheck.tolerances)),
        _attribution(lockstep, first, simulations[0]),
        simulated[0],
        replayed[0],
        _differences(lockstep, first, simulations[0], simulated[0], replayed[0]),
        {**first.facts, "repeats": len(replays)},
        acceptance=_acceptance(experiment, workload, first, device_config, replayed[0]),
        acceptance_rate=acceptance_rate(first),
        warnings=guesses,
    )
    return check, first, simulations[0]


# In time ------------------------------------------------------------------------------------------


def simulated_in_time(
    experiment: Experiment,
    workload: Workload,
    replay: Replayed,
    config: EngineConfig,
    law: Constant | Recorded | None = None,
) -> RunRecord:
    """Simulate a replay's workload by step times alone; drafts are kept as they were, or by a law."""
    speculation = experiment.speculation
    if speculation is not None:
        speculation = replace(speculation, acceptance=law or _recorded(speculation, replay))
    times = replay.times
    physics = Physics(
        times.target,
        _traffic(experiment, times),
        experiment.beams,
        speculation,
        times.draft,
        decides_by=Physics(
            experiment_cost(experiment),
            experiment.traffic,
            draft_cost=experiment_draft_cost(experiment),
        ),
    )
    return run(workload, config, physics, experiment.cluster)


def _recorded(speculation: Speculation, replay: Replayed) -> Recorded:
    """What the replay kept; what it was never asked goes by its rate."""
    rate = acceptance_rate(replay)
    return Recorded(
        replay.accepted,
        prior=expected_rate(speculation.acceptance),
        otherwise=0.0 if rate is None else rate,
    )


def _traffic(experiment: Experiment, times: Times) -> HostTraffic | None:
    """The engine moves blocks before it computes, one replica like another."""
    if times.moves is None:
        return experiment.traffic
    return HostTraffic(times.moves)


def acceptance_rate(replay: Replayed) -> float | None:
    """Drafts kept of those that were looked at: nothing after a refused one is. None where none was."""
    num_kept = num_looked_at = 0
    for plan in replay.plans:
        drafted = {
            (request, sample): drafts
            for request, sample, kind, _, _, drafts, _ in plan["rows"]
            if kind == ScheduleKind.RUNNING.value
        }
        for request, sample, kept in plan["accepted"]:
            num_kept += kept
            num_looked_at += min(kept + 1, drafted.get((request, sample), 0))
    return num_kept / num_looked_at if num_looked_at else None


def _acceptance(
    experiment: Experiment, workload: Workload, replay: Replayed, config: EngineConfig, replayed: Observed
) -> tuple[AcceptanceRow, ...]:
    """What it costs to take acceptance for independent draws at one rate."""
    rate = acceptance_rate(replay)
    if experiment.speculation is None or rate is None:
        return ()
    constant, recorded = (
        observe(simulated_in_time(experiment, workload, replay, config, law), "")
        for law in (Constant(rate), _recorded(experiment.speculation, replay))
    )
    rows = []
    for metric in ("tpot_mean", "tpot_p50", "tpot_p99", "e2el_mean", "throughput"):
        values = [run.metric(metric) for run in (constant, recorded, replayed)]
        if None not in values:
            rows.append(AcceptanceRow(metric, *values))  # type: ignore[arg-type]  # None is ruled out
    return tuple(rows)


# In lockstep --------------------------------------------------------------------------------------


def compare_decisions(
    experiment: Experiment, workload: Workload, replay: Replayed, config: EngineConfig
) -> tuple[Decisions, Lockstep]:
    """Simulate in lockstep with a replay, and compare every plan and counter."""
    lockstep = _lockstep(experiment, replay)
    cluster = Cluster(workload, config, lockstep, experiment.cluster)
    with no_garbage_collection(), suppress(ReplayEndedError, RecordingTooShortError):
        cluster.run()  # if it ends early, there is a difference
    difference = first_difference(lockstep.plans, replay.plans)
    counters: dict[str, tuple[int | None, int | None]] = {}
    if difference is None:
        record = build_record(cluster.recorder, cluster.cores, 0.0)
        counters = differing_counters(record.counters, replay.record.counters)
    totals = {name: count for name, count in replay.record.counters.items() if name not in _TIMING_COUNTERS}
    return Decisions(difference, counters, len(replay.plans), totals), lockstep


def _lockstep(experiment: Experiment, replay: Replayed) -> Lockstep:
    num_replicas = experiment.cluster.num_replicas
    steps: list[list[ReplayedStep]] = [[] for _ in range(num_replicas)]
    for facts, parts in zip(replay.plans, replay.parts, strict=True):
        steps[facts["replica"]].append(ReplayedStep(parts, facts))
    make_speculator = drafting = victim_cost = None
    speculation, times = experiment.speculation, replay.times
    if speculation is not None:
        prior = expected_rate(speculation.acceptance)
        recorded = replace(speculation, acceptance=Recorded(replay.accepted, prior))
        costs = experiment_cost(experiment), experiment_draft_cost(experiment)
        make_speculator = partial(Speculator, recorded, *costs)
        drafting = SpeculationCost(recorded, times.target, times.draft)
    if experiment.traffic is not None:
        victim_cost = CheaperOfTwo(experiment.traffic.moves, experiment_cost(experiment))
    moves = times.moves or (experiment.traffic.moves if experiment.traffic is not None else None)
    return Lockstep(steps, victim_cost, make_speculator, PartCosts(times.target, moves, drafting))


def _attribution(lockstep: Lockstep, replay: Replayed, simulation: RunRecord) -> Attribution:
    """Over the steps that both took."""
    count = len(lockstep.predicted)
    lasted = (simulation.steps["end"] - simulation.steps["start"]).astype(np.int64)
    return attribute(
        replay.plans[:count], lockstep.kinds, lockstep.predicted, replay.parts[:count], float(lasted.sum())
    )


def _differences(
    lockstep: Lockstep, replay: Replayed, simulation: RunRecord, simulated: Observed, replayed: Observed
) -> Differences:
    """Of the requests and steps that both have."""
    count = len(lockstep.predicted)
    return Differences.of(
        simulation,
        replay.record,
        simulated,
        replayed,
        replay.plans[:count],
        lockstep.kinds,
        lockstep.predicted,
        replay.parts[:count],
    )
