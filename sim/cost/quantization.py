"""How the weights of a model are stored: bytes of one, and what arithmetic multiplies them.

    name   bytes of one weight              products run in
    none   2                                16 bits
    fp8    1                                8 bits where the GPU has a rate for them, else 16
    int8   1                                16 bits: weights alone are 8 bits wide
    int4   0.5 + scales and zero points     16 bits: weights alone are 4 bits wide (AWQ, GPTQ)

Owns the names. `int4` has, for each group of weights (128, as AWQ and GPTQ checkpoints have it), a scale in
16 bits and a zero point in 4. The scales of fp8 and int8, one for each tensor or output column, are left out:
at most one for thousands of weights. Embedding, output projection, norms and the KV cache are not quantised:
as in those checkpoints, they stay in 16 bits. Refuses to know that quantised products of integers exist
(W8A8): no hardware file has a rate for them.
"""

from __future__ import annotations

from dataclasses import replace

from sim.cost.model import BYTES_PER_WEIGHT, ModelShape

SPELLINGS = {
    "none": "none",
    "fp8": "fp8",
    "int8": "int8",
    "int4": "int4",
    "awq": "int4",
    "gptq": "int4",
}
"""What a file may say, and what it means."""
GROUP_SIZE = 128
_SCALE_BYTES, _ZERO_POINT_BYTES = 2, 0.5


def bytes_per_weight(name: str, group_size: int = GROUP_SIZE) -> float:
    """Of one weight of the layers' matrices, its share of the scales included."""
    match SPELLINGS[name]:
        case "none":
            return BYTES_PER_WEIGHT
        case "int4":
            return 0.5 + (_SCALE_BYTES + _ZERO_POINT_BYTES) / group_size
        case _:
            return 1


def quantized(model: ModelShape, name: str, group_size: int = GROUP_SIZE) -> ModelShape:
    """The model with its layers' weights stored so."""
    return replace(
        model,
        bytes_per_weight=bytes_per_weight(name, group_size),
        computes_in_fp8=SPELLINGS[name] == "fp8",
    )
