"""Each row is sampled by its own settings, and from exactly the distribution they mean."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

import torch
from scipy import stats

from gpu_backend.ops.implementation import Implementation
from gpu_backend.speculation.sampling import RowSettings, draw_uniforms, excluded, sample
from gpu_backend.speculation.speculative import sampling_probs
from sim.replay_settings import SamplingSettings

CPU = torch.device("cpu")
LOGITS = torch.log(torch.tensor([0.1, 0.4, 0.2, 0.25, 0.05]))
NUM_DRAWS = 20_000


def _rows(*settings: SamplingSettings) -> RowSettings:
    return RowSettings.of(settings, CPU)


def _kept(settings: SamplingSettings, logits: torch.Tensor = LOGITS) -> list[int]:
    return torch.isfinite(excluded(logits[None], _rows(settings))[0]).nonzero().squeeze(1).tolist()


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (SamplingSettings(), [0, 1, 2, 3, 4]),
        (SamplingSettings(top_k=2), [1, 3]),
        (SamplingSettings(top_k=99), [0, 1, 2, 3, 4]),
        (SamplingSettings(top_p=0.01), [1]),
        (SamplingSettings(top_p=0.64), [1, 3]),
        (SamplingSettings(top_p=0.66), [1, 2, 3]),
        (SamplingSettings(top_k=3, top_p=0.75), [1, 3]),  # of 0.85 left, 0.65 are 76 %
        (SamplingSettings(temperature=0.25, top_p=0.81), [1]),  # cooled, the first alone holds 82 %
    ],
)
def test_top_k_and_top_p_keep_the_likeliest(settings: SamplingSettings, kept: list[int]) -> None:
    assert _kept(settings) == kept


def test_tokens_as_likely_as_the_last_one_kept_are_kept() -> None:
    assert _kept(SamplingSettings(top_k=2), torch.tensor([1.0, 3.0, 2.0, 2.0])) == [1, 2, 3]


def test_every_row_has_its_own_settings() -> None:
    rows = _rows(SamplingSettings(0.0), SamplingSettings(top_k=1), SamplingSettings(), SamplingSettings(0.5))
    probs = sampling_probs(LOGITS.expand(4, -1), rows)
    one = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])
    cooled = LOGITS.exp() ** 2 / (LOGITS.exp() ** 2).sum()
    torch.testing.assert_close(probs, torch.stack([one, one, LOGITS.exp(), cooled]))


def test_greedy_takes_the_most_likely_whatever_else_is_set() -> None:
    rows = _rows(*[SamplingSettings(0.0, top_k=3, top_p=0.5)] * 3)
    assert sample(LOGITS.expand(3, -1), rows, torch.tensor([0.0, 0.5, 0.999])).tolist() == [1, 1, 1]


@pytest.mark.parametrize("implementation", [Implementation.TWIN, Implementation.UNFUSED])
@pytest.mark.parametrize(
    "settings",
    [SamplingSettings(), SamplingSettings(0.7), SamplingSettings(1.3, top_k=3), SamplingSettings(top_p=0.9)],
)
def test_drawn_tokens_have_the_distribution_meant(
    settings: SamplingSettings, implementation: Implementation
) -> None:
    kept = _kept(settings)
    weights = LOGITS.exp() ** (1 / settings.temperature)
    wanted = (weights[kept] / weights[kept].sum()).double()
    uniforms = draw_uniforms(torch.Generator().manual_seed(5), NUM_DRAWS)
    rows = RowSettings.of([settings] * NUM_DRAWS, CPU)
    drawn = sample(LOGITS.expand(NUM_DRAWS, -1), rows, uniforms, implementation)
    counts = drawn.bincount(minlength=5)
    assert counts.sum() == counts[kept].sum()
    assert stats.chisquare(counts[kept].numpy(), (wanted / wanted.sum() * NUM_DRAWS).numpy()).pvalue > 0.01


def test_a_row_draws_the_same_token_whoever_stands_beside_it() -> None:
    settings = [SamplingSettings(0.8, top_p=0.9), SamplingSettings(), SamplingSettings(1.5, top_k=4)]
    uniforms = torch.tensor([0.3, 0.6, 0.9])
    together = sample(LOGITS.expand(3, -1), _rows(*settings), uniforms).tolist()
    alone = [
        int(sample(LOGITS[None], _rows(each), uniforms[row, None])[0]) for row, each in enumerate(settings)
    ]
    assert together == alone


@pytest.mark.parametrize(
    "bad",
    [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}],
)
def test_settings_that_mean_nothing_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        SamplingSettings(**bad)  # type: ignore[arg-type]
