"""The cost model's kernel list as this engine carries it out.

Fused, it is `sim.cost.kernels.KernelList` as it stands. Unfused, that list counts the eager code of Hugging
Face's Llama, and this engine differs: its projections are packed, its cache has pages that attention gathers
first, its first layer has no residual to add yet, it converts to 32 bits only what is not in 32 bits already,
and it takes the sampled token in more steps. Owns these differences and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sim.cost.kernel import Batch, Kernel, KernelKind
from sim.cost.kernels import Fusion, KernelList
from sim.cost.model import ModelShape

_PACKED = {
    "query projection": "qkv projection",
    "key projection": "",
    "value projection": "",
    "mlp gate": "mlp gate and up",
    "mlp up": "",
}
"""Products that are one here, and those that are part of another."""
_NO_CASTS = {4: (": widen", ": narrow"), 2: ("rotary query: widen", "rotary key: widen")}
"""Conversions that are not made, by the bytes of a value: products with 32-bit angles convert as they go."""


def kernels_here(model: ModelShape, fusion: Fusion, batch: Batch, *, bytes_per_value: int) -> list[Kernel]:
    """Every kernel that one step launches on this engine; bytes are those of 16-bit numbers."""
    listed = KernelList(model, fusion).of(batch)
    if fusion is not Fusion.NONE:
        return listed
    return [*_unfused(listed, model, bytes_per_value), *_further(listed, batch, bytes_per_value)]


def _unfused(listed: list[Kernel], model: ModelShape, bytes_per_value: int) -> Iterator[Kernel]:
    sizes = {kernel.name: kernel for kernel in listed}
    for kernel in listed:
        name = _PACKED.get(kernel.name, kernel.name)
        if not name or kernel.name.endswith(_NO_CASTS[bytes_per_value]):
            continue
        if kernel.name == "attention: add residual":
            yield replace(kernel, num_launches=model.num_hidden_layers - 1)
        elif kernel.name in ("query projection", "mlp gate"):
            parts = ("query", "key", "value") if kernel.name == "query projection" else ()
            others = [sizes[f"{part} projection"] for part in parts] or [sizes["mlp gate"], sizes["mlp up"]]
            yield _together(name, others)
        else:
            yield kernel


def _together(name: str, parts: list[Kernel]) -> Kernel:
    """One product in place of several; that it reads their common rows once is left out."""
    return replace(
        parts[0],
        name=name,
        flops=sum(part.flops for part in parts),
        bytes_read=sum(part.bytes_read for part in parts),
        bytes_written=sum(part.bytes_written for part in parts),
    )


def _further(listed: list[Kernel], batch: Batch, bytes_per_value: int) -> Iterator[Kernel]:
    """What Hugging Face's code does not launch: gathers of pages and of angles, and steps of the choice."""
    by_name = {kernel.name: kernel for kernel in listed}
    layers = by_name["attention output"].num_launches
    angles = by_name["rotary key: join"]
    yield replace(angles, name="rotary: gather angles", num_launches=layers)
    if batch.num_decode_seqs:
        values = by_name["decode attention: values"]
        pages = values.bytes_read - by_name["decode attention: softmax"].bytes_written
        for part in ("keys", "values"):
            yield Kernel(f"decode attention: gather {part}", KernelKind.ELEMENTWISE, 0, pages, pages, layers)
    if "choose" in by_name:
        if bytes_per_value == 2:
            logits = by_name["softmax"].bytes_read
            yield Kernel("choose: widen", KernelKind.ELEMENTWISE, 0, logits, 2 * logits)
        few = by_name["choose"].bytes_written / max(batch.num_sampled, 1)
        for part in ("compare", "fall back"):
            yield Kernel(f"choose: {part}", KernelKind.ELEMENTWISE, 0, few, few)
