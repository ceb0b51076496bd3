"""`pagecast fit`: at which level of fusion a calibration is read."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from tests.command_line import pagecast, refused

FIT = ("fit", "steps.csv", "--hardware", "h200", "--out", "out.yaml", "--model", "llama-3-8b")
SEQS, NEW, CONTEXTS = (0, 1, 8), (0, 512), (0, 1000)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to work in."""
    monkeypatch.chdir(tmp_path)


def write_steps(*levels: str) -> None:
    """A calibration at some levels, as a processor makes one: no rows but those it measured."""
    rows = ["model_role,fusion,num_decode_seqs,num_new_tokens,context_tokens,step_us"]
    for level, seqs, new, context in product(levels, SEQS, NEW, CONTEXTS):
        rows.append(f"target,{level},{seqs},{new},{context},{9000 + 30 * seqs + 20 * new + context / 50}")
    Path("steps.csv").write_text("\n".join(rows))


def test_the_only_level_that_was_measured_is_taken() -> None:
    write_steps("fused")
    assert "steps of llama-3-8b, 10 points" in pagecast(*FIT).stderr
    asked_for = Path("out.yaml").read_text()
    pagecast(*FIT, "--fusion", "fused")
    assert Path("out.yaml").read_text() == asked_for


def test_of_several_levels_one_has_to_be_named() -> None:
    write_steps("none", "fused")
    assert "--fusion: say which: steps.csv was measured at none and fused" in refused(*FIT)
    pagecast(*FIT, "--fusion", "none")


def test_a_level_that_was_not_measured_is_refused_with_those_that_were() -> None:
    write_steps("none", "fused")
    message = refused(*FIT, "--fusion", "graph")
    assert "--fusion: steps.csv was measured at none and fused, not at graph" in message


def test_a_calibration_without_levels_is_told_as_what_it_is() -> None:
    write_steps()
    assert "0 points of target, graph are no full grid" in refused(*FIT)
    Path("steps.csv").write_text("num_decode_seqs,num_new_tokens,context_tokens,step_us\n1,0,0,9\n")
    assert "lacks columns fusion, model_role" in refused(*FIT)
