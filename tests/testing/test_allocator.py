"""Our allocator before the machine: it holds its claims, and every planted fault is found."""

from __future__ import annotations

import os
import re

import pytest

from tests.testing import fault_table
from tests.testing.faults import FAULTS, Fault
from tests.testing.finding import MACHINES, Finding, find, notes_of_failure, search
from tests.testing.naive_allocator import NaiveMachine

NUM_EXAMPLES = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 250


@pytest.mark.parametrize("name", MACHINES)
def test_our_allocator_holds_its_claims(name: str) -> None:
    assert search(MACHINES[name], NUM_EXAMPLES) is None


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_planted_fault_is_found(fault: Fault) -> None:
    assert find(fault) is not None


def test_there_are_at_least_25_different_faults() -> None:
    assert len({fault.what for fault in FAULTS}) == len(FAULTS) >= 25


def test_the_naive_allocator_is_found_out_with_the_story_of_the_page() -> None:
    story = notes_of_failure(NaiveMachine)
    assert "no_two_sequences_write_one_slot" in story
    assert story in fault_table.PAGE.read_text(encoding="utf-8")


def test_the_page_is_made_of_the_faults_and_the_code_that_are_there() -> None:
    page = fault_table.PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*?) \| (?:swap|prefix cache) \| (.*?) \| (\d*) \|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == [fault.what for fault in FAULTS]
    findings = [Finding(claim.replace(" ", "_"), int(count)) for _, claim, count in rows]
    made = fault_table.page(list(findings))
    assert re.sub(r"[_ ]", "", made) == re.sub(r"[_ ]", "", page)
