"""Which drafts are kept: rates, and that nothing but the request's own draws decides."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.core.request import Request, Sequence
from sim.errors import ConfigError
from sim.speculation.acceptance import (
    AcceptanceLaw,
    AcceptanceModel,
    Constant,
    PerPosition,
    PerRequest,
    Recorded,
    RecordingTooShortError,
    Runs,
    make_acceptance,
)
from sim.speculation.acceptance_file import dump_recorded, read_recorded
from sim.speculation.theory import expected_tokens
from tests.strategies import examples

LAWS: list[AcceptanceLaw] = [
    Constant(0.7),
    PerPosition((0.9, 0.6, 0.3)),
    PerRequest(0.7, 0.2),
    Runs(0.95, 0.3, 8, 4),
]


def sequence(number: int, output: int, sample: int = 0) -> Sequence:
    return Sequence(0, Request(number, 0, 10, output, sample + 1), sample, 10 + output)


def play(model: AcceptanceModel, seq: Sequence, num_drafts: int) -> list[int]:
    """Accepted counts of every run, from the first token to the last."""
    seq.num_known += 1
    counts = []
    while seq.num_known < seq.max_known:
        kept = model.num_accepted(seq, num_drafts)
        counts.append(kept)
        seq.num_known = min(seq.num_known + kept + 1, seq.max_known)
    return counts


@pytest.mark.parametrize("num_drafts", [1, 2, 4, 8])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7, 0.95, 1.0])
def test_a_constant_rate_gives_the_closed_form(rate: float, num_drafts: int) -> None:
    counts = play(make_acceptance(Constant(rate), 0), sequence(0, 200_000), num_drafts)[:-1]
    mean = 1 + sum(counts) / len(counts)
    assert mean == pytest.approx(expected_tokens(rate, num_drafts), rel=0.01)


def test_each_place_of_a_run_has_its_own_rate() -> None:
    counts = play(make_acceptance(PerPosition((0.9, 0.5, 0.2)), 0), sequence(0, 100_000), 4)
    reached = [sum(count >= place for count in counts) for place in range(5)]
    rates = [reached[place + 1] / reached[place] for place in range(4)]
    assert rates == pytest.approx([0.9, 0.5, 0.2, 0.2], abs=0.02)


def test_requests_differ_and_their_mean_is_the_one_asked_for() -> None:
    model = make_acceptance(PerRequest(0.7, 0.2), 0)
    rates = []
    for number in range(400):
        counts = play(model, sequence(number, 400), 1)
        rates.append(sum(counts) / len(counts))
    mean = sum(rates) / len(rates)
    spread = (sum((rate - mean) ** 2 for rate in rates) / len(rates)) ** 0.5
    assert mean == pytest.approx(0.7, abs=0.03)
    assert spread == pytest.approx(0.2, abs=0.03)


def test_easy_and_hard_stretches_alternate() -> None:
    counts = play(make_acceptance(Runs(1.0, 0.0, 20, 5), 0), sequence(0, 50_000), 50_000)[:-1]
    assert sum(counts) / (sum(counts) + len(counts)) == pytest.approx(0.8, abs=0.03)
    stretches = [count for count in counts if count]
    assert sum(stretches) / len(stretches) == pytest.approx(20, rel=0.1), "stretches, not single tokens"


@examples(100)
@given(
    st.sampled_from(LAWS),
    st.integers(0, 5),
    st.lists(st.integers(0, 6), min_size=300, max_size=300),
)
def test_how_many_are_drafted_never_changes_which_are_kept(
    law: AcceptanceLaw, number: int, drafts: list[int]
) -> None:
    """With constant rates by place: tokens that would be kept one by one are kept in any grouping."""
    if isinstance(law, PerPosition):
        law = PerPosition((0.6,))
    singly = play(make_acceptance(law, 3), sequence(number, 60), 60)
    model, seq = make_acceptance(law, 3), sequence(number, 60)
    seq.num_known += 1
    refused = set()
    for count in drafts:
        if seq.num_known >= seq.max_known:
            break
        kept = model.num_accepted(seq, count) if count else 0
        if kept < count:
            refused.add(seq.num_output_tokens + kept)
        seq.num_known = min(seq.num_known + kept + 1, seq.max_known)
    place, would_refuse = 1, set()
    for kept in singly:
        place += kept
        would_refuse.add(place)
        place += 1
    assert refused <= would_refuse | {60}


@pytest.mark.parametrize("law", LAWS)
def test_other_requests_do_not_matter(law: AcceptanceLaw) -> None:
    alone = play(make_acceptance(law, 1), sequence(7, 50), 3)
    model = make_acceptance(law, 1)
    play(model, sequence(3, 80), 5)
    assert play(model, sequence(7, 50), 3) == alone
    assert play(make_acceptance(law, 2), sequence(7, 50), 3) != alone, "another seed"


def test_a_recording_is_replayed_and_must_be_long_enough(tmp_path: Path) -> None:
    path = tmp_path / "accepted.json"
    path.write_text(dump_recorded({(0, 0): (2, 0, 1), (3, 1): (1,)}, 4))
    recorded = read_recorded(path)
    assert recorded == Recorded({(0, 0): (2, 0, 1), (3, 0): (), (3, 1): (1,)})
    model, seq = make_acceptance(recorded, 0), sequence(0, 40)
    assert [model.num_accepted(seq, 4) for _ in range(3)] == [2, 0, 1]
    with pytest.raises(RecordingTooShortError, match="3 runs are recorded"):
        model.num_accepted(seq, 4)
    with pytest.raises(RecordingTooShortError, match="not that of the recording"):
        make_acceptance(recorded, 0).num_accepted(sequence(0, 40), 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "accepted: must be there"),
        ('{"accepted": {"x": [[1]]}}', "accepted.x: must be a request's number"),
        ('{"accepted": {"1": [[1, -2]]}}', r"accepted.1\[0\]: must be a list of counts"),
        ('{"accepted": {"1": [[1, true]]}}', r"accepted.1\[0\]: must be a list of counts"),
    ],
)
def test_a_damaged_recording_is_told_by_its_place(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "accepted.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_recorded(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constant(1.2),
        lambda: PerPosition(()),
        lambda: PerPosition((0.5, -0.1)),
        lambda: PerRequest(0.5, 0.6),
        lambda: Runs(0.9, 0.1, 0.5, 3),
    ],
)
def test_impossible_laws_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"must be|needs"):
        make()  # type: ignore[operator]
