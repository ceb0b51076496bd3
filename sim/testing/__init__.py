"""Property-based tests for anyone's allocator, and strategies for what the simulator takes. See README.md.

Needs Hypothesis (`pip install 'pagecast[testing]'`).
"""

try:
    import hypothesis  # noqa: F401
except ImportError as error:
    raise ImportError("sim.testing needs Hypothesis: pip install 'pagecast[testing]'") from error

from sim.core.allocator import LATER, Grant, KVAllocator
from sim.core.kv_cache import AllocStatus
from sim.core.step import BlockCopy
from sim.testing.claims import ClaimBrokenError, claim, holds, operation
from sim.testing.machine import AllocatorMachine
from sim.testing.memory import FakeMemory
from sim.testing.paged import PagedAllocator

__all__ = [
    "LATER",
    "AllocStatus",
    "AllocatorMachine",
    "BlockCopy",
    "ClaimBrokenError",
    "FakeMemory",
    "Grant",
    "KVAllocator",
    "PagedAllocator",
    "claim",
    "holds",
    "operation",
]
