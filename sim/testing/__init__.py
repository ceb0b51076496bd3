"""Property-based tests for anyone's allocator, and strategies for what the simulator takes. See README.md.

Needs Hypothesis (`pip install 'pagecast[testing]'`).
"""

try:
    import hypothesis  # noqa: F401
except ImportError as error:
    raise ImportError("sim.testing needs Hypothesis: pip install 'pagecast[testing]'") from error

from sim.testing.machine import AllocatorMachine, ClaimBrokenError
from sim.testing.memory import FakeMemory
from sim.testing.paged import PagedAllocator

__all__ = ["AllocatorMachine", "ClaimBrokenError", "FakeMemory", "PagedAllocator"]
