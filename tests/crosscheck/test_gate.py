"""When `make crosscheck` and CI say no."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bench.crosschecks import fails


def check(*, error: float = 0.0, equal: bool = True, counted: int = 58) -> dict[str, Any]:
    return {
        "decisions": {"equal": equal},
        "errors": [
            {"metric": "tpot_p50", "error": error, "tolerance": 0.05},
            {"metric": "tpot_p99", "error": 9.0, "tolerance": None},
        ],
        "fusions": [{"listed_launches": 58, "counted_launches": counted}],
    }


@pytest.mark.parametrize(
    ("changes", "gate", "expected"),
    [
        ({}, 1.0, False),
        ({"error": 0.049}, 1.0, False),
        ({"error": -0.051}, 1.0, True),
        ({"error": -0.051}, 2.0, False),
        ({"error": 0.101}, 2.0, True),
        ({"equal": False}, 2.0, True),
        ({"counted": 59}, 2.0, True),
    ],
)
def test_an_error_beyond_its_tolerance_and_any_difference_fail(
    changes: dict[str, Any], gate: float, expected: bool
) -> None:
    assert fails(check(**changes), gate) is expected
