"""`config.json` of every supported family is read in its old and new spelling; all else is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpu_backend.model.model_config import (
    LinearRopeScaling,
    Llama3RopeScaling,
    ModelConfig,
    parse_model_config,
    read_model_config,
)
from sim.errors import ConfigError

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def _parse(**changes: Any) -> ModelConfig:
    return parse_model_config(LLAMA | changes, source="config.json")


def _error(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        _parse(**changes)
    return str(caught.value)


def test_what_a_config_leaves_out_is_as_hugging_face_has_it() -> None:
    config = _parse(num_key_value_heads=None)
    assert (config.num_key_value_heads, config.head_dim, config.rope_theta) == (4, 16, 10_000.0)
    assert config.rope_scaling is None
    assert not config.tie_word_embeddings


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 500_000.0, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {"rope_theta": 500_000.0, "rope_scaling": {"type": "llama3", **LLAMA3}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500_000.0, **LLAMA3}},
    ],
)
def test_rotary_scaling_is_read_in_every_spelling(rope: dict[str, Any]) -> None:
    config = _parse(**rope)
    assert config.rope_theta == 500_000.0
    assert config.rope_scaling == Llama3RopeScaling(8.0, 1.0, 4.0, 8192)


def test_linear_scaling_has_its_factor() -> None:
    assert _parse(rope_scaling={"type": "linear", "factor": 2}).rope_scaling == LinearRopeScaling(2.0)


def test_architectures_differ_as_they_should() -> None:
    assert not _parse().qkv_bias
    assert _parse(architectures=["Qwen2ForCausalLM"]).qkv_bias
    assert _parse(architectures=["Qwen3ForCausalLM"]).qk_norm


def test_a_window_that_is_not_used_does_not_matter() -> None:
    _parse(architectures=["Qwen2ForCausalLM"], sliding_window=4096, use_sliding_window=False)
    _parse(architectures=["MistralForCausalLM"], sliding_window=None)


@pytest.mark.parametrize("value", [7, [7]])
def test_end_tokens_are_one_or_several(value: object) -> None:
    assert _parse(eos_token_id=value).eos_token_ids == (7,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architectures: ['GPT2LMHeadModel'] is not supported"),
        ({"architectures": None}, "architectures: None is not supported"),
        ({"hidden_size": None}, "hidden_size: is missing"),
        ({"hidden_size": "64"}, "hidden_size: '64' is not a positive whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: 0 is not a positive whole number"),
        ({"vocab_size": True}, "vocab_size: True is not a positive whole number"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: 3 does not divide the 4 query heads"),
        ({"head_dim": 15}, "head_dim: 15 is odd"),
        ({"hidden_act": "gelu"}, "hidden_act: 'gelu' is not supported"),
        ({"attention_bias": True}, "attention_bias: biases of all attention projections"),
        ({"mlp_bias": True}, "mlp_bias: biases in the MLP"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps: 'tiny' is not a positive number"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling: 'yarn' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor: None is not a positive number"),
        ({"rope_scaling": 2}, "rope_scaling: 2 is not a mapping"),
        ({"eos_token_id": "x"}, "eos_token_id: 'x' is neither a token id"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: quantised weights"),
        (
            {"architectures": ["MistralForCausalLM"], "sliding_window": 4096},
            "sliding_window: attention to a sliding window is not supported",
        ),
        (
            {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 4096, "use_sliding_window": True},
            "sliding_window: attention to a sliding window is not supported",
        ),
    ],
)
def test_what_is_missing_wrong_or_not_implemented_is_refused(changes: dict[str, Any], message: str) -> None:
    assert f"config.json: {message}" in _error(**changes)


def test_all_faults_are_told_at_once() -> None:
    assert len(_error(hidden_act="gelu", vocab_size=0, mlp_bias=True).splitlines()) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), ("{", "is not JSON"), ("[1]", "holds no JSON object")],
)
def test_a_file_that_is_no_config_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_model_config(tmp_path)
    assert str(path) in str(caught.value)
