"""The yardstick: sizes in turn, each held against its own kind."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the engine needs torch")

import torch

from gpu_backend.model.llama import LlamaModel
from gpu_backend.model.weights import pack
from gpu_backend.training.network import random_weights
from gpu_backend.training.pair import DRAFT
from gpu_backend.yardstick import SIZES, Yardstick, mean_us


@pytest.fixture
def yardstick() -> Yardstick:
    weights = random_weights(DRAFT, torch.Generator().manual_seed(5))
    return Yardstick(LlamaModel(DRAFT, pack(DRAFT, weights)))


def test_larger_sizes_take_longer_and_are_measured_in_turn(yardstick: Yardstick) -> None:
    for _ in range(6 * len(SIZES)):
        yardstick.measure()
    of_size = [min(yardstick.times_ns[place :: len(SIZES)]) for place in range(len(SIZES))]
    assert of_size[-1] > of_size[0] > 0


def test_a_time_is_held_against_its_own_size_and_the_first_of_each_do_not_count(yardstick: Yardstick) -> None:
    assert yardstick.mean_us is None
    yardstick.times_ns = [90_000, 90_000, 90_000, 90_000]
    assert yardstick.mean_us is None, "all of them first ones"
    yardstick.times_ns += [1_000, 2_000, 3_000, 6_000, 3_000, 2_000, 3_000, 6_000]
    assert yardstick.mean_us == pytest.approx((2 + 2 + 3 + 6) / 4)
    relative = yardstick.relative()
    assert relative[4] == pytest.approx(1_000 / np.mean([90_000, 1_000, 3_000]))
    assert [np.mean(relative[place::4]) for place in range(4)] == pytest.approx([1, 1, 1, 1])


def test_several_are_one_whose_times_are_pooled(yardstick: Yardstick) -> None:
    other = Yardstick(yardstick._model)
    yardstick.times_ns = [9, 9, 9, 9, 1_000, 1_000, 1_000, 1_000]
    other.times_ns = [9, 9, 9, 9, 4_000, 4_000, 4_000, 4_000, 4_000, 4_000, 4_000, 4_000]
    assert mean_us([yardstick, other]) == pytest.approx(3.0)
