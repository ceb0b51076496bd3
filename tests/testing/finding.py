"""Runs a machine on a planted fault and tells which claim broke, and how small the example is."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from sim.testing import AllocatorMachine, ClaimBrokenError
from tests.testing.faults import Fault
from tests.testing.machines import PrefixMachine, SwapMachine

MACHINES: dict[str, type[AllocatorMachine]] = {"swap": SwapMachine, "prefix": PrefixMachine}
BUDGET = 1_500
"""Examples in which a fault must be found. Which are drawn depends on the modules that are loaded (Hypothesis
draws constants out of these), so the deepest faults have room."""


@dataclass(frozen=True)
class Finding:
    """What found a fault."""

    claim: str
    num_operations: int


def search(machine: type[AllocatorMachine], num_examples: int, *, shrinks: bool = False) -> Finding | None:
    """Run a machine for so many examples; what broke, if anything did."""
    try:
        run_state_machine_as_test(machine, settings=_profile(num_examples, shrinks=shrinks))
    except Exception as error:
        claim = error.claim if isinstance(error, ClaimBrokenError) else f"({type(error).__name__})"
        return Finding(claim, machine.num_operations_of_last_run)
    return None


def notes_of_failure(machine: type[AllocatorMachine]) -> str:
    """What broke, and the smallest story that breaks a machine's allocator, as a failing test tells it."""
    try:
        run_state_machine_as_test(machine, settings=_profile(BUDGET, shrinks=True))
    except ClaimBrokenError as error:
        notes = "\n".join(getattr(error, "__notes__", []))
        story = notes.partition("\nExplanation:")[0]
        return f"{type(error).__name__}: {error}\n{story}"
    raise AssertionError("nothing broke")


def _profile(num_examples: int, *, shrinks: bool) -> settings:
    return settings(
        max_examples=num_examples,
        stateful_step_count=30,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate, Phase.shrink) if shrinks else (Phase.generate,),
        report_multiple_bugs=False,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )


def find(fault: Fault, *, shrinks: bool = False) -> Finding | None:
    """Plant a fault and search for it."""
    with fault.planted():
        return search(MACHINES[fault.machine], BUDGET, shrinks=shrinks)
