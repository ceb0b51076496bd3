"""Uniform random numbers that belong to a place: of a request, a sample, a position, and what they decide.

Counter-based: a number follows from its key alone (SplitMix64's finaliser, Steele et al. 2014, over the parts
of the key one after the other). So a token does not depend on who was in the batch, on what was preempted, or
on how a prompt was cut, and two bodies that schedule differently still say the same.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Purpose(IntEnum):
    """What a number decides; numbers of different purposes are independent."""

    TOKEN = 1
    """Which token is sampled."""
    DRAFT = 2
    """Which token is drafted."""
    ACCEPT = 3
    """Whether a draft is kept."""
    NEXT = 4
    """The recovered or the bonus token."""


def uniforms(
    seed: int,
    purpose: Purpose,
    requests: NDArray[np.int64],  # [n]
    samples: NDArray[np.int64],  # [n]
    positions: NDArray[np.int64],  # [n] or [n, m]
    device: torch.device,
) -> Tensor:
    """One number in [0, 1) for each position.  # the shape of `positions`, float32."""
    wide = (slice(None),) + (None,) * (positions.ndim - 1)
    state = np.full(positions.shape, seed, dtype=np.uint64)
    for part in (np.int64(purpose), requests[wide], samples[wide], positions):
        state = _mixed(state ^ np.asarray(part, dtype=np.int64).astype(np.uint64))
    values = (state >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
    return torch.from_numpy(values).to(device)


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64: the golden-ratio step, then the finaliser."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
