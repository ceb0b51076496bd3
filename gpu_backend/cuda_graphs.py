"""Capturing a run as a CUDA graph. Graphs of one runner share memory, since they run one after another.

They share one stream too: cuBLAS keeps a workspace for each stream that it ever ran on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpu_backend.runner import Capture, Replay


def cuda_capture(device: torch.device) -> Capture:
    """What captures runs on a device."""
    pool: list[Any] = []
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's

    def capture(run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        """Run once beside the current stream, so that kernels compile; then capture."""
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            run()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool[0] if pool else None, stream=stream):
            logits = run()
        if not pool:
            pool.append(graph.pool())
        return graph.replay, logits

    return capture
