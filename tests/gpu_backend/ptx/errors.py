"""What the executor refuses, and what it catches."""

from __future__ import annotations


class PtxUnknownError(Exception):
    """An instruction, type, modifier or operand that the executor does not know."""


class PtxMemoryError(Exception):
    """An access out of bounds, misaligned, or in a race with another program."""
