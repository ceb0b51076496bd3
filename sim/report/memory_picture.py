"""The picture that every lecture on paging draws: memory as a field of slots, coloured by what they hold.

Slots run from left to right, line by line, like text. A pool of more slots than can be seen is drawn in
cells of several slots, each in the colour of what most of them hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sim.metrics.memory_map import MemoryMap, SlotState
from sim.report.canvas import BLUE, Canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 128
MAX_LINES = 144
COLOURS: dict[SlotState, tuple[str, str]] = {
    SlotState.TOKEN: (BLUE, "tokens"),
    SlotState.RESERVED: ("#F2B84B", "reserved for tokens to come"),
    SlotState.INTERNAL: ("#C23B00", "internal fragmentation"),
    SlotState.ROUNDING: ("#8C8C8C", "rounding of the allocator"),
    SlotState.FREE: ("#ECECEC", "free"),
}


@dataclass(frozen=True, slots=True)
class Panel:
    """One memory and what to call it."""

    title: str
    memory: MemoryMap


def draw_memory(panels: Sequence[Panel], title: str) -> Figure:
    """Memories side by side, their shares below each, one legend for all."""
    from matplotlib.patches import Patch

    canvas = Canvas(1, len(panels), height=6.2, title=title)
    for axes, panel in zip(canvas.axes, panels, strict=True):
        _draw(axes, panel)
    handles = [Patch(facecolor=colour, label=name) for colour, name in COLOURS.values()]
    canvas.figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, handlelength=1.2
    )
    return canvas.figure


def _draw(axes: Axes, panel: Panel) -> None:
    from matplotlib.colors import ListedColormap

    states = panel.memory.states
    cell = max(1, -(-len(states) // (COLUMNS * MAX_LINES)))
    field = cells(states, cell)
    colours = ListedColormap([COLOURS[state][0] for state in SlotState])
    image = np.ma.masked_equal(field, _NO_SLOT)
    axes.imshow(image, cmap=colours, vmin=0, vmax=len(SlotState) - 1, aspect="auto", interpolation="nearest")
    axes.set_title(panel.title, fontsize=9.5, loc="left")
    axes.grid(visible=False)
    axes.set_xticks([0, COLUMNS // 2 - 1, COLUMNS - 1], ["1", str(COLUMNS // 2 * cell), str(COLUMNS * cell)])
    lines = np.linspace(0, len(field), 5).astype(int)[:-1]
    axes.set_yticks(lines, [f"{line * COLUMNS * cell:,}" for line in lines])
    axes.set_xlabel("Slot in the line" if cell == 1 else f"Slot in the line (a cell is {cell} slots)")
    axes.set_ylabel("First slot of the line")
    axes.text(0, -0.115, _shares_text(panel.memory), transform=axes.transAxes, va="top", fontsize=9)


def _shares_text(memory: MemoryMap) -> str:
    shares = memory.shares
    return (
        f"{len(memory.states):,} slots: {shares.tokens:.1%} tokens, {shares.reserved:.1%} reserved,\n"
        f"{shares.internal:.1%} internal, {shares.external:.1%} external or free"
    )


_NO_SLOT = 255


def cells(states: NDArray[np.uint8], cell: int) -> NDArray[np.uint8]:  # [lines, COLUMNS]
    """States in lines of `COLUMNS` cells, each the state that most of its slots have; the rest is 255."""
    num_cells = -(-len(states) // cell)
    padded = np.full(num_cells * cell, _NO_SLOT, dtype=np.uint8)
    padded[: len(states)] = states
    votes = np.stack([(padded.reshape(num_cells, cell) == state).sum(axis=1) for state in SlotState])
    most = votes.argmax(axis=0).astype(np.uint8)
    lines = -(-num_cells // COLUMNS)
    field = np.full(lines * COLUMNS, _NO_SLOT, dtype=np.uint8)
    field[:num_cells] = most
    return field.reshape(lines, COLUMNS)
