"""The least that an experiment file says, and a way to write one."""

from __future__ import annotations

from pathlib import Path

MINIMAL = """\
model: llama-3-8b
hardware: a100-80gb-sxm
workload:
  kind: synthetic
  num_requests: 10
  arrivals: {kind: poisson, rate: 10 /s}
  prompt_tokens: {kind: fixed, tokens: 1000}
  output_tokens: {kind: fixed, tokens: 250}
"""


def write(folder: Path, text: str, name: str = "experiment.yaml") -> Path:
    """A configuration file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
