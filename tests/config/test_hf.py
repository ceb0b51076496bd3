"""Models from Hugging Face config.json files: the same sizes as in the catalogue, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sim.config import load_experiment
from sim.config.catalog import load_model
from sim.config.yaml_dump import dump_yaml
from sim.errors import ConfigError

LLAMA = {
    "model_type": "llama",
    "_name_or_path": "meta-llama/Meta-Llama-3-8B",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}
MIXTRAL = LLAMA | {
    "model_type": "mixtral",
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
DEEPSEEK = {
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "intermediate_size": 18432,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "n_shared_experts": 1,
    "first_k_dense_replace": 3,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
OPT = {
    "model_type": "opt",
    "hidden_size": 5120,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "ffn_dim": 20480,
    "vocab_size": 50272,
    "max_position_embeddings": 2048,
}


def write(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("config", "name"),
    [(LLAMA, "llama-3-8b"), (MIXTRAL, "mixtral-8x7b"), (OPT, "opt-13b"), (DEEPSEEK, "deepseek-v3")],
)
def test_the_sizes_are_those_of_the_catalogue(tmp_path: Path, config: dict[str, Any], name: str) -> None:
    ours, theirs = load_model(name), load_model(str(write(tmp_path / "some-model", config)))
    assert theirs.num_parameters == ours.num_parameters
    assert theirs.kv_bytes_per_token == ours.kv_bytes_per_token
    assert theirs.max_position_embeddings == ours.max_position_embeddings


@pytest.mark.parametrize(
    ("section", "bytes_per_weight"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 1),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 0.5 + 2.5 / 128),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, 0.5 + 2.5 / 32),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, 1),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {
            "weights": {"num_bits": 4, "type": "int", "group_size": 128}}}}, 0.5 + 2.5 / 128),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {
            "weights": {"num_bits": 8, "type": "float", "group_size": None}}}}, 1),
    ],
)  # fmt: skip
def test_a_quantised_checkpoint_keeps_its_weight_type(
    tmp_path: Path, section: dict[str, Any], bytes_per_weight: float
) -> None:
    model = load_model(str(write(tmp_path, LLAMA | {"quantization_config": section})))
    assert model.bytes_per_weight == bytes_per_weight
    is_fp8 = section["quant_method"] == "fp8" or "float" in str(section)
    assert model.computes_in_fp8 == is_fp8


def test_it_is_called_what_it_says_or_what_its_folder_is(tmp_path: Path) -> None:
    assert load_model(str(write(tmp_path / "a", LLAMA))).name == "Meta-Llama-3-8B"
    assert load_model(str(write(tmp_path / "my-opt", OPT))).name == "my-opt"


def test_an_experiment_names_the_file_or_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", LLAMA)
    text = (
        "model: {hf_config: %s}\nhardware: h100-sxm\nworkload: {kind: synthetic, num_requests: 1, "
        "arrivals: {kind: poisson, rate: 1 /s}, prompt_tokens: {kind: fixed, tokens: 5}, "
        "output_tokens: {kind: fixed, tokens: 5}}\n"
    )
    experiments = []
    for place, reference in enumerate(("checkpoint", "checkpoint/config.json")):
        path = tmp_path / f"{place}.yaml"
        path.write_text(text % reference)
        experiments.append(load_experiment(path))
    assert experiments[0].model == experiments[1].model
    again = tmp_path / "again.yaml"
    again.write_text(dump_yaml(experiments[0].resolved()))
    assert load_experiment(again) == experiments[0]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (LLAMA | {"model_type": "qwenn2"}, "did you mean 'qwen2'"),
        (LLAMA | {"model_type": None}, "known are"),
        ({key: value for key, value in LLAMA.items() if key != "vocab_size"}, "vocab_size: field required"),
        (LLAMA | {"num_key_value_heads": 5}, "is not a multiple of"),
        (LLAMA | {"hidden_size": "wide"}, "hidden_size"),
        (LLAMA | {"quantization_config": {"quant_method": "mxfp4"}}, "by 'mxfp4' are not known here"),
        (LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 3}}, "weights of 3 bits by 'gptq'"),
    ],
)
def test_what_is_wrong_is_told_with_the_file(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    path = write(tmp_path, config)
    with pytest.raises(ConfigError) as error:
        load_model(str(path))
    assert str(path) in str(error.value)
    assert says in str(error.value)


def test_a_file_that_is_no_json_or_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        load_model(str(tmp_path / "config.json"))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_model(str(tmp_path / "none" / "config.json"))
