"""What a user's own classes may stand for in an experiment file, and which of them a file names.

Owns what each has to be able to do (the Protocols are the core's, the fleet's, the speculation's), and what a
run should know about it. `own.py` finds and checks a class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from sim.config.own import OwnClass, Role
from sim.config.value_types import Section
from sim.config.yaml_source import KeyPath

_SectionT = TypeVar("_SectionT", bound=Section)

SCHEDULER = Role(
    "scheduler",
    (
        "enqueue(request, seqs)",
        "schedule(step, now_ns)",
        "settle(plan, result, num_steps)",
        "remove(seq, step)",
    ),
    ("config", "kv", "plans_sequences", "max_horizon"),
)
WAITING_ORDER = Role("waiting order", ("key(seq)",))
ALLOCATOR = Role(
    "allocator",
    ("admit(seq_id, tokens)", "append(seq_id, token)", "free(seq_id)", "table(seq_id)"),
    ("num_blocks", "block_size", "num_host_blocks"),
)
VICTIM_CHOICE = Role("victim choice", ("choose(running, needy)",))
ROUTER = Role("router", ("choose(spec, outstanding)",))
PROPOSER = Role("proposer", ("draft_ns(num_seqs, context_tokens, num_drafts)",))
ACCEPTANCE = Role("acceptance law", ("num_accepted(seq, num_drafts)",))
COST = Role("cost model", ("step_ends_ns(plan)",))


def own_classes(section: Section, path: KeyPath = ()) -> Iterator[tuple[KeyPath, OwnClass]]:
    """Every class of one's own below a section, with where it stands."""
    for name in type(section).model_fields:
        value: Any = getattr(section, name)
        if isinstance(value, OwnClass):
            yield (*path, name), value
        elif isinstance(value, Section):
            yield from own_classes(value, (*path, name))


def with_known(section: _SectionT, known: Mapping[str, int]) -> _SectionT:
    """The same, its classes told what the experiment knows."""
    changed: dict[str, Any] = {}
    for name in type(section).model_fields:
        value: Any = getattr(section, name)
        if isinstance(value, OwnClass):
            changed[name] = replace(value, known=known)
        elif isinstance(value, Section) and next(own_classes(value), None) is not None:
            changed[name] = with_known(value, known)
    return section.model_copy(update=changed) if changed else section


def construction_faults(section: Section) -> Iterator[tuple[KeyPath, str]]:
    """Classes whose constructor refuses its options; some need a replica's sizes, and are tried elsewhere."""
    for path, own in own_classes(section):
        if path[-1] in ("scheduler_cls", "kv_allocation"):
            continue
        try:
            own()
        except Exception as error:
            yield path, f"{own.short_name} cannot be made: {type(error).__name__}: {error}"
