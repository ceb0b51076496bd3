"""The core against recorded engines, decision by decision.

replay.py           one recorded trace, line by line; groups.py the PagedAttention paper's scheduler
recorded_trace.py   what a trace says; recorded_form.py what form it must have
"""

from sim.conform.replay import LEVELS, conform

__all__ = ["LEVELS", "conform"]
