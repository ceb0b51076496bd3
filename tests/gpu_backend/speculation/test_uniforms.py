"""Numbers that belong to a place: uniform, independent, and the same whoever asks for them."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

import numpy as np
import torch
from scipy import stats

from gpu_backend.speculation.uniforms import Purpose, uniforms

CPU = torch.device("cpu")


def numbers(purpose: Purpose, requests: list[int], positions: np.ndarray, seed: int = 0) -> torch.Tensor:
    who = np.array(requests)
    return uniforms(seed, purpose, who, np.zeros_like(who), positions, CPU)


def test_they_are_uniform_along_positions_and_along_requests() -> None:
    along_positions = numbers(Purpose.TOKEN, [3], np.arange(20_000)[None]).numpy().ravel()
    many = np.arange(20_000)
    along_requests = uniforms(0, Purpose.TOKEN, many, many * 0, many * 0 + 7, CPU).numpy()
    for sample in (along_positions, along_requests):
        assert sample.min() >= 0
        assert sample.max() < 1
        assert stats.kstest(sample, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(sample[:-1], sample[1:])[0, 1]) < 0.03


@pytest.mark.parametrize("change", ["purpose", "seed", "request", "position"])
def test_each_part_of_the_key_matters(change: str) -> None:
    places = np.arange(5_000)[None]
    base = numbers(Purpose.TOKEN, [1], places)
    other = {
        "purpose": lambda: numbers(Purpose.DRAFT, [1], places),
        "seed": lambda: numbers(Purpose.TOKEN, [1], places, seed=1),
        "request": lambda: numbers(Purpose.TOKEN, [2], places),
        "position": lambda: numbers(Purpose.TOKEN, [1], places + 5_000),
    }[change]()
    assert abs(np.corrcoef(base.numpy().ravel(), other.numpy().ravel())[0, 1]) < 0.05


def test_a_number_does_not_depend_on_who_else_is_asked_about() -> None:
    together = numbers(Purpose.TOKEN, [4, 9, 2], np.array([1, 5, 3]))
    assert together[1] == numbers(Purpose.TOKEN, [9], np.array([5]))[0]
