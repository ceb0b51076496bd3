"""`KVAllocator`: what any allocator of KV memory offers, ours or anyone's, and `sim.testing` holds it to.

Sequences are numbers that the caller chooses. Whoever implements this decides where tokens lie; the caller
writes them there, and carries out the copies of a `Grant` first: those to the host, those from the host,
those within the device.

    admit ──▶ append, append, ... ──▶ free
                │  fork: another sequence goes on from here, sharing every block
                └─ swap_out ──▶ swap_in: all sequences that share blocks, together

A shortage is an answer (`AllocStatus.LATER`, nothing touched), misuse an exception.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple, Protocol

from sim.core.kv_cache import AllocStatus
from sim.core.step import BlockCopy


class Grant(NamedTuple):
    """Whether there is room, and what has to be copied before it is written."""

    status: AllocStatus
    num_cached_tokens: int = 0
    """Leading tokens of an admission whose keys and values are there already."""
    to_host: tuple[BlockCopy, ...] = ()
    from_host: tuple[BlockCopy, ...] = ()
    copies: tuple[BlockCopy, ...] = ()
    """Within the device: copy-on-write."""


LATER = Grant(AllocStatus.LATER)


class KVAllocator(Protocol):
    """Gives sequences blocks, and takes them back.

    Block ids run from 0 to `num_blocks` - 1 on the device, and from 0 to `num_host_blocks` - 1 on the host.
    """

    @property
    def num_blocks(self) -> int:
        """Blocks of the device."""
        ...

    @property
    def block_size(self) -> int:
        """Tokens of a block."""
        ...

    @property
    def num_host_blocks(self) -> int:
        """Blocks of the host pool for swapped sequences; 0: there is none."""
        ...

    @property
    def num_free(self) -> int:
        """Device blocks that can be handed out."""
        ...

    @property
    def num_free_host(self) -> int:
        """Host blocks that can be handed out."""
        ...

    def admit(self, seq_id: int, tokens: Sequence[Hashable]) -> Grant:
        """Give a newcomer room for all these tokens; it may find the first of them there already."""
        ...

    def append(self, seq_id: int, token: Hashable) -> Grant:
        """Give a sequence a slot of its own for one more token."""
        ...

    def fork(self, parent_id: int, child_id: int) -> None:
        """Let a new sequence go on from where another is, sharing all of its blocks."""
        ...

    def free(self, seq_id: int) -> None:
        """A sequence has ended, wherever it is."""
        ...

    def swap_out(self, seq_ids: Sequence[int]) -> Grant:
        """Move sequences to the host: all that share any block."""
        ...

    def swap_in(self, seq_ids: Sequence[int]) -> Grant:
        """Move them back."""
        ...

    def table(self, seq_id: int) -> Sequence[int]:
        """A sequence's blocks in the order of its tokens; of the host while it is swapped."""
        ...

    def num_references(self, block: int) -> int:
        """How many sequences hold a block of the device; 0 if it is free."""
        ...
