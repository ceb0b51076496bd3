"""Transformer shapes: parameters, bytes of weights and KV, floating point operations.

Owns the arithmetic of dense decoder-only transformers. Fields carry the names of a Hugging Face
`config.json`. Refuses to know GPUs and time. What is small is left out: biases other than those of the
query, key and value projections, and the second half of layer norms (together under 0.1 %).
"""

from __future__ import annotations

from dataclasses import dataclass

BYTES_PER_WEIGHT = 2  # bf16
BYTES_PER_KV_VALUE = 2


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a dense decoder-only transformer, weights and KV cache in 16 bits.

    Attributes:
        head_dim: Size of one attention head; heads together may be wider than `hidden_size`.
        max_position_embeddings: Longest context it was made for, in tokens.
        tie_word_embeddings: Whether the output projection is the input embedding.
        gated_mlp: Whether the MLP has a gate (three matrices, as in Llama) or not (two, as in OPT).
        qkv_bias: Whether query, key and value projections have biases (Qwen2).
        qk_norm: Whether queries and keys are normalised (Qwen3).
        learned_positions: Whether positions are a table (OPT) instead of a rotation.
        kv_bytes_per_value: Size of one element of the KV cache: 2 in 16 bits, 1 in fp8 or int8 (whose scales,
            one for each tensor, are left out).
    """

    name: str
    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool = False
    gated_mlp: bool = True
    qkv_bias: bool = False
    qk_norm: bool = False
    learned_positions: bool = False
    kv_bytes_per_value: int = BYTES_PER_KV_VALUE

    @property
    def attention_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together (value heads are as wide)."""
        return self.num_key_value_heads * self.head_dim

    @property
    def num_parameters_per_layer(self) -> int:
        """Parameters of one layer."""
        hidden, qkv = self.hidden_size, self.attention_size + 2 * self.kv_size
        attention = hidden * qkv + self.attention_size * hidden + qkv * self.qkv_bias
        mlp = (3 if self.gated_mlp else 2) * hidden * self.intermediate_size
        norms = 2 * hidden + 2 * self.head_dim * self.qk_norm
        return attention + mlp + norms

    @property
    def num_head_parameters(self) -> int:
        """Parameters of the output projection: what a sampled token costs beyond the layers."""
        return self.vocab_size * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """All parameters; a tied embedding counts once."""
        embeddings = self.num_head_parameters * (1 if self.tie_word_embeddings else 2)
        positions = self.max_position_embeddings * self.hidden_size * self.learned_positions
        final_norm = self.hidden_size
        return self.num_hidden_layers * self.num_parameters_per_layer + embeddings + positions + final_norm

    @property
    def weight_bytes(self) -> int:
        """Memory all weights take."""
        return self.num_parameters * BYTES_PER_WEIGHT

    @property
    def kv_bytes_per_token(self) -> int:
        """KV cache of one token over all layers: keys and values."""
        return 2 * self.num_hidden_layers * self.kv_size * self.kv_bytes_per_value

    @property
    def attention_flops_per_token_pair(self) -> int:
        """Operations for one token to attend to one other, over all layers: scores, then values."""
        return 4 * self.num_hidden_layers * self.attention_size

    def can_be_split(self, tensor_parallel_size: int) -> bool:
        """Whether its heads divide over so many GPUs; KV heads may be copied where there are fewer."""
        kv_heads = self.num_key_value_heads
        return self.num_attention_heads % tensor_parallel_size == 0 and (
            kv_heads % tensor_parallel_size == 0 or tensor_parallel_size % kv_heads == 0
        )

    def kv_share(self, tensor_parallel_size: int) -> float:
        """Part of the KV cache that one of so many GPUs holds."""
        return 1 / min(tensor_parallel_size, self.num_key_value_heads)
