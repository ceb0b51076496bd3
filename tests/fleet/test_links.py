"""The link to the host: who waits for whom, and what a step that moves blocks takes."""

from __future__ import annotations

from dataclasses import replace

import simpy

from sim.config.catalog import load_gpu, load_model
from sim.cost.block_moves import BlockLayout, BlockMoves
from sim.fleet.links import HostLink, host_links

MOVES = BlockMoves(
    block_bytes=1000,
    copies_per_block=2,
    copy_latency_ns=10,
    host_bandwidth_bytes_per_s=1e9,
    memory_bandwidth_bytes_per_s=1e10,
)


def finish_times(link: HostLink, env: simpy.Environment, asked: list[tuple[int, int]]) -> list[int]:
    ends: list[int] = [0] * len(asked)

    def play(place: int, start: int, duration: int):  # type: ignore[no-untyped-def]
        yield env.timeout(start)
        yield from link.transfer(duration)
        ends[place] = int(env.now)

    for place, (start, duration) in enumerate(asked):
        env.process(play(place, start, duration))
    env.run()
    return ends


def test_transfers_have_the_link_to_themselves_in_the_order_of_asking() -> None:
    env = simpy.Environment()
    link = HostLink(env)
    assert finish_times(link, env, [(0, 10), (3, 5), (100, 7)]) == [10, 15, 107]
    assert (link.busy_ns, link.queued_ns, link.num_transfers) == (22, 7, 3)


def test_replicas_of_one_host_share_a_link() -> None:
    env = simpy.Environment()
    links = host_links(env, 5, replicas_per_link=2)
    assert links[0] is links[1]
    assert links[2] is links[3]
    assert len({id(link) for link in links}) == 3


def test_small_blocks_are_slow_because_of_their_copies() -> None:
    assert MOVES.host_ns(1) == 2 * 10 + 1000
    assert MOVES.host_ns(3) == 3 * MOVES.host_ns(1)
    assert MOVES.device_ns(3) == 600, "read and written"


def test_a_layout_in_one_piece_needs_one_copy() -> None:
    model, gpu = load_model("opt-13b"), load_gpu("a100-40gb-sxm")
    per_layer = BlockMoves.of(model, gpu, block_size=16)
    whole = BlockMoves.of(model, gpu, block_size=16, layout=BlockLayout.WHOLE)
    assert (per_layer.copies_per_block, whole.copies_per_block) == (80, 1)
    assert per_layer.block_bytes == whole.block_bytes == 16 * 819_200
    assert per_layer.host_ns(1) - whole.host_ns(1) == 79 * gpu.host_copy_latency_ns


def test_gpus_of_one_replica_that_share_a_link_take_turns() -> None:
    model, gpu = load_model("opt-66b"), load_gpu("a100-40gb-sxm")
    alone = BlockMoves.of(model, gpu, block_size=16, tensor_parallel_size=4)
    shared = BlockMoves.of(model, replace(gpu, gpus_per_host_link=2), block_size=16, tensor_parallel_size=4)
    assert abs(shared.host_ns(8) - 2 * alone.host_ns(8)) <= 1
