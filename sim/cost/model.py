"""Transformer shapes: parameters, bytes of weights and KV, floating point operations.

Owns the arithmetic of decoder-only transformers, dense or with experts, with heads of keys and values or one
latent for all of them (multi-head latent attention). Fields carry the names of a Hugging Face
`config.json`. Refuses to know GPUs and time. What is small is left out: biases other than those of the
query, key and value projections, and the second half of layer norms (together under 0.1 %).
"""

from __future__ import annotations

from dataclasses import dataclass

BYTES_PER_WEIGHT = 2  # bf16
BYTES_PER_KV_VALUE = 2


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder-only transformer.

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
        bytes_per_weight: Of the layers' matrices, scales included; embeddings stay in 16 bits.
        computes_in_fp8: Whether products run at the device's 8-bit rate, where it has one.
        num_experts: Routed experts of a layer; 0: a dense MLP. num_experts_per_tok: How many a token visits.
        moe_intermediate_size: Width of one expert. num_shared_experts: Visited by every token.
        first_k_dense_replace: First layers that have a dense MLP all the same.
        kv_lora_rank: Width of the latent that stands for keys and values; 0: there are KV heads instead.
        q_lora_rank: Width queries are squeezed through; 0: they are not. qk_nope_head_dim,
        qk_rope_head_dim, v_head_dim: Parts of a head with a latent.
        source: Where the sizes come from: a `sim.cost.hardware.Source`, in its word.
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
    bytes_per_weight: float = BYTES_PER_WEIGHT
    computes_in_fp8: bool = False
    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    num_shared_experts: int = 0
    first_k_dense_replace: int = 0
    kv_lora_rank: int = 0
    q_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    source: str = "assumed"

    @property
    def attention_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together (value heads are as wide)."""
        return self.num_key_value_heads * self.head_dim

    @property
    def num_expert_layers(self) -> int:
        """Layers with experts."""
        return self.num_hidden_layers - self.first_k_dense_replace if self.num_experts else 0

    @property
    def latent_size(self) -> int:
        """Values cached for a token and layer where keys and values are a latent; 0 elsewhere."""
        return self.kv_lora_rank + self.qk_rope_head_dim if self.kv_lora_rank else 0

    @property
    def num_attention_parameters(self) -> int:
        """Of the attention of one layer."""
        hidden, qkv = self.hidden_size, self.attention_size + 2 * self.kv_size
        if not self.kv_lora_rank:
            return hidden * qkv + self.attention_size * hidden + qkv * self.qkv_bias
        heads, rank = self.num_attention_heads, self.kv_lora_rank
        query = heads * (self.qk_nope_head_dim + self.qk_rope_head_dim)
        queries = self.q_lora_rank * (hidden + query) if self.q_lora_rank else hidden * query
        keys_values = hidden * self.latent_size + rank * heads * (self.qk_nope_head_dim + self.v_head_dim)
        return queries + keys_values + heads * self.v_head_dim * hidden

    def mlp_parameters(self, width: int) -> int:
        """Of an MLP, or an expert, of that width."""
        return (3 if self.gated_mlp else 2) * self.hidden_size * width

    @property
    def num_layers_parameters(self) -> int:
        """Parameters of all layers."""
        shared = self.num_experts + self.num_shared_experts
        experts = (
            shared * self.mlp_parameters(self.moe_intermediate_size) + self.hidden_size * self.num_experts
        )
        num_dense = self.num_hidden_layers - self.num_expert_layers
        mlps = num_dense * self.mlp_parameters(self.intermediate_size) + self.num_expert_layers * experts
        norms = 2 * self.hidden_size + 2 * self.head_dim * self.qk_norm
        return self.num_hidden_layers * (self.num_attention_parameters + norms) + mlps

    @property
    def num_parameters_per_layer(self) -> int:
        """Parameters of one layer, on average."""
        return self.num_layers_parameters // self.num_hidden_layers

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
        return self.num_layers_parameters + embeddings + positions + final_norm

    @property
    def weight_bytes(self) -> int:
        """Memory all weights take."""
        in_16_bits = self.num_parameters - self.num_layers_parameters
        return round(self.num_layers_parameters * self.bytes_per_weight) + in_16_bits * BYTES_PER_WEIGHT

    @property
    def kv_bytes_per_token(self) -> int:
        """KV cache of one token over all layers: keys and values."""
        values = self.latent_size or 2 * self.kv_size
        return self.num_hidden_layers * values * self.kv_bytes_per_value

    @property
    def attention_flops_per_token_pair(self) -> int:
        """Operations for one token to attend to one other, over all layers: scores, then values."""
        if self.kv_lora_rank:
            pair = 2 * self.num_attention_heads * (self.latent_size + self.kv_lora_rank)
            return self.num_hidden_layers * pair
        return 4 * self.num_hidden_layers * self.attention_size

    def stage_layers(self, num_stages: int) -> tuple[int, ...]:
        """Layers of each pipeline stage, as vLLM cuts them: the last gets none that is left over."""
        each, left = divmod(self.num_hidden_layers, num_stages)
        return tuple(each + (num_stages - 1 - left <= stage < num_stages - 1) for stage in range(num_stages))

    def stage_weight_bytes(self, num_stages: int) -> tuple[int, ...]:
        """Memory the weights of each stage take; the first has the embedding, the last the output projection.

        A tied embedding is in both, once where they are one.
        """
        in_layers = [
            round(self.num_layers_parameters * self.bytes_per_weight * layers / self.num_hidden_layers)
            for layers in self.stage_layers(num_stages)
        ]
        if num_stages == 1:
            return (self.weight_bytes,)
        positions = self.max_position_embeddings * self.hidden_size * self.learned_positions
        in_layers[0] += (self.num_head_parameters + positions) * BYTES_PER_WEIGHT
        in_layers[-1] += (self.num_head_parameters + self.hidden_size) * BYTES_PER_WEIGHT
        return tuple(in_layers)

    def can_be_split(self, tensor_parallel_size: int) -> bool:
        """Whether its heads divide over so many GPUs; KV heads may be copied where there are fewer."""
        kv_heads = 1 if self.kv_lora_rank else self.num_key_value_heads
        return self.num_attention_heads % tensor_parallel_size == 0 and (
            kv_heads % tensor_parallel_size == 0 or tensor_parallel_size % kv_heads == 0
        )

    def kv_share(self, tensor_parallel_size: int) -> float:
        """Part of the KV cache that one of so many GPUs holds."""
        return 1.0 if self.kv_lora_rank else 1 / min(tensor_parallel_size, self.num_key_value_heads)
