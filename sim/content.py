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

from workloads.spec import RequestSpec

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

    def __init__(self, spec: RequestSpec, block_size: int) -> None:
        self._own = spec.request_id << (_BLOCK_BITS + _SAMPLE_BITS)
        self._block_size = block_size
        self._num_prompt_blocks = spec.prompt_tokens // block_size
        self._hash_ids = spec.hash_ids
        self._hash_block_tokens = spec.hash_block_tokens
        num_shared_tokens = min(len(spec.hash_ids) * spec.hash_block_tokens, spec.prompt_tokens)
        self._num_shared_blocks = num_shared_tokens // block_size

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
