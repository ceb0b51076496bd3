"""Content keys of requests against their definition, block by block."""

from __future__ import annotations

from collections.abc import Hashable

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from sim.fleet.content import RequestContent
from workloads.spec import RequestSpec


def content_of_block(
    spec: RequestSpec, block_size: int, sample: int, block: int, lookahead: int = 0
) -> Hashable:
    """What a block holds, in words, and the tokens behind it that its key covers too."""
    last_token = (block + 1) * block_size - 1 + lookahead
    if last_token >= spec.prompt_tokens:
        return "output of", spec.request_id, sample, block
    place = last_token // spec.hash_block_tokens if spec.hash_ids else 0
    if place < len(spec.hash_ids):
        return "text", spec.hash_ids[place], block
    return "prompt of", spec.request_id, block


@st.composite
def specs(draw: DrawFn, request_id: int) -> RequestSpec:
    hash_block_tokens = draw(st.sampled_from([1, 2, 3, 5, 8, 16]))
    prompt_tokens = draw(st.integers(1, 60))
    # At most one per started stretch of the prompt; sometimes fewer, sometimes out of chain.
    most = -(-prompt_tokens // hash_block_tokens)
    hash_ids = tuple(draw(st.lists(st.integers(0, 3), max_size=most)))
    return RequestSpec(request_id, 0, prompt_tokens, 40, 3, 0, hash_ids, hash_block_tokens)


@given(
    one=specs(0),
    other=specs(1),
    block_size=st.sampled_from([1, 2, 4, 8, 16]),
    lookahead=st.integers(0, 1),
)
def test_keys_are_equal_exactly_where_contents_are(
    one: RequestSpec, other: RequestSpec, block_size: int, lookahead: int
) -> None:
    key_of: dict[Hashable, int] = {}
    for spec in (one, other):
        content = RequestContent(spec, block_size, lookahead)
        num_blocks = (spec.prompt_tokens + spec.output_tokens - lookahead) // block_size
        for sample in range(3):
            keys = content.keys(sample, 0, num_blocks)
            assert len(keys) == num_blocks
            for block, key in enumerate(keys):
                held = content_of_block(spec, block_size, sample, block, lookahead)
                assert key_of.setdefault(held, key) == key
    assert len(set(key_of.values())) == len(key_of)


@given(
    spec=specs(0),
    block_size=st.sampled_from([1, 2, 4, 8, 16]),
    sample=st.integers(0, 2),
    bounds=st.tuples(st.integers(0, 100), st.integers(0, 100)).map(sorted),
)
def test_keys_of_some_blocks_are_those_of_all_blocks_cut_out(
    spec: RequestSpec, block_size: int, sample: int, bounds: list[int]
) -> None:
    num_blocks = (spec.prompt_tokens + spec.output_tokens) // block_size
    start, stop = (min(bound, num_blocks) for bound in bounds)
    some = RequestContent(spec, block_size).keys(sample, start, stop)
    assert list(some) == list(RequestContent(spec, block_size).keys(sample, 0, num_blocks))[start:stop]


def test_a_block_that_straddles_the_end_of_the_prompt_belongs_to_its_sample() -> None:
    content = RequestContent(RequestSpec(0, 0, 10, 10, 2), 4)
    one, other = content.keys(0, 0, 5), content.keys(1, 0, 5)
    assert [a == b for a, b in zip(one, other, strict=True)] == [True, True, False, False, False]


def test_the_last_partial_stretch_of_a_trace_is_shared_up_to_the_end_of_the_prompt() -> None:
    first = RequestContent(RequestSpec(0, 0, 512 + 100, 50, hash_ids=(7, 9), hash_block_tokens=512), 16)
    second = RequestContent(RequestSpec(1, 0, 512 + 100, 50, hash_ids=(7, 9), hash_block_tokens=512), 16)
    num_prompt_blocks = 612 // 16
    assert list(first.keys(0, 0, num_prompt_blocks)) == list(second.keys(0, 0, num_prompt_blocks))
    assert not set(first.keys(0, num_prompt_blocks, 41)) & set(second.keys(0, num_prompt_blocks, 41))
