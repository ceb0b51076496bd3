"""The `sampling` section: how a replay on a real engine chooses tokens."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sim.config.value_types import CountOrZero, Section
from sim.replay_settings import SamplingSettings


class SamplingSection(Section):
    """How a real engine chooses tokens (pagecast replay); the simulator knows only how many there are."""

    temperature: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="What logits are divided by; 0 takes the most likely token."
    )
    top_k: CountOrZero = Field(default=0, description="Only so many of the most likely tokens; 0: all.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="Only the most likely tokens that together have this probability."
    )

    def value(self) -> SamplingSettings:
        """The settings behind it."""
        return SamplingSettings(self.temperature, self.top_k, self.top_p)
