"""Speculation is exact: what comes out is distributed as the target's own, whatever the draft proposes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

import torch
from scipy import stats
from torch import Tensor

from gpu_backend.ops.rejection_sample import Verdict
from gpu_backend.speculation.sampling import RowSettings, draw_uniforms
from gpu_backend.speculation.speculative import Proposal, emitted, propose, sampling_probs, verify
from sim.replay_settings import SamplingSettings

CPU = torch.device("cpu")
VOCAB = 5
NUM_DRAFTS = 2
NUM_SEQS = 20_000
LENGTH = NUM_DRAFTS + 1
SIGNIFICANCE = 1e-3

Verify = Callable[[Proposal, Tensor, Tensor, RowSettings, Tensor], Verdict]


def _model(seed: int, spread: float = 1.5) -> Tensor:
    """A model of the next token that looks back one token.  # logits [vocab, vocab]."""
    return torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed)) * spread


TARGET, DRAFT = _model(1), _model(2)


def _speculated(settings: SamplingSettings, verify_: Verify, seed: int = 11) -> Tensor:
    """The first `LENGTH` tokens after token 0 of many sequences.  # [num_seqs, LENGTH] int64."""
    generator = torch.Generator().manual_seed(seed)
    rows = RowSettings.of([settings] * NUM_SEQS, CPU)
    lines: list[list[int]] = [[0] for _ in range(NUM_SEQS)]
    for _ in range(LENGTH):  # each round gives at least one token
        last = torch.tensor([line[-1] for line in lines])
        proposal = propose(lambda t: DRAFT[t], last, rows, draw_uniforms(generator, NUM_SEQS, NUM_DRAFTS))
        logits = TARGET[torch.cat((last[:, None], proposal.token_ids), 1)]  # [num_seqs, drafts + 1, vocab]
        counts = torch.full((NUM_SEQS,), NUM_DRAFTS, dtype=torch.int32)
        uniforms = draw_uniforms(generator, NUM_SEQS, NUM_DRAFTS + 1)
        verdict = verify_(proposal, counts, logits, rows, uniforms)
        for line, new in zip(lines, emitted(proposal, verdict), strict=True):
            line.extend(new)
    return torch.tensor([line[1 : LENGTH + 1] for line in lines])


def _joint(settings: SamplingSettings) -> Tensor:
    """What the target alone gives: the probability of every line of `LENGTH` tokens.  # [vocab ** LENGTH]."""
    step = sampling_probs(TARGET, RowSettings.of([settings] * VOCAB, CPU)).double()  # [vocab, vocab]
    joint = step[0]
    for _ in range(LENGTH - 1):
        last = torch.arange(len(joint)) % VOCAB
        joint = (joint[:, None] * step[last]).flatten()
    return joint / joint.sum()


def _p_value_and_distance(drawn: Tensor, joint: Tensor) -> tuple[float, float]:
    """Of a chi-square test, rare lines pooled; and total variation distance."""
    places = VOCAB ** torch.arange(LENGTH - 1, -1, -1)
    counts = (drawn * places).sum(1).bincount(minlength=len(joint)).double()
    wanted = joint * len(drawn)
    distance = float((counts - wanted).abs().sum() / 2 / len(drawn))
    common = wanted >= 5
    seen = torch.cat((counts[common], counts[~common].sum()[None]))
    asked = torch.cat((wanted[common], wanted[~common].sum()[None]))
    kept = asked > 0
    assert seen[~kept].sum() == 0
    return float(stats.chisquare(seen[kept].numpy(), asked[kept].numpy()).pvalue), distance


