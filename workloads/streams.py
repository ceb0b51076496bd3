"""Random streams by name: each consumer has its own, so that adding one shifts nobody else's draws."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """The generator that belongs to `name` under the experiment's one seed; PCG64, fixed by name."""
    digest = hashlib.sha256(name.encode()).digest()
    words = [int.from_bytes(digest[place : place + 4], "little") for place in range(0, 16, 4)]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))
