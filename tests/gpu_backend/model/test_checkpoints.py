"""The shipped pair is whole, small, read by transformers too, and as good as its card says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the engine needs torch")
pytest.importorskip("tokenizers", reason="the shipped pair has a tokenizer.json")

import torch
from tokenizers import Tokenizer

import gpu_backend
from gpu_backend.memory.fixed_blocks import FixedBlocks
from gpu_backend.model.llama import LlamaModel
from gpu_backend.model.loading import load_model
from gpu_backend.model.tokenizer import load_tokenizer
from gpu_backend.training.acceptance import Decoding, decode_plainly, decode_speculatively
from gpu_backend.training.pair import DRAFT, TARGET
from sim.errors import ConfigError

PAIR = Path(gpu_backend.__file__).parent / "checkpoints"
CPU = torch.device("cpu")
MAX_BYTES = 12 * 10**6
# From Macbeth, which neither model was trained on.
PROMPTS = (
    "MACBETH.\nIs this a dagger which I see before me,\nThe handle toward my hand?",
    "LADY MACBETH.\nThe raven himself is hoarse\nThat croaks the fatal entrance of Duncan\n",
    "BANQUO.\nGood sir, why do you start; and seem to fear\nThings that do sound so fair?",
    "FIRST WITCH.\nWhen shall we three meet again?\nIn thunder, lightning, or in rain?\n",
    "MACDUFF.\nO horror, horror, horror! Tongue nor heart\nCannot conceive nor name thee!\n",
    "MALCOLM.\nThis is the sergeant\nWho, like a good and hardy soldier, fought\n",
)
Pair = tuple[LlamaModel, LlamaModel]


@pytest.fixture(scope="module")
def pair() -> Pair:
    target, draft = (load_model(PAIR / name, torch.float32, CPU) for name in ("target", "draft"))
    return target, draft


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(PAIR / "target", TARGET.vocab_size)


def _prompts(tokenizer: Tokenizer) -> list[list[int]]:
    return [tokenizer.encode(prompt).ids for prompt in PROMPTS]


def test_everything_together_is_at_most_twelve_megabytes() -> None:
    assert sum(path.stat().st_size for path in PAIR.rglob("*") if path.is_file()) <= MAX_BYTES


def test_the_configs_are_those_of_the_training(pair: Pair) -> None:
    assert (pair[0].config, pair[1].config) == (TARGET, DRAFT)


def test_both_models_share_one_tokenizer() -> None:
    files = [(PAIR / name / "tokenizer.json").read_bytes() for name in ("target", "draft")]
    assert files[0] == files[1]


def test_text_comes_back_from_its_tokens(tokenizer: Tokenizer) -> None:
    text = "MACBETH.\nTo-morrow, and to-morrow…  naïve\t\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize("name", ["target", "draft"])
def test_transformers_reads_the_same_model(name: str, pair: Pair, tokenizer: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle")
    oracle = transformers.AutoModelForCausalLM.from_pretrained(PAIR / name, dtype=torch.float32)
    prompt = _prompts(tokenizer)[0]
    model = pair[("target", "draft").index(name)]
    got = FixedBlocks(model, 1, len(prompt)).forward([prompt])[0]
    with torch.no_grad():
        wanted = oracle(torch.tensor([prompt])).logits[0]
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_drafts", [1, 4, 8])
def test_greedy_speculation_gives_the_targets_own_tokens(
    num_drafts: int, pair: Pair, tokenizer: Tokenizer
) -> None:
    prompts = _prompts(tokenizer)
    counts = decode_speculatively(*pair, prompts, Decoding(num_drafts, 0.0, num_tokens=48))
    assert counts.lines == decode_plainly(pair[0], prompts, num_tokens=48)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_acceptance_is_about_what_the_card_says(temperature: float, pair: Pair, tokenizer: Tokenizer) -> None:
    counts = decode_speculatively(
        *pair, _prompts(tokenizer), Decoding(num_drafts=4, temperature=temperature, num_tokens=64)
    )
    rates = _card_row(num_drafts=4)
    said = float(rates[(0.0, 0.7, 1.0).index(temperature) * 3 + 1])
    assert counts.acceptance_per_test > 0.6
    assert counts.acceptance_per_test == pytest.approx(said, abs=0.12)  # other prompts, and fewer


def test_the_card_has_every_k_and_says_whose_text_it_is() -> None:
    card = (PAIR / "README.md").read_text(encoding="utf-8")
    assert [int(k) for k in re.findall(r"^\| (\d+) \|.* of 16 \|$", card, re.MULTILINE)] == list(range(1, 9))
    assert "public domain" in card
    assert "Apache-2.0" in card


def _card_row(num_drafts: int) -> list[str]:
    card = (PAIR / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| {num_drafts} \| (.* of 16) \|$", card, re.MULTILINE)
    cells: list[str] = row.split(" | ")
    return cells


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), ("{}", "is not a tokenizer"), ("x", "is not a tokenizer")],
)
def test_a_tokenizer_that_is_none_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_tokenizer(tmp_path, vocab_size=10)


def test_a_tokenizer_with_more_ids_than_the_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="has token id 1023; the model's vocabulary ends at 999"):
        load_tokenizer(PAIR / "target", vocab_size=1000)
