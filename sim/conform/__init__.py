"""The core against recorded engines, decision by decision.

replay.py           one recorded trace, line by line
steps.py            V1's scheduler, step by step; ahead.py the same in plans for many steps
groups.py           the PagedAttention paper's scheduler
front.py            requests under the names that the recording uses
recorded_trace.py   what a trace says; recorded_form.py what form it must have
"""

from sim.conform.replay import LEVELS, conform

__all__ = ["LEVELS", "conform"]
