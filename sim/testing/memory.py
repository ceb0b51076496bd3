"""`FakeMemory`: KV memory in which every slot remembers whose token it holds; the read-back oracle.

The keys and values of a token depend on all tokens before it, so a slot holds the whole history up to its
token. Whatever an allocator does - grow, fork, copy on write, swap, recompute, reuse of a prefix - each
sequence must read back just its own history.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from sim.core.allocator import Grant
from sim.core.step import BlockCopy

History = tuple[Hashable, ...]
_EMPTY: History = ()


class FakeMemory:
    """Slots of the device and of the host."""

    def __init__(self, num_blocks: int, num_host_blocks: int, block_size: int) -> None:
        self._block_size = block_size
        self.device: list[list[History]] = [[_EMPTY] * block_size for _ in range(num_blocks)]
        self.host: list[list[History]] = [[_EMPTY] * block_size for _ in range(num_host_blocks)]

    def carry_out(self, grant: Grant) -> None:
        """Make the copies of a grant, in their order: to the host, from the host, within the device.

        Raises:
            IndexError: A block is copied that is not there.
        """
        _copy(grant.to_host, self.device, self.host)
        _copy(grant.from_host, self.host, self.device)
        _copy(grant.copies, self.device, self.device)

    def write(self, table: Sequence[int], history: Sequence[Hashable], start: int) -> None:
        """Store the tokens of a history from `start` on where its table says."""
        for place in range(start, len(history)):
            block, slot = divmod(place, self._block_size)
            self.device[table[block]][slot] = tuple(history[: place + 1])

    def first_mismatch(self, table: Sequence[int], history: Sequence[Hashable]) -> int | None:
        """The first token that is not where the table says; None if all are."""
        for place in range(len(history)):
            block, slot = divmod(place, self._block_size)
            if block >= len(table) or self.device[table[block]][slot] != tuple(history[: place + 1]):
                return place
        return None


def _copy(copies: Sequence[BlockCopy], source: list[list[History]], target: list[list[History]]) -> None:
    for copy in copies:
        target[copy.dst] = source[copy.src][:]
