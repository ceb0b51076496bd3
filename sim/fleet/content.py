"""Content keys of simulated requests: which of their blocks are equal to whose.

A trace says what is shared by hash ids: each id stands for `hash_block_tokens` tokens and, being
chained, for all tokens before them. An engine block's key follows from the id that covers its last
token, or the one behind it where keys look ahead. What no id covers belongs to the request alone: its
prompt, which its samples share, and each sample's output.

Keys are integers: negative for what ids cover, positive for what is a request's own. Those of one
stretch are consecutive, so a stretch is a `range`, and a prompt of 190,000 tokens costs a few of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.core.compiling import mypyc_attr
from workloads.spec import RequestSpec

_BLOCK_BITS = 24
_SAMPLE_BITS = 16


@mypyc_attr(allow_interpreted_subclasses=True)
class RequestContent:
    """Keys of one request's full blocks; implements `sim.core.request.ContentKeys`."""

    __slots__ = (
        "_block_size",
        "_hash_block_tokens",
        "_hash_ids",
        "_num_lookahead",
        "_num_prompt_blocks",
        "_num_shared_blocks",
        "_own",
        "_shared_keys",
    )

    def __init__(self, spec: RequestSpec, block_size: int, num_lookahead_tokens: int = 0) -> None:
        self._own = spec.request_id << (_BLOCK_BITS + _SAMPLE_BITS)
        self._block_size = block_size
        self._num_lookahead = num_lookahead_tokens
        """Tokens behind a block that its key covers too; 1 under EAGLE's rules of vLLM 0.33."""
        self._num_prompt_blocks = max(spec.prompt_tokens - num_lookahead_tokens, 0) // block_size
        self._hash_ids = spec.hash_ids
        self._hash_block_tokens = spec.hash_block_tokens
        num_shared_tokens = min(len(spec.hash_ids) * spec.hash_block_tokens, spec.prompt_tokens)
        self._num_shared_blocks = max(num_shared_tokens - num_lookahead_tokens, 0) // block_size
        self._shared_keys: list[int] = []
        """Made when first asked for."""

    def keys(self, sample: int, start: int, stop: int) -> Sequence[int]:
        """The keys of logical blocks `start` to `stop - 1` of one sample."""
        shared, prompt = self._num_shared_blocks, self._num_prompt_blocks
        own = self._own
        own_of_sample = own + ((sample + 1) << _BLOCK_BITS)
        if start >= prompt:
            return range(own_of_sample + start, own_of_sample + stop)
        if start >= shared and stop <= prompt:
            return range(own + start, own + stop)
        keys: list[int] = []
        if start < shared:
            keys = (self._shared_keys or self._make_shared_keys())[start:stop]
        keys += range(own + max(start, shared), own + min(stop, prompt))
        keys += range(own_of_sample + max(start, prompt), own_of_sample + stop)
        return keys

    def _make_shared_keys(self) -> list[int]:
        """An id and a place make a key: an id that breaks the chain finds nothing at another place."""
        size, tokens, stop = self._block_size, self._hash_block_tokens, self._num_shared_blocks
        keys = self._shared_keys
        for place, hash_id in enumerate(self._hash_ids):
            base = ~(hash_id << _BLOCK_BITS)
            # Blocks whose last covered token lies in place * tokens ... (place + 1) * tokens - 1.
            begin, end = place * tokens - self._num_lookahead, (place + 1) * tokens - self._num_lookahead
            first, last = max(begin, 0) // size, min(max(end, 0) // size, stop)
            keys += range(base - first, base - last, -1)
        return keys
