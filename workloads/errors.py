"""Errors of workload files and settings, named by place and remedy."""

from __future__ import annotations


class WorkloadError(ValueError):
    """A workload that cannot be read or made; the message starts with `file:line:` where there is one."""
