"""The `sweep` section: which keys are varied, and how. `sim.planning` makes points of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sim.config.value_types import Count, Section

Values = list[Any] | str
Axes = dict[str, Values]


class SampleSection(Section):
    """Points drawn at random over ranges, instead of on a grid."""

    method: Literal["latin_hypercube", "random"] = Field(
        default="latin_hypercube",
        description="latin_hypercube: each range is cut into as many parts as there are points, and each "
        "part is met once; random: independently.",
    )
    points: Annotated[int, Field(ge=1, le=100_000)] = Field(description="How many points.")
    keys: Axes = Field(description="Keys, each with a range such as '1..64 log' or a list to choose from.")


class SweepSection(Section):
    """Keys of the experiment that `pagecast sweep` varies; every other key stays as it is."""

    grid: Axes = Field(
        default={},
        description="Keys such as engine.block_size, each with a list of values or a range such as "
        "'1..64 log 7' or '2 /s..20 /s 10'; every combination is a point.",
    )
    zip: list[Axes] = Field(
        default=[],
        description="Groups of keys that change together: lists of equal length, the first values of all, "
        "then the second ones. Groups combine with each other and with the grid.",
    )
    sample: SampleSection | None = Field(
        default=None, description="Drawn points, each combined with the grid."
    )
    only_if: dict[str, dict[str, Any]] = Field(
        default={},
        description="Conditions: a swept key is set only in points in which another has a value, as in "
        "{engine.preemption_mode: {engine.scheduler: vllm-v0}}.",
    )
    replications: Count = Field(
        default=1,
        description="Runs of each point, with seeds of their own that are the same for all points (common "
        "random numbers).",
    )

    @model_validator(mode="after")
    def _varies_something(self) -> SweepSection:
        if not (self.grid or self.zip or self.sample):
            raise ValueError("varies nothing: give a grid, a zip or a sample")
        return self
