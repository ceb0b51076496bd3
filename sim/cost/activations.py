"""Memory that a step needs beside weights and KV cache: the activations that are alive at once.

    in the MLP      residual, normed input: hidden each;  gate and up: 2 x intermediate;  their product: 1 x
    in attention    residual, normed input: hidden each;  queries, keys, values;  attention's output
    at the end      one row of logits for each sampled token, and its float32 probabilities

Of dense models with fused kernels, which keep no scores. Refuses to know what a library's own workspaces take
(a hardware file's `reserved_memory` is measured, and holds them).
"""

from __future__ import annotations

from sim.cost.model import ModelShape


def activation_bytes(
    model: ModelShape, num_tokens: int, num_sampled: int, *, bytes_per_value: int = 2
) -> int:
    """Most bytes alive at once in a step that computes `num_tokens` tokens and samples `num_sampled`."""
    hidden, width = model.hidden_size, model.intermediate_size
    mlp = 2 * hidden + (3 if model.gated_mlp else 2) * width
    attention = 2 * hidden + 2 * model.attention_size + 2 * model.kv_size
    layers = num_tokens * max(mlp, attention) * bytes_per_value
    logits = num_tokens * 2 * hidden * bytes_per_value + num_sampled * model.vocab_size * (
        bytes_per_value + 4
    )
    return max(layers, logits)
