"""Content keys of simulated requests: which of their blocks are equal to whose.

A trace says what is shared by hash ids: each id stands for `hash_block_tokens` tokens and, being
chained, for all tokens before them. An engine block's key follows from the id that covers its last
token. What no id covers belongs to the request alone: its prompt, which its samples share, and each
sample's output.

Keys are integers, and those of one stretch are consecutive, so a stretch is a `range`: no key is made
before it is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

_BLOCK_BITS = 24
_SAMPLE_BITS = 16


class RequestContent:
    """Keys of one request's full blocks; implements `sim.core.request.ContentKeys`."""

    __slots__ = (
        "_block_size",
        "_hash_block_tokens",
        "_hash_ids",
        "_num_prompt_blocks",
        "_num_shared_blocks",
        "_own",
    )

    def __init__(
        self,
        request_id: int,
        num_prompt_tokens: int,
        block_size: int,
        hash_ids: tuple[int, ...] = (),
        hash_block_tokens: int = 1,
    ) -> None:
        self._own = request_id << (_BLOCK_BITS + _SAMPLE_BITS)
        self._block_size = block_size
        self._num_prompt_blocks = num_prompt_tokens // block_size
        self._hash_ids = hash_ids
        self._hash_block_tokens = hash_block_tokens
        self._num_shared_blocks = min(len(hash_ids) * hash_block_tokens, num_prompt_tokens) // block_size

    def keys(self, sample: int, start: int, stop: int) -> Sequence[int]:
        """The keys of logical blocks `start` to `stop - 1` of one sample."""
        shared, prompt = self._num_shared_blocks, self._num_prompt_blocks
        own = self._own
        if start >= shared:
            if stop <= prompt:
                return range(own + start, own + stop)
            if start >= prompt:
                own += (sample + 1) << _BLOCK_BITS
                return range(own + start, own + stop)
        size, tokens, ids = self._block_size, self._hash_block_tokens, self._hash_ids
        keys = [
            ~((ids[((block + 1) * size - 1) // tokens] << _BLOCK_BITS) | block)
            for block in range(start, min(stop, shared))
        ]
        keys += range(own + max(start, shared), own + min(stop, prompt))
        own += (sample + 1) << _BLOCK_BITS
        keys += range(own + max(start, prompt), own + stop)
        return keys