SETTINGS = [
    SamplingSettings(),
    SamplingSettings(temperature=0.7),
    SamplingSettings(temperature=1.2, top_k=3),
    SamplingSettings(top_p=0.8),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_speculated_lines_are_distributed_as_the_targets(settings: SamplingSettings) -> None:
    drawn = _speculated(settings, verify)
    p_value, distance = _p_value_and_distance(drawn, _joint(settings))
    assert p_value > SIGNIFICANCE
    assert distance < 0.04


def _accept_always(
    proposal: Proposal, counts: Tensor, logits: Tensor, rows: RowSettings, uniforms: Tensor
) -> Verdict:
    return verify(proposal, counts, logits, rows, torch.cat((0 * uniforms[:, :-1], uniforms[:, -1:]), 1))


def _accept_a_little_too_often(
    proposal: Proposal, counts: Tensor, logits: Tensor, rows: RowSettings, uniforms: Tensor
) -> Verdict:
    return verify(proposal, counts, logits, rows, torch.cat((0.9 * uniforms[:, :-1], uniforms[:, -1:]), 1))


def _recover_from_the_target_itself(
    proposal: Proposal, counts: Tensor, logits: Tensor, rows: RowSettings, uniforms: Tensor
) -> Verdict:
    verdict = verify(proposal, counts, logits, rows, uniforms)
    seqs = torch.arange(NUM_SEQS)
    probs = sampling_probs(logits[seqs, verdict.num_accepted], rows)
    again = torch.multinomial(probs, 1, generator=torch.Generator().manual_seed(4))[:, 0]
    return Verdict(verdict.num_accepted, again)


def _believe_the_draft_was_even(
    proposal: Proposal, counts: Tensor, logits: Tensor, rows: RowSettings, uniforms: Tensor
) -> Verdict:
    even = torch.full_like(proposal.probs, 1 / VOCAB)
    return verify(Proposal(proposal.token_ids, even), counts, logits, rows, uniforms)


@pytest.mark.parametrize(
    "wrong",
    [
        _accept_always,
        _accept_a_little_too_often,
        _recover_from_the_target_itself,
        _believe_the_draft_was_even,
    ],
)
def test_a_wrong_rule_fails_the_same_test(wrong: Verify) -> None:
    drawn = _speculated(SamplingSettings(), wrong)
    p_value, _ = _p_value_and_distance(drawn, _joint(SamplingSettings()))
    assert p_value < 1e-6


def test_greedy_lines_are_the_targets_own() -> None:
    drawn = _speculated(SamplingSettings(temperature=0.0), verify)
    line = [0]
    for _ in range(LENGTH):
        line.append(int(TARGET[line[-1]].argmax()))
    assert torch.equal(drawn, torch.tensor([line[1:]]).expand(NUM_SEQS, -1))


def test_a_draft_that_is_the_target_is_always_accepted() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = RowSettings.of([SamplingSettings()] * 100, CPU)
    last = torch.zeros(100, dtype=torch.int64)
    proposal = propose(lambda t: TARGET[t], last, rows, draw_uniforms(generator, 100, 4))
    logits = TARGET[torch.cat((last[:, None], proposal.token_ids), 1)]
    counts = torch.full((100,), 4, dtype=torch.int32)
    verdict = verify(proposal, counts, logits, rows, draw_uniforms(generator, 100, 5))
    assert verdict.num_accepted.tolist() == [4] * 100


def test_the_accepted_share_is_one_minus_the_distance_of_the_two() -> None:
    generator = torch.Generator().manual_seed(9)
    rows = RowSettings.of([SamplingSettings()] * NUM_SEQS, CPU)
    last = torch.zeros(NUM_SEQS, dtype=torch.int64)
    proposal = propose(lambda t: DRAFT[t], last, rows, draw_uniforms(generator, NUM_SEQS, 1))
    logits = TARGET[torch.cat((last[:, None], proposal.token_ids), 1)]
    counts = torch.ones(NUM_SEQS, dtype=torch.int32)
    verdict = verify(proposal, counts, logits, rows, draw_uniforms(generator, NUM_SEQS, 2))
    wanted = float(torch.minimum(TARGET[0].softmax(-1), DRAFT[0].softmax(-1)).sum())
    accepted = int(verdict.num_accepted.sum())
    assert stats.binomtest(accepted, NUM_SEQS, wanted).pvalue > 0.01


def test_sequences_with_fewer_drafts_get_their_bonus_earlier() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = RowSettings.of([SamplingSettings()] * 3, CPU)
    last = torch.zeros(3, dtype=torch.int64)
    proposal = propose(lambda t: TARGET[t], last, rows, draw_uniforms(generator, 3, 4))
    logits = TARGET[torch.cat((last[:, None], proposal.token_ids), 1)]
    counts = torch.tensor([0, 2, 4], dtype=torch.int32)
    verdict = verify(proposal, counts, logits, rows, draw_uniforms(generator, 3, 5))
    assert verdict.num_accepted.tolist() == [0, 2, 4]
    assert [len(new) for new in emitted(proposal, verdict)] == [1, 3, 5]
