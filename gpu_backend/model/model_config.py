"""`ModelConfig`: the shape of a Llama-family model, as its Hugging Face `config.json` tells it.

Owns which architectures are supported and how they differ: Llama-2 and Llama-3 (with their rotary scaling),
Qwen2 (biases of query, key and value), Qwen3 (normalised queries and keys), and Mistral where it is a
Llama in all but name. Refuses to know weights and tensors. What would change a result and is not implemented
(a sliding window, another activation, another rotary scaling) is refused, never ignored. What these keys
mean, old and new (`rope_theta` and `rope_scaling`, or `rope_parameters`), Hugging Face says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.errors import ConfigError, Problem
from workloads.text import parse_json

CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True)
class Llama3RopeScaling:
    """Llama 3.1's stretching of the rotary embedding: low frequencies divided, high ones kept.

    Attributes:
        factor: What low frequencies are divided by.
        low_freq_factor: Wavelengths above the original context divided by this are "low".
        high_freq_factor: Wavelengths below the original context divided by this are "high".
        original_max_position_embeddings: Context before stretching, in tokens.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class LinearRopeScaling:
    """All positions divided by one factor."""

    factor: float


RopeScaling = Llama3RopeScaling | LinearRopeScaling | None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of a dense decoder-only transformer of the Llama family; fields as in `config.json`.

    Attributes:
        architecture: First of `architectures`.
        head_dim: Size of one head; heads together may be wider than `hidden_size`.
        max_position_embeddings: Longest context it was made for, in tokens.
        qkv_bias: Whether query, key and value projections have biases.
        qk_norm: Whether queries and keys are RMS-normalised per head before they are rotated.
        eos_token_ids: Tokens that end a text; empty where the config names none.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling
    tie_word_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    eos_token_ids: tuple[int, ...] = ()

    @property
    def attention_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together; value heads are as wide."""
        return self.num_key_value_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class _Traits:
    """How an architecture differs from plain Llama."""

    qkv_bias: bool = False
    qk_norm: bool = False


_ARCHITECTURES = {
    "LlamaForCausalLM": _Traits(),
    "MistralForCausalLM": _Traits(),
    "Qwen2ForCausalLM": _Traits(qkv_bias=True),
    "Qwen3ForCausalLM": _Traits(qk_norm=True),
}


def read_model_config(folder: Path) -> ModelConfig:
    """Read `config.json` of a Hugging Face folder.

    Raises:
        ConfigError: Naming the file and every key at fault: missing, of the wrong kind, or unsupported.
    """
    path = folder / CONFIG_FILE
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {error.strerror}")]) from None
    except ValueError as error:  # bad JSON, bad UTF-8
        raise ConfigError([Problem(str(path), "", f"is not JSON: {error}")]) from None
    if not isinstance(content, dict):
        raise ConfigError([Problem(str(path), "", "holds no JSON object")])
    return parse_model_config(content, source=str(path))


def parse_model_config(content: Mapping[str, Any], source: str) -> ModelConfig:
    """The model config that a parsed `config.json` means; `source` names it in errors."""
    return _Reader(content, source).read()


class _Reader:
    """Reads one config's keys and collects all faults, so that they are told at once."""

    def __init__(self, content: Mapping[str, Any], source: str) -> None:
        self._content = content
        self._source = source
        self._problems: list[Problem] = []

    def read(self) -> ModelConfig:
        architecture = self._architecture()
        self._refuse_what_is_not_implemented()
        traits = _ARCHITECTURES.get(architecture, _Traits())
        hidden_size, num_heads = self._count("hidden_size"), self._count("num_attention_heads")
        num_kv_heads = self._count("num_key_value_heads", default=num_heads)
        config = ModelConfig(
            architecture=architecture,
            vocab_size=self._count("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=self._count("intermediate_size"),
            num_hidden_layers=self._count("num_hidden_layers"),
            num_attention_heads=num_heads,
            num_key_value_heads=num_kv_heads,
            head_dim=self._count("head_dim", default=max(1, hidden_size // num_heads)),
            max_position_embeddings=self._count("max_position_embeddings", default=2048),
            rms_norm_eps=self._positive("rms_norm_eps", self._content.get("rms_norm_eps", 1e-6)),
            rope_theta=self._positive("rope_theta", self._rope().get("rope_theta", 10_000.0)),
            rope_scaling=self._rope_scaling(),
            tie_word_embeddings=bool(self._content.get("tie_word_embeddings", False)),
            qkv_bias=traits.qkv_bias,
            qk_norm=traits.qk_norm,
            eos_token_ids=self._eos_token_ids(),
        )
        self._check_heads(config)
        if self._problems:
            raise ConfigError(self._problems)
        return config

    def _fault(self, key: str, message: str) -> None:
        self._problems.append(Problem(self._source, key, message))

    def _architecture(self) -> str:
        named = self._content.get("architectures")
        if not isinstance(named, list) or len(named) != 1 or named[0] not in _ARCHITECTURES:
            supported = ", ".join(_ARCHITECTURES)
            self._fault("architectures", f"{named!r} is not supported; supported is one of {supported}")
            return ""
        return str(named[0])

    def _refuse_what_is_not_implemented(self) -> None:
        content = self._content
        activation = content.get("hidden_act", "silu")
        if activation != "silu":
            self._fault("hidden_act", f"{activation!r} is not supported; only 'silu' is")
        if content.get("attention_bias") and content.get("architectures") != ["Qwen2ForCausalLM"]:
            self._fault("attention_bias", "biases of all attention projections are not supported")
        if content.get("mlp_bias"):
            self._fault("mlp_bias", "biases in the MLP are not supported")
        uses_window = content.get(
            "use_sliding_window", content.get("architectures") == ["MistralForCausalLM"]
        )
        if uses_window and content.get("sliding_window") is not None:
            self._fault(
                "sliding_window", "attention to a sliding window is not supported; every token is kept"
            )
        if content.get("quantization_config"):
            self._fault("quantization_config", "quantised weights are not supported")

    def _count(self, key: str, default: int | None = None) -> int:
        """A positive whole number; null means the default, as in Hugging Face."""
        value = self._content.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            self._fault(key, "is missing" if value is None else f"{value!r} is not a positive whole number")
            return 1
        return value

    def _positive(self, key: str, value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            self._fault(key, f"{value!r} is not a positive number")
            return 1.0
        return float(value)

    def _rope(self) -> Mapping[str, Any]:
        """The rotary keys of both spellings, in the new one."""
        new, old = self._content.get("rope_parameters"), self._content.get("rope_scaling")
        scaling = new or old or {}
        if not isinstance(scaling, Mapping):
            self._fault("rope_scaling", f"{scaling!r} is not a mapping")
            scaling = {}
        theta = self._content.get("rope_theta")
        return {"rope_theta": theta, **scaling} if theta is not None else scaling

    def _rope_scaling(self) -> RopeScaling:
        rope = self._rope()
        kind = rope.get("rope_type", rope.get("type", "default"))
        match kind:
            case "default":
                return None
            case "linear":
                return LinearRopeScaling(self._positive("rope_scaling.factor", rope.get("factor")))
            case "llama3":
                return Llama3RopeScaling(
                    factor=self._positive("rope_scaling.factor", rope.get("factor")),
                    low_freq_factor=self._positive(
                        "rope_scaling.low_freq_factor", rope.get("low_freq_factor")
                    ),
                    high_freq_factor=self._positive(
                        "rope_scaling.high_freq_factor", rope.get("high_freq_factor")
                    ),
                    original_max_position_embeddings=int(
                        self._positive(
                            "rope_scaling.original_max_position_embeddings",
                            rope.get("original_max_position_embeddings"),
                        )
                    ),
                )
            case _:
                self._fault("rope_scaling", f"{kind!r} is not supported; supported: default, linear, llama3")
                return None

    def _eos_token_ids(self) -> tuple[int, ...]:
        value = self._content.get("eos_token_id")
        ids = [value] if isinstance(value, int) else value or []
        if not isinstance(ids, list) or not all(isinstance(each, int) for each in ids):
            self._fault("eos_token_id", f"{value!r} is neither a token id nor a list of them")
            return ()
        return tuple(ids)

    def _check_heads(self, config: ModelConfig) -> None:
        if config.num_attention_heads % config.num_key_value_heads:
            self._fault(
                "num_key_value_heads",
                f"{config.num_key_value_heads} does not divide the {config.num_attention_heads} query heads",
            )
        if config.head_dim % 2:
            self._fault("head_dim", f"{config.head_dim} is odd; a rotary embedding turns pairs")
