"""Whether the parts of an experiment fit together: memory, lengths, batches, GPUs.

Each check says what is wrong, with the figures, and what would be right. Faults stop the run; warnings
are printed and kept. Refuses to know where keys stand in a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from sim.config.kinds import kind_faults
from sim.config.own import OwnClass
from sim.config.parallelism import parallelism_faults
from sim.config.room import Room, does_not_fit
from sim.config.schema import (
    KV_BYTES,
    PAPER,
    ContinuousSection,
    EngineSection,
    ExperimentFile,
    SwapSection,
)
from sim.config.sizes import size_faults
from sim.config.speculation_checks import speculation_faults
from sim.config.workload import ServeGenSection, SyntheticSection
from sim.config.yaml_source import KeyPath
from sim.core.buddy import largest_chunk
from sim.core.own_memory import AllocatorError, OwnMemoryConfig
from sim.cost.hardware import Gpu
from sim.cost.memory import GpuMemory, gpu_memory
from sim.cost.model import ModelShape
from sim.cost.quantization import quantized

Fault = tuple[KeyPath, str]
_GIB = 2**30


@dataclass(frozen=True)
class Fit:
    """An experiment file, nothing in it left to a release, beside the model and the GPU it names."""

    file: ExperimentFile
    model: ModelShape
    gpu: Gpu
    draft: ModelShape | None = None
    """The small model that drafts, where one does."""

    @classmethod
    def of(cls, file: ExperimentFile, model: ModelShape, gpu: Gpu, draft: ModelShape | None = None) -> Fit:
        """With the defaults of the file's release, weights and KV cache in the elements it asks for."""
        engine = file.engine.with_release_rules(model.max_position_embeddings)
        kv_bytes = KV_BYTES[engine.kv_cache_dtype]
        model = replace(model, kv_bytes_per_value=kv_bytes)
        if engine.quantization is not None:
            model = quantized(model, engine.quantization)
        draft = replace(draft, kv_bytes_per_value=kv_bytes) if draft is not None else None
        return cls(file.model_copy(update={"engine": engine}), model, gpu, draft)

    @property
    def known(self) -> dict[str, int]:
        """What classes of the user's own may ask for, by name (`sim.config.own.KNOWN`)."""
        drafting = self.file.speculation
        return {
            "seed": self.file.seed,
            "num_replicas": self.file.cluster.replicas,
            "block_size": self.engine.block_size,
            "max_num_seqs": self.engine.max_num_seqs,
            "max_num_batched_tokens": self.max_num_batched_tokens,
            "max_model_len": self.max_model_len,
            "num_speculative_tokens": drafting.how_many().most if drafting is not None else 0,
        }

    @property
    def draft_tensor_parallel_size(self) -> int:
        """GPUs that share each layer of the draft model."""
        speculation = self.file.speculation
        wanted = speculation.draft_tensor_parallel_size if speculation is not None else None
        return wanted or self.tensor_parallel_size

    @property
    def is_paper(self) -> bool:
        """Whether the scheduler is the PagedAttention paper's."""
        return self.engine.scheduler == PAPER

    @property
    def is_contiguous(self) -> bool:
        """Whether memory is reserved in stretches instead of paged."""
        allocation = self.engine.kv_allocation
        return isinstance(allocation, str) and allocation != "paged"

    @property
    def own_memory(self) -> OwnMemoryConfig | None:
        """The memory behind an allocator of the user's own, where one gives blocks out."""
        own = self.engine.kv_allocation
        if not isinstance(own, OwnClass):
            return None
        return OwnMemoryConfig(self.num_usable_blocks, self.engine.block_size, own, own.short_name)

    @property
    def has_null_block(self) -> bool:
        """Whether one block is never handed out."""
        return not (self.is_paper or self.is_contiguous)

    @property
    def swap(self) -> SwapSection | None:
        """Host memory for swapped sequences, where the scheduler knows it."""
        return self.file.swap or SwapSection() if self.is_paper else None

    @property
    def num_host_blocks(self) -> int:
        """Blocks of the host pool."""
        swap = self.swap
        if swap is None:
            return 0
        block_bytes = self.memory.kv_bytes_per_token * self.engine.block_size
        return swap.num_blocks or int(swap.space / block_bytes)

    @property
    def num_offload_blocks(self) -> int:
        """Blocks of the prefix cache's host tier."""
        offload = self.file.offload
        if offload is None:
            return 0
        block_bytes = self.memory.kv_bytes_per_token * self.engine.block_size
        return offload.num_blocks or int(offload.space / block_bytes)

    @property
    def max_num_batched_tokens(self) -> int:
        """Most tokens of a step."""
        assert self.engine.max_num_batched_tokens is not None, "the release has set it"
        return self.engine.max_num_batched_tokens

    @property
    def engine(self) -> EngineSection:
        """The engine's settings."""
        return self.file.engine

    @property
    def max_model_len(self) -> int:
        """Longest sequence."""
        return self.engine.max_model_len or self.model.max_position_embeddings

    @property
    def tensor_parallel_size(self) -> int:
        """GPUs that share each layer."""
        return self.file.parallelism.tensor_parallel_size

    @property
    def pipeline_parallel_size(self) -> int:
        """Stages that a replica is cut into."""
        return self.file.parallelism.pipeline_parallel_size

    @cached_property
    def memory(self) -> GpuMemory:
        """What each GPU holds, or the fullest of them."""
        return self._memory_in(self._room())

    def _memory_in(self, room: Room) -> GpuMemory:
        return gpu_memory(
            room.model,
            room.gpu,
            utilization_fraction=self.engine.gpu_memory_utilization,
            tensor_parallel_size=room.tensor_parallel_size,
            pipeline_parallel_size=room.pipeline_parallel_size,
            draft=self.draft,
            draft_tensor_parallel_size=min(self.draft_tensor_parallel_size, room.tensor_parallel_size),
        )

    @property
    def num_blocks_that_fit(self) -> int:
        """KV blocks that memory has room for, the null block included."""
        return self.memory.num_kv_blocks(self.engine.block_size)

    @property
    def num_usable_blocks(self) -> int:
        """KV blocks that can be handed out: under V1 one, the null block, never is."""
        return (self.engine.num_gpu_blocks_override or self.num_blocks_that_fit) - self.has_null_block

    @property
    def num_slots(self) -> int:
        """Token slots of contiguous memory."""
        if self.engine.num_gpu_blocks_override is not None:
            return self.engine.num_gpu_blocks_override * self.engine.block_size
        return self.memory.num_kv_blocks(1)

    @property
    def num_needed_blocks(self) -> int:
        """KV blocks of the longest sequence."""
        return -(-self.max_model_len // self.engine.block_size)

    # Faults ---------------------------------------------------------------------------------------

    def faults(self) -> Iterator[Fault]:
        """Everything that cannot be run."""
        yield from kind_faults(self.file)
        yield from speculation_faults(self.file, self.model, self.draft, self.max_num_batched_tokens)
        degree = self.draft_tensor_parallel_size
        yield from parallelism_faults(self.file, self.model, self.draft, degree)
        if self.pipeline_parallel_size > self.model.num_hidden_layers:
            return  # there is no memory to speak of
        if self.engine.num_gpu_blocks_override is None and self.num_usable_blocks < 1:
            yield ("model",), does_not_fit(self._room())
        else:
            yield from self._contiguous_faults() if self.is_contiguous else self._pool_faults()
            yield from self._allocator_faults()
            num_blocks = 0 if self.is_contiguous else self.num_usable_blocks  # stretches are few
            yield from size_faults(self.file, num_blocks, self.num_host_blocks, self.num_offload_blocks)
        if self.is_paper:
            yield from self._paper_faults()
        if self.file.offload is not None and not self.num_offload_blocks:
            yield ("offload", "space"), "less than one KV block: give it more, or leave offload out"
        yield from self._batch_faults()
        yield from self._budget_faults()

    def _room(self) -> Room:
        return Room(
            self.model,
            self.gpu,
            self.tensor_parallel_size,
            self.pipeline_parallel_size,
            self.engine.block_size,
            self.num_needed_blocks + 1,
            self._memory_in,
        )

    def _pool_faults(self) -> Iterator[Fault]:
        block_size, usable = self.engine.block_size, self.num_usable_blocks
        if self.num_needed_blocks > usable:
            of_model = "" if self.engine.max_model_len else f" ({self.model.name}'s own)"
            message = (
                f"a sequence of {self.max_model_len:,} tokens{of_model} needs {self.num_needed_blocks:,} KV "
                f"blocks of {block_size}, and {usable:,} can be handed out: "
                f"set engine.max_model_len to at most {usable * block_size}"
            )
            yield ("engine", "max_model_len"), message

    def _allocator_faults(self) -> Iterator[Fault]:
        own = self.own_memory
        if own is None:
            return
        try:
            own.allocator()
        except AllocatorError as error:
            yield ("engine", "kv_allocation"), str(error)
        except Exception as error:
            message = f"{own.name} cannot be made: {type(error).__name__}: {error}"
            yield ("engine", "kv_allocation"), message

    def _contiguous_faults(self) -> Iterator[Fault]:
        largest = largest_chunk(self.num_slots)
        if self.max_model_len > largest:
            message = (
                f"a reservation of {self.max_model_len:,} slots does not fit the largest chunk, {largest:,} "
                f"of {self.num_slots:,}: set engine.max_model_len to at most {largest}"
            )
            yield ("engine", "max_model_len"), message

    def _paper_faults(self) -> Iterator[Fault]:
        engine, needed = self.engine, self.num_needed_blocks
        if engine.preemption_mode != "recompute" and self.num_host_blocks < needed:
            key = "space" if self.swap is None or self.swap.num_blocks is None else "num_blocks"
            need_bytes = needed * self.memory.kv_bytes_per_token * engine.block_size
            message = (
                f"{self.num_host_blocks:,} host blocks hold less than one sequence of {self.max_model_len:,} "
                f"tokens, {needed:,} blocks or {need_bytes / _GIB:.2f} GiB for each GPU: give it more, or "
                "set engine.preemption_mode to recompute"
            )
            yield ("swap", key), message
        if self.max_num_batched_tokens < self.max_model_len:
            message = (
                f"{self.max_num_batched_tokens} is below max_model_len ({self.max_model_len}): a victim is "
                "recomputed as one prompt, which must fit a step"
            )
            yield ("engine", "max_num_batched_tokens"), message
        yield from self._width_faults()

    def _width_faults(self) -> Iterator[Fault]:
        workload = self.file.workload
        if isinstance(workload, ServeGenSection):
            return
        width, key = workload.num_samples, "num_samples"
        if workload.beam_width is not None:
            width, key = workload.beam_width, "beam_width"
        if width > self.engine.max_num_seqs:
            message = f"{width} sequences never run together: max_num_seqs is {self.engine.max_num_seqs}"
            yield ("workload", key), message

    def _batch_faults(self) -> Iterator[Fault]:
        engine = self.engine
        batching = engine.batching
        if not isinstance(batching, ContinuousSection) and batching.max_batch_size > engine.max_num_seqs:
            yield (
                ("engine", "batching", "max_batch_size"),
                f"a batch of {batching.max_batch_size} never fills: max_num_seqs is {engine.max_num_seqs}",
            )
        if self.max_num_batched_tokens < engine.max_num_seqs:
            message = f"{self.max_num_batched_tokens} is below max_num_seqs ({engine.max_num_seqs})"
            yield ("engine", "max_num_batched_tokens"), f"{message}: each computes a token a step"

    def _budget_faults(self) -> Iterator[Fault]:
        engine = self.engine
        budget = engine.max_num_scheduled_tokens or self.max_num_batched_tokens
        if budget > self.max_num_batched_tokens:
            yield (
                ("engine", "max_num_scheduled_tokens"),
                f"{budget} is above max_num_batched_tokens ({self.max_num_batched_tokens})",
            )
        if not (self.is_paper or engine.enable_chunked_prefill) and budget < self.max_model_len:
            message = (
                f"without it a prompt must fit one step, but a step takes {budget} tokens and max_model_len "
                f"is {self.max_model_len}: raise max_num_batched_tokens or lower max_model_len"
            )
            yield ("engine", "enable_chunked_prefill"), message
        if engine.long_prefill_token_threshold > self.max_model_len:
            yield (
                ("engine", "long_prefill_token_threshold"),
                f"{engine.long_prefill_token_threshold} is above max_model_len ({self.max_model_len})",
            )

    # Warnings -------------------------------------------------------------------------------------

    def warnings(self) -> Iterator[str]:
        """What is allowed but probably not meant."""
        own = self.model.max_position_embeddings
        if self.max_model_len > own:
            yield (
                f"engine.max_model_len {self.max_model_len} is above the {own} positions that "
                f"{self.model.name} was made for; a real engine refuses this unless told otherwise"
            )
        override = self.engine.num_gpu_blocks_override
        if override is not None and override > self.num_blocks_that_fit:
            yield (
                f"engine.num_gpu_blocks_override {override} is above the {self.num_blocks_that_fit} blocks "
                f"that fit beside {self.model.name} on {self.gpu.name}"
            )
        stages = self.pipeline_parallel_size
        if stages > 1:
            yield (
                f"parallelism.pipeline_parallel_size {stages}: one batch at a time passes all stages here; "
                f"an engine that keeps a batch in each serves up to {stages} times as much"
            )
        if self.model.computes_in_fp8 and self.gpu.fp8_flops_per_s is None:
            yield (
                f"{self.gpu.name} has no 8-bit products: the fp8 weights of {self.model.name} save memory "
                "and reading, and are multiplied in 16 bits"
            )
        for key in ("victim_choice", "scheduler_cls", "kv_allocation"):
            own = getattr(self.engine, key)
            if isinstance(own, OwnClass):
                yield (
                    f"engine.{key} {own.short_name}: every sequence is planned by itself in every step, so "
                    "that none of its decisions is passed over; the simulation takes longer"
                )
        workload = self.file.workload
        has_priorities = isinstance(workload, SyntheticSection) and bool(workload.priorities)
        if has_priorities and self.engine.scheduling_policy == "fcfs":
            yield "workload.priorities are ignored: engine.scheduling_policy is fcfs"
        if self.file.cluster.router == "prefix_affine" and not self.engine.enable_prefix_caching:
            yield "cluster.router prefix_affine gains nothing while engine.enable_prefix_caching is false"
        if self.engine.async_scheduling and self.engine.fusion == "roofline":
            yield (
                "engine.async_scheduling applies the rules of scheduling ahead, but simulated steps do not "
                "overlap with engine.fusion roofline: no time is gained by it"
            )
