"""Loading a folder: whole or in shards it is the same model, and whatever is wrong with it is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the engine needs torch")
pytest.importorskip("transformers", reason="transformers writes the checkpoints")

import torch
from safetensors.torch import load_file, save_file

from gpu_backend.model.loading import INDEX_FILE, WEIGHTS_FILE, load_model, read_tensors
from gpu_backend.model.model_config import read_model_config
from gpu_backend.model.weights import expected_shapes
from sim.errors import ConfigError
from tests.gpu_backend.tiny_models import KINDS, save

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def _saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    save("llama", folder)
    return folder


@pytest.fixture
def folder(_saved: Path, tmp_path: Path) -> Path:
    """A copy of a good checkpoint, to be spoilt."""
    return Path(shutil.copytree(_saved, tmp_path / "model"))


def _errors(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_model(folder, torch.float32, CPU)
    return str(caught.value)


def _change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS_FILE)
    change(tensors)
    save_file(tensors, folder / WEIGHTS_FILE)


def _change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_in_shards_is_the_same_as_in_one_file(kind: str, tmp_path: Path) -> None:
    whole, shards = tmp_path / "whole", tmp_path / "shards"
    save(kind, whole)
    save(kind, shards, max_shard_size="60KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    config = read_model_config(whole)
    assert read_model_config(shards) == config
    one, many = (read_tensors(each, config, torch.float32, CPU) for each in (whole, shards))
    assert one.keys() == many.keys() == expected_shapes(config).keys()
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_weights_arrive_in_the_dtype_asked_for(folder: Path) -> None:
    assert load_model(folder, torch.bfloat16, CPU).dtype == torch.bfloat16


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    save("llama", tmp_path, max_shard_size="60KB")
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    lost.unlink()
    assert f"{lost}: is missing: the index names it as a shard" in _errors(tmp_path)


@pytest.mark.parametrize("kept_fraction", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_told_from_a_whole_one(folder: Path, kept_fraction: float) -> None:
    path = folder / WEIGHTS_FILE
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept_fraction)])
    assert f"{path}: is no whole safetensors file" in _errors(folder)


def test_all_wrong_shapes_are_told_with_the_right_ones(folder: Path) -> None:
    _change_config(folder, intermediate_size=64)
    message = _errors(folder)
    assert "model.layers.0.mlp.down_proj.weight: has shape [48, 80]; config.json asks for [48, 64]" in message
    assert message.count("asks for") == 9  # three matrices of three layers


def test_integers_are_no_weights(folder: Path) -> None:
    _change_tensors(folder, lambda t: t.update({"model.norm.weight": t["model.norm.weight"].to(torch.int8)}))
    assert "model.norm.weight: has dtype I8, which is not supported" in _errors(folder)


def test_missing_and_unknown_tensors_are_listed(folder: Path) -> None:
    _change_tensors(folder, lambda t: t.update({"model.extra.weight": t.pop("model.norm.weight")}))
    message = _errors(folder)
    assert f"{folder / WEIGHTS_FILE}: lacks model.norm.weight" in message
    assert "holds what config.json does not ask for: model.extra.weight" in message


def test_more_layers_than_the_file_has_are_missed(folder: Path) -> None:
    _change_config(folder, num_hidden_layers=5)
    assert "and 10 more" in _errors(folder)


def test_a_model_without_its_head_is_not_taken_for_a_tied_one(folder: Path) -> None:
    _change_tensors(folder, lambda t: t.pop("lm_head.weight"))
    assert "lacks lm_head.weight" in _errors(folder)


def test_a_head_that_a_tied_model_still_carries_is_passed_over(folder: Path) -> None:
    _change_config(folder, tie_word_embeddings=True)
    load_model(folder, torch.float32, CPU)


def test_pickles_are_never_read(folder: Path) -> None:
    (folder / WEIGHTS_FILE).rename(folder / "pytorch_model.bin")
    assert "pickled weights (.bin) are never read" in _errors(folder)


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "[]",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": []}',
        '{"weight_map": {"a": "../model.safetensors"}}',
        '{"weight_map": {"a": 1}}',
    ],
)
def test_a_bad_index_is_refused(folder: Path, index: str) -> None:
    (folder / INDEX_FILE).write_text(index)
    assert f"{folder / INDEX_FILE}: weight_map: " in _errors(folder)


def test_an_unsupported_architecture_is_refused_with_those_that_are_not(folder: Path) -> None:
    _change_config(folder, architectures=["MixtralForCausalLM"])
    message = _errors(folder)
    assert "architectures: ['MixtralForCausalLM'] is not supported" in message
    assert "LlamaForCausalLM" in message
