"""Sampling and verification: the kernels against float64, the twins against the laws they promise."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the engine needs torch")
pytest.importorskip("triton", reason="Triton is not installed")

import torch

from gpu_backend.ops.implementation import Implementation, OpInputError
from gpu_backend.ops.inverse_cdf import draw
from gpu_backend.ops.rejection_sample import Drafts, rejection_sample
from gpu_backend.ops.softmax_and_sample import softmax_and_sample
from tests.gpu_backend.ops.ways import POISON, WAYS, device_of, running

EXCLUDED = float("-inf")
FORMS = [Implementation.TWIN, Implementation.UNFUSED]
EDGE = 1e-5
"""float32 sums may put a boundary of the distribution this far from where float64 puts it."""


def _logits(num_rows: int, vocab_size: int) -> torch.Tensor:
    logits = 2 * torch.randn((num_rows, vocab_size), generator=torch.Generator().manual_seed(vocab_size))
    logits[:, ::5] = EXCLUDED
    return logits


def _uniforms(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("num_rows", "vocab_size"), [(1, 50), (5, 512), (3, 5000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("way", WAYS)
def test_sampling_kernel_draws_where_the_distribution_says(
    way: str, dtype: torch.dtype, num_rows: int, vocab_size: int
) -> None:
    device = device_of(way)
    logits = _logits(num_rows, vocab_size).to(device, dtype)
    temperatures = torch.tensor([0.7, 0.0, 1.3, 1.0, 0.0], device=device)[:num_rows]
    uniforms = _uniforms(num_rows).to(device)
    probs = torch.full((num_rows, vocab_size), POISON, device=device)
    with running(way):
        tokens = softmax_and_sample(logits, temperatures, uniforms, probs, Implementation.KERNEL)
        again = softmax_and_sample(logits, temperatures, uniforms, None, Implementation.KERNEL)
    assert torch.equal(tokens, again)
    expected = torch.empty((num_rows, vocab_size), dtype=torch.float64)
    exact_logits, exact_temperatures = logits.double().cpu(), temperatures.double().cpu()
    softmax_and_sample(exact_logits, exact_temperatures, uniforms.double().cpu(), expected)
    assert (probs.cpu() - expected).abs().max() < 1e-6
    running_sum = expected.cumsum(1)
    for row, token in enumerate(tokens.tolist()):
        below = float(running_sum[row, token - 1]) if token else 0.0
        assert below - EDGE <= float(uniforms[row]) <= float(running_sum[row, token]) + EDGE
        assert float(expected[row, token]) > 0


@pytest.mark.parametrize("way", WAYS)
def test_sampling_kernel_takes_columns_of_a_matrix(way: str) -> None:
    """Each place of a draft has a column of numbers, one for each sequence."""
    device = device_of(way)
    logits = torch.zeros((4, 64), device=device)
    columns = torch.tensor([[0.1, 0.9], [0.6, 0.2], [0.3, 0.8], [0.95, 0.4]], device=device)
    uniforms = columns[:, 1]
    with running(way):
        tokens = softmax_and_sample(
            logits, torch.ones(4, device=device), uniforms, None, Implementation.KERNEL
        )
    assert tokens.tolist() == [int(64 * number) for number in uniforms.tolist()]


@pytest.mark.parametrize("way", WAYS)
def test_sampling_kernel_never_draws_an_excluded_token(way: str) -> None:
    device = device_of(way)
    logits = torch.full((4, 3000), EXCLUDED, device=device)
    logits[:, 2100] = 1.0  # in the second tile; all of the first is excluded
    uniforms = torch.tensor([0.0, 0.5, 1 - 2**-24, 0.3], device=device)
    temperatures = torch.tensor([1.0, 0.1, 2.0, 0.0], device=device)
    with running(way):
        tokens = softmax_and_sample(logits, temperatures, uniforms, None, Implementation.KERNEL)
    assert tokens.tolist() == [2100] * 4
    assert softmax_and_sample(logits, temperatures, uniforms).tolist() == [2100] * 4


@pytest.mark.parametrize("form", FORMS)
def test_greedy_takes_the_first_of_the_largest(form: Implementation) -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0], [5.0, 1.0, 2.0, 5.0]])
    probs = torch.empty(2, 4)
    tokens = softmax_and_sample(logits, torch.zeros(2), torch.tensor([0.9, 0.9]), probs, form)
    assert tokens.tolist() == [1, 0]
    assert probs.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("form", FORMS)
def test_drawing_follows_the_distribution(form: Implementation) -> None:
    num_rows = 20_000
    uniforms = ((torch.arange(num_rows) + 0.5) / num_rows)[torch.randperm(num_rows)]
    logits = torch.tensor([0.0, 1.0, EXCLUDED, 2.0]).expand(num_rows, 4)
    tokens = softmax_and_sample(logits, torch.full((num_rows,), 0.5), uniforms, None, form)
    shares = torch.bincount(tokens, minlength=4) / num_rows
    expected = (torch.tensor([0.0, 1.0, EXCLUDED, 2.0]) / 0.5).softmax(0)
    assert (shares - expected).abs().max() < 2 / num_rows  # evenly spread numbers leave no chance


def test_a_token_without_weight_is_never_drawn() -> None:
    weights = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).expand(4, 5)
    assert draw(weights, torch.tensor([0.0, 0.2, 0.25, 1.0])).tolist() == [1, 1, 3, 3]


def _drafts(num_seqs: int, max_drafts: int, vocab_size: int) -> Drafts:
    generator = torch.Generator().manual_seed(vocab_size)
    target = torch.randn((num_seqs, max_drafts + 1, vocab_size), generator=generator).softmax(-1)
    noise = 0.5 * torch.randn((num_seqs, max_drafts, vocab_size), generator=generator)
    draft = (target[:, :max_drafts].log() + noise).softmax(-1)
    tokens = torch.multinomial(draft.reshape(-1, vocab_size), 1, generator=generator).view(
        num_seqs, max_drafts
    )
    num_drafts = torch.arange(num_seqs, dtype=torch.int32) % (max_drafts + 1)
    for seq, count in enumerate(num_drafts.tolist()):  # past its drafts nothing may be looked at
        tokens[seq, count:] = -7
        draft[seq, count:] = POISON
        target[seq, count + 1 :] = POISON
    return Drafts(tokens, num_drafts, draft, target)


def _to(drafts: Drafts, device: str) -> Drafts:
    return Drafts(
        drafts.token_ids.to(device),
        drafts.num_drafts.to(device),
        drafts.draft_probs.to(device),
        drafts.target_probs.to(device),
    )


@pytest.mark.parametrize(("num_seqs", "max_drafts", "vocab_size"), [(1, 1, 50), (12, 3, 512), (5, 2, 3000)])
@pytest.mark.parametrize("way", WAYS)
def test_rejection_kernel_decides_as_float64_does(
    way: str, num_seqs: int, max_drafts: int, vocab_size: int
) -> None:
    device = device_of(way)
    drafts, uniforms = _drafts(num_seqs, max_drafts, vocab_size), _uniforms(num_seqs, max_drafts + 1)
    with running(way):
        verdict = rejection_sample(_to(drafts, device), uniforms.to(device), Implementation.KERNEL)
    exact = Drafts(
        drafts.token_ids, drafts.num_drafts, drafts.draft_probs.double(), drafts.target_probs.double()
    )
    expected = rejection_sample(exact, uniforms.double())
    assert verdict.num_accepted.cpu().tolist() == expected.num_accepted.tolist()
    assert verdict.next_token_ids.cpu().tolist() == expected.next_token_ids.tolist()


@pytest.mark.parametrize("form", FORMS)
def test_verified_tokens_are_distributed_as_the_target_says(form: Implementation) -> None:
    num_seqs, draft, target = 40_000, torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.5, 0.3])
    generator = torch.Generator().manual_seed(1)
    tokens = torch.multinomial(draft, num_seqs, replacement=True, generator=generator)[:, None]
    drafts = Drafts(
        tokens,
        torch.ones(num_seqs, dtype=torch.int32),
        draft.expand(num_seqs, 1, 3),
        target.expand(num_seqs, 2, 3),
    )
    verdict = rejection_sample(drafts, torch.rand((num_seqs, 2), generator=generator), form)
    first = torch.where(verdict.num_accepted > 0, tokens[:, 0], verdict.next_token_ids)
    shares = torch.bincount(first, minlength=3) / num_seqs
    assert (shares - target).abs().max() < 0.01  # four standard deviations
    accepted = float(verdict.num_accepted.float().mean())
    assert abs(accepted - float(torch.minimum(draft, target).sum())) < 0.01


def test_greedy_verification_accepts_what_the_target_would_choose() -> None:
    choices = torch.eye(5)
    drafts = Drafts(
        torch.tensor([[2, 3], [2, 4]]),
        torch.tensor([2, 2], dtype=torch.int32),
        choices[torch.tensor([[2, 3], [2, 4]])],
        choices[torch.tensor([[2, 3, 1], [2, 0, 1]])],
    )
    verdict = rejection_sample(drafts, torch.full((2, 3), 0.999))
    assert verdict.num_accepted.tolist() == [2, 1]
    assert verdict.next_token_ids.tolist() == [1, 0]


def test_what_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(OpInputError, match="temperatures has shape"):
        softmax_and_sample(torch.zeros(2, 5), torch.zeros(3), torch.zeros(2))
    drafts = _drafts(2, 2, 10)
    with pytest.raises(OpInputError, match="uniforms has shape"):
        rejection_sample(drafts, torch.zeros(2, 2))
