"""Do two bodies decide alike? Plans and counters compared, and the first difference told in words.

Plans are those of `sim.record.plan_log`. Equal means equal to the last block id. Refuses to know how long
anything took.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sim.record.plan_log import PlanFacts

_ROW = ("tokens", "tokens computed before", "drafts", "new blocks")
_MOVES = {"swap_out": "blocks swapped out", "swap_in": "blocks swapped in", "copy": "blocks copied"}
_SHOWN = 6


def first_difference(simulated: Sequence[PlanFacts], replayed: Sequence[PlanFacts]) -> str | None:
    """Where two lists of plans first part, in words; None if they are equal."""
    for number, (ours, theirs) in enumerate(zip(simulated, replayed, strict=False)):
        if ours != theirs:
            place = f"step {ours['step']}" + (f" of replica {ours['replica']}" if ours["replica"] else "")
            return f"{place} ({number:,} steps before it are equal): {_difference(ours, theirs)}"
    if len(simulated) == len(replayed):
        return None
    fewer, more = sorted(((len(simulated), "simulator"), (len(replayed), "engine")))
    return f"the {fewer[1]} ends after {fewer[0]:,} steps, the {more[1]} goes on to {more[0]:,}"


def _difference(ours: PlanFacts, theirs: PlanFacts) -> str:
    if ours["step"] != theirs["step"] or ours["replica"] != theirs["replica"]:
        return f"the engine's is step {theirs['step']} of replica {theirs['replica']}"
    if ours["preempted"] != theirs["preempted"]:
        ours_text, theirs_text = (
            ", ".join(map(_name, plan["preempted"])) or "nobody" for plan in (ours, theirs)
        )
        return f"preempted: {ours_text} by the simulator, {theirs_text} by the engine"
    our_rows, their_rows = ({(row[0], row[1]): row for row in plan["rows"]} for plan in (ours, theirs))
    for who in (*our_rows, *(who for who in their_rows if who not in our_rows)):
        if who not in their_rows:
            return f"the simulator schedules {_name(who)}, the engine does not"
        if who not in our_rows:
            return f"the engine schedules {_name(who)}, the simulator does not"
        if our_rows[who] != their_rows[who]:
            return f"{_name(who)}: {_row_difference(our_rows[who], their_rows[who])}"
    if ours["rows"] != theirs["rows"]:
        return "the same sequences are scheduled in another order"
    for key, words in _MOVES.items():
        if ours[key] != theirs[key]:
            return f"{words}: {_few(ours[key])} by the simulator, {_few(theirs[key])} by the engine"
    if ours["accepted"] != theirs["accepted"]:
        return _acceptance_difference(ours, theirs)
    return "beams change parents differently"


def _acceptance_difference(ours: PlanFacts, theirs: PlanFacts) -> str:
    kept, also = ({(r, s): count for r, s, count in plan["accepted"]} for plan in (ours, theirs))
    who = next(who for who in kept | also if kept.get(who) != also.get(who))
    return f"{_name(who)}: {kept.get(who)} drafts kept by the simulator, {also.get(who)} by the engine"


def _row_difference(ours: list[Any], theirs: list[Any]) -> str:
    if ours[2] != theirs[2]:
        return f"{ours[2]} for the simulator, {theirs[2]} for the engine"
    for name, mine, other in zip(_ROW, ours[3:], theirs[3:], strict=True):
        if mine != other:
            return f"{name}: {_few(mine)} by the simulator, {_few(other)} by the engine"
    raise AssertionError("rows differ")


def _name(who: Sequence[int]) -> str:
    request, sample = who
    return f"request {request}" + (f", sample {sample}" if sample else "")


def _few(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    if not value:
        return "none"
    shown = ", ".join(
        "->".join(map(str, item)) if isinstance(item, list) else str(item) for item in value[:_SHOWN]
    )
    return f"{shown}, ..." if len(value) > _SHOWN else shown


def differing_counters(
    simulated: Mapping[str, int], replayed: Mapping[str, int]
) -> dict[str, tuple[int | None, int | None]]:
    """Counters that are not equal, with both values."""
    return {
        name: (simulated.get(name), replayed.get(name))
        for name in sorted(simulated.keys() | replayed.keys())
        if simulated.get(name) != replayed.get(name)
    }
