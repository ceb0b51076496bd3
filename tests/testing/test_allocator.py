"""Our allocator before the machine: it holds its claims, and every planted fault is found."""

from __future__ import annotations

import os
import re

import pytest

from sim.testing import ClaimBrokenError
from tests.testing import fault_table
from tests.testing.faults import FAULTS, Fault
from tests.testing.finding import MACHINES, Finding, find, search
from tests.testing.naive_allocator import NaiveMachine

NUM_EXAMPLES = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 250


@pytest.mark.parametrize("name", MACHINES)
def test_our_allocator_holds_its_claims(name: str) -> None:
    assert search(MACHINES[name], NUM_EXAMPLES) is None


@pytest.mark.plain
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_planted_fault_is_found(fault: Fault) -> None:
    assert find(fault) is not None


def test_there_are_at_least_25_different_faults() -> None:
    assert len({fault.what for fault in FAULTS}) == len(FAULTS) >= 25


def test_the_story_on_the_page_breaks_the_naive_allocator() -> None:
    lines = _story(fault_table.PAGE.read_text(encoding="utf-8")).splitlines()
    names: dict[str, object] = {"NaiveMachine": NaiveMachine}
    with pytest.raises(ClaimBrokenError) as broken:
        exec("\n".join(lines[:-1]), names)
    assert lines[-1] == f"ClaimBrokenError: {broken.value}"
    assert broken.value.claim == "no_two_sequences_write_one_slot"


def test_the_page_is_made_of_the_faults_and_the_code_that_are_there() -> None:
    page = fault_table.PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*?) \| (?:swap|prefix cache) \| (.*?) \| (\d*) \|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == [fault.what for fault in FAULTS]
    findings = [Finding(claim.replace(" ", "_"), int(count)) for _, claim, count in rows]
    assert fault_table.page(list(findings), _story(page)) == page


def _story(page: str) -> str:
    (story,) = re.findall(r"^```text\n(state.*?)\n```", page, re.MULTILINE | re.DOTALL)
    return str(story)
