"""Writes `sim/testing/README.md`: how to test an allocator, an example, and which claim finds which fault.

Run by `make fault-table`. Everything that the page shows of a run is what that run gave.
"""

from __future__ import annotations

import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.testing import naive_allocator
from tests.testing.faults import FAULTS, Fault
from tests.testing.finding import BUDGET, MACHINES, Finding, find, notes_of_failure

REPO = Path(__file__).resolve().parents[2]
PAGE = REPO / "sim" / "testing" / "README.md"
TEMPLATE = Path(__file__).with_name("README.template.md")


def page(findings: list[Finding | None], story: str) -> str:
    """The whole page."""
    naive = Path(naive_allocator.__file__).read_text(encoding="utf-8")
    allocator = naive[naive.index("from collections") : naive.index("class NaiveMachine")].rstrip()
    machine = naive[naive.index("class NaiveMachine") :].rstrip()
    text = TEMPLATE.read_text(encoding="utf-8")
    parts = {
        "allocator": allocator,
        "machine": machine,
        "story": story,
        "faults": "\n".join(_row(fault, found) for fault, found in zip(FAULTS, findings, strict=True)),
        "num_faults": str(len(FAULTS)),
        "budget": str(BUDGET),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], text)


def _row(fault: Fault, found: Finding | None) -> str:
    machine = "swap" if fault.machine == "swap" else "prefix cache"
    if found is None:
        return f"| {fault.what} | {machine} | **not found** | |"
    return f"| {fault.what} | {machine} | {_words(found.claim)} | {found.num_operations} |"


def _words(claim: str) -> str:
    return claim if claim.startswith("(") else claim.replace("_", " ")


def _shrunk(place: int) -> Finding | None:
    return find(FAULTS[place], shrinks=True)


def main() -> None:
    """Plant every fault, shrink what is found, write the page."""
    with ProcessPoolExecutor(2) as pool:
        findings = list(pool.map(_shrunk, range(len(FAULTS))))
    PAGE.write_text(page(findings, notes_of_failure(naive_allocator.NaiveMachine)), encoding="utf-8")
    missed = [fault.what for fault, found in zip(FAULTS, findings, strict=True) if found is None]
    sys.stdout.write(f"{len(FAULTS)} faults, {len(MACHINES)} machines, not found: {missed or 'none'}\n")


if __name__ == "__main__":
    main()
