"""Training learns, goes on after an interruption as if there had been none, and saves what serving reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("tokenizers", reason="the corpus is tokenized")

import torch
from numpy.typing import NDArray

from gpu_backend.memory.fixed_blocks import FixedBlocks
from gpu_backend.model.llama import LlamaModel
from gpu_backend.model.loading import load_model
from gpu_backend.model.weights import pack
from gpu_backend.training import continuations, pair
from gpu_backend.training.__main__ import main
from gpu_backend.training.acceptance import Counts, decode_plainly
from gpu_backend.training.card import BEGIN, END, write_card
from gpu_backend.training.checkpoint import export, load_checkpoint
from gpu_backend.training.corpus import read_corpus
from gpu_backend.training.network import Weights, logits_of, random_weights
from gpu_backend.training.optimizer import LearningRates, orthogonalized
from sim.errors import ConfigError

TINY = dataclasses.replace(
    pair.DRAFT,
    vocab_size=32,
    hidden_size=32,
    intermediate_size=64,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
)
RUN = pair.Run("tiny", TINY, num_steps=20, rates=LearningRates())


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair, "TOKENS_PER_STEP", 128)
    monkeypatch.setattr(pair, "WINDOW", 32)
    monkeypatch.setattr(pair, "LONG_WINDOW", 64)
    monkeypatch.setattr(pair, "CHECKPOINT_EVERY_STEPS", 8)


def _tokens() -> NDArray[np.int64]:
    """A text with a rule: each token follows from the one before."""
    return (np.arange(2000, dtype=np.int64) * 7) % 31


def _train(folder: Path, run: pair.Run = RUN) -> Weights:
    return pair.train(run, _tokens(), pair.text_loss(TINY), pair.initial_weights(TINY), folder)


def test_a_rule_is_learned(tmp_path: Path) -> None:
    weights = _train(tmp_path, dataclasses.replace(RUN, num_steps=100))
    inputs = torch.from_numpy(_tokens()[:65])[None]
    loss = pair.text_loss(TINY)(weights, inputs[:, :-1], inputs[:, 1:])
    assert float(loss) < 0.5  # from log 32, about 3.5


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    _train_until(11, cut)
    found = load_checkpoint(cut / "tiny.checkpoint.safetensors")
    assert found is not None
    assert found.num_steps == 8
    once, again = _train(whole), _train(cut)
    assert all(torch.equal(once[name], again[name]) for name in once)


def _train_until(step: int, folder: Path) -> None:
    """As `_train`, but stopped after so many steps, with the schedule of the whole run."""
    done = {"steps": 0}
    loss_of = pair.text_loss(TINY)

    def loss(weights: Weights, inputs: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        if done["steps"] == step:
            raise KeyboardInterrupt
        done["steps"] += 1
        return loss_of(weights, inputs, following)

    with pytest.raises(KeyboardInterrupt):
        pair.train(RUN, _tokens(), loss, pair.initial_weights(TINY), folder)


def test_serving_computes_what_training_computed(tmp_path: Path) -> None:
    weights = random_weights(TINY, torch.Generator().manual_seed(1))
    halves = {name: weight.half().float() for name, weight in weights.items()}
    export(tmp_path, TINY, weights)
    model = load_model(tmp_path, torch.float32, torch.device("cpu"))
    assert model.config == TINY
    tokens = torch.arange(30)
    got = FixedBlocks(model, 1, 30).forward([tokens.tolist()])[0]
    torch.testing.assert_close(got, logits_of(halves, TINY, tokens[None])[0], atol=1e-5, rtol=0)


def test_a_draft_that_is_its_target_has_no_distillation_loss() -> None:
    weights = random_weights(TINY, torch.Generator().manual_seed(1))
    other = random_weights(TINY, torch.Generator().manual_seed(2))
    tokens = torch.arange(30)[None]
    loss = pair.distillation_loss(TINY, weights, TINY)
    assert float(loss(weights, tokens, tokens)) == pytest.approx(0, abs=1e-6)
    assert float(loss(other, tokens, tokens)) > 0.05


@pytest.mark.parametrize("shape", [(8, 8), (12, 5), (5, 12)])
def test_orthogonalized_matrices_have_singular_values_about_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalized(matrix))
    assert 0.5 < float(values.min()) <= float(values.max()) < 1.3


def test_continuations_are_what_the_target_itself_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "NUM_LINES": 5,
        "LINES_AT_ONCE": 3,
        "PROMPT_TOKENS": 4,
        "CONTINUATION_TOKENS": 6,
    }.items():
        monkeypatch.setattr(continuations, name, value)
    model = LlamaModel(TINY, pack(TINY, random_weights(TINY, torch.Generator().manual_seed(1))))
    once, again = (continuations.continuations(model, _tokens(), seed=3).reshape(5, 10) for _ in range(2))
    assert np.array_equal(once, again)
    for greedy in (0, 3):  # the first of the three temperatures, in both batches
        prompt = once[greedy, :4].tolist()
        assert prompt[1:] == [(token + 7) % 31 for token in prompt[:-1]]
        assert decode_plainly(model, [prompt], 6) == [once[greedy, 4:].tolist()]


@pytest.mark.parametrize(
    ("card", "message"), [(None, "cannot be read"), ("no marks", "lacks the marks"), (END + BEGIN, "lacks")]
)
def test_a_card_without_marks_is_left_alone(tmp_path: Path, card: str | None, message: str) -> None:
    path = tmp_path / "README.md"
    if card is not None:
        path.write_text(card)
    with pytest.raises(ConfigError, match=message):
        write_card(tmp_path / "none.tar.gz", tmp_path)
    assert card is None or path.read_text() == card


def test_counts_say_what_the_words_mean() -> None:
    counts = Counts(accepted=[1, 0, 2])  # one round kept nothing, two kept both drafts
    assert counts.acceptance_rate == pytest.approx(4 / 6)
    assert counts.acceptance_per_test == pytest.approx(4 / 5)
    assert counts.mean_acceptance_length == pytest.approx(7 / 3)


def test_another_archive_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_corpus(tmp_path / "none.tar.gz")
    (tmp_path / "other.tar.gz").write_bytes(b"x")
    assert main(["train", str(tmp_path / "other.tar.gz"), str(tmp_path / "work")]) == 2
    assert "its SHA-256 differs" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
