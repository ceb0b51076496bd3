"""The `crosscheck` section: how far a simulation may be from its replay, and what is compared."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from sim.config.value_types import WHOLE, Section
from sim.replay_settings import CrosscheckSettings

_PERCENT = re.compile(r"(\d+(?:\.\d+)?) ?%")


def _fraction(value: object) -> float:
    """`5 %` is 0.05."""
    match = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"must be a percentage such as 5 %, not {value!r}")
    return float(match[1]) / 100


def _percentage(fraction: float) -> str:
    """0.05 is `5 %`, which reads as the same number."""
    return f"{round(100 * fraction, 10):g} %"


Tolerance = Annotated[
    float | None,
    BeforeValidator(lambda value: None if value is None else _fraction(value)),
    PlainSerializer(_percentage, when_used="json-unless-none"),
    WithJsonSchema({"type": "string", "pattern": _PERCENT.pattern, "examples": ["5 %"]}),
]


class CrosscheckSection(Section):
    """Tolerances (largest error of a figure, either way) and what else a cross-check does."""

    ttft_mean: Tolerance = Field(default=None, description="Mean time to first token.")
    ttft_p50: Tolerance = Field(default=None, description="Median time to first token.")
    ttft_p90: Tolerance = Field(default=None, description="Its 90th percentile.")
    ttft_p99: Tolerance = Field(default=None, description="Its 99th percentile.")
    tpot_mean: Tolerance = Field(default=None, description="Mean time per output token of a request.")
    tpot_p50: Tolerance = Field(default=None, description="Its median.")
    tpot_p90: Tolerance = Field(default=None, description="Its 90th percentile.")
    tpot_p99: Tolerance = Field(default=None, description="Its 99th percentile.")
    e2el_mean: Tolerance = Field(default=None, description="Mean time from arrival to the last token.")
    e2el_p50: Tolerance = Field(default=None, description="Its median.")
    e2el_p90: Tolerance = Field(default=None, description="Its 90th percentile.")
    e2el_p99: Tolerance = Field(default=None, description="Its 99th percentile.")
    throughput: Tolerance = Field(default=None, description="Output tokens a second.")
    kv_usage: Tolerance = Field(default=None, description="Mean fraction of the KV blocks that are held.")
    repeats: Annotated[int, Field(ge=1, le=100), WHOLE] = Field(
        default=3, description="Replays; with one there is no confidence interval."
    )
    fusions: list[Literal["none", "fused", "graph"]] = Field(
        default=[], description="Levels of fusion to compare on the same workload, such as [none, fused]."
    )

    def value(self) -> CrosscheckSettings:
        """The settings behind it."""
        given = self.model_dump(exclude={"repeats", "fusions"}, exclude_none=True)
        return CrosscheckSettings(given, self.repeats, tuple(self.fusions))
