"""Whether what is to be simulated can be held: blocks and samples take this machine's memory."""

from __future__ import annotations

from collections.abc import Iterator

from sim.config.schema import ExperimentFile
from sim.config.workload import ServeGenSection, SyntheticSection
from sim.config.yaml_source import KeyPath

Fault = tuple[KeyPath, str]
MAX_BLOCKS = 50_000_000
"""KV blocks of all replicas, on the device and in host memory: some 2 GB of this machine's memory."""
MAX_SAMPLES = 60_000
"""Of one request; a block's content is known by its request, its sample and its place."""
MAX_SEQUENCES = 10_000_000


def size_faults(
    file: ExperimentFile, num_device_blocks: int, num_host_blocks: int, num_offload_blocks: int
) -> Iterator[Fault]:
    """Everything of which there is more than can be held; the counts are each replica's."""
    name = "block_size" if file.engine.num_gpu_blocks_override is None else "num_gpu_blocks_override"
    swap = "space" if file.swap is None or file.swap.num_blocks is None else "num_blocks"
    offload = "space" if file.offload is None or file.offload.num_blocks is None else "num_blocks"
    pools: list[tuple[KeyPath, int]] = [
        (("engine", name), num_device_blocks),
        (("swap", swap), num_host_blocks),
        (("offload", offload), num_offload_blocks),
    ]
    num_replicas = file.cluster.replicas
    if sum(num_blocks for _, num_blocks in pools) * num_replicas > MAX_BLOCKS:
        key, num_blocks = max(pools, key=lambda pool: pool[1])
        message = (
            f"{num_blocks:,} KV blocks on each of {num_replicas:,} replicas are more than can be simulated"
        )
        yield key, f"{message}, {MAX_BLOCKS:,} in all: make fewer"
    yield from _sample_faults(file)


def _sample_faults(file: ExperimentFile) -> Iterator[Fault]:
    workload = file.workload
    if isinstance(workload, ServeGenSection):
        return
    name = "num_samples" if workload.beam_width is None else "beam_width"
    width = workload.beam_width or workload.num_samples
    if width > MAX_SAMPLES:
        yield ("workload", name), f"{width:,} are more than can be simulated of one request, {MAX_SAMPLES:,}"
    elif isinstance(workload, SyntheticSection) and width * workload.num_requests > MAX_SEQUENCES:
        message = f"{workload.num_requests:,} requests of {width:,} sequences are more than can be simulated"
        yield ("workload", name), f"{message}, {MAX_SEQUENCES:,} in all"
