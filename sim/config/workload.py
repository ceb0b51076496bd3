"""The `workload` section: requests drawn from laws, of a trace, or of ServeGen clients.

Owns keys, units and descriptions; each section makes the dataclass of `workloads` behind it, whose own
checks are thereby reported with a place. Refuses to know how requests are drawn or read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sim.config.laws import ArrivalsSection, LengthsSection, makes_its_value
from sim.config.paths import DataFile, DataFolder
from sim.config.value_types import Count, Duration, Pause, Positive, Section, Whole
from workloads.generate import WorkloadConfig
from workloads.servegen import ServeGenWorkload
from workloads.synthetic import SharedPrefix, SyntheticWorkload
from workloads.trace import TraceFormat, TraceWorkload, TurnRule


class WindowSection(Section):
    """A stretch of a trace, counted from its first request."""

    start: Pause = Field(default=0, description="Where it starts, such as 0 s.")
    end: Duration | None = Field(default=None, description="Where it ends (not included): 10 min.")


class SharedPrefixSection(Section):
    """Every prompt begins with one of some system prompts, chosen evenly at random."""

    groups: Count = Field(description="Number of system prompts.")
    tokens: Count = Field(description="Length of each; part of the prompt's length.")


class SyntheticSection(Section):
    """Requests drawn from laws."""

    kind: Literal["synthetic"]
    num_requests: Count = Field(description="How many requests.")
    arrivals: ArrivalsSection = Field(description="When they arrive.")
    prompt_tokens: LengthsSection = Field(description="Prompt lengths.")
    output_tokens: LengthsSection = Field(description="Output lengths, per sample.")
    num_samples: Count = Field(default=1, description="Outputs per request (n).")
    beam_width: Count | None = Field(
        default=None, description="Beams of each request, which searches instead of sampling (vllm-v0)."
    )
    beam_change_probability: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.2, description="How probable it is that a request's beams change parents in a step."
    )
    max_total_tokens: Count | None = Field(
        default=None, description="Outputs are cut so that prompt and output together are this long at most."
    )
    shared_prefix: SharedPrefixSection | None = Field(
        default=None, description="Common beginnings of prompts, for prefix caching."
    )
    priorities: list[Whole] = Field(
        default=[], description="Each request gets one of these, evenly at random; lower is more urgent."
    )
    cancel_after: Duration | None = Field(
        default=None, description="How long after its arrival a client gives up, such as 30 s."
    )

    def value(self) -> WorkloadConfig:
        """The workload behind it."""
        prefix = self.shared_prefix
        return SyntheticWorkload(
            num_requests=self.num_requests,
            arrivals=self.arrivals.value(),
            prompt_tokens=self.prompt_tokens.value(),
            output_tokens=self.output_tokens.value(),
            num_samples=self.num_samples,
            beam_width=self.beam_width or 0,
            max_total_tokens=self.max_total_tokens,
            shared_prefix=SharedPrefix(prefix.groups, prefix.tokens) if prefix else None,
            priorities=tuple(self.priorities),
            cancel_after_ns=self.cancel_after,
        )


class TraceSection(Section):
    """Requests of a public trace."""

    kind: Literal["trace"]
    path: DataFile = Field(
        description="The file, relative to the configuration; ${PAGECAST_DATA} is the data folder."
    )
    format: Literal["azure", "mooncake", "vidur", "burstgpt", "bailian", "llmservingsim", "splitwise"] = (
        Field(description="How the file is written.")
    )
    limit: Count | None = Field(default=None, description="Only so many requests, from the start.")
    window: WindowSection = Field(default=WindowSection(), description="Only this stretch of it.")
    rate_scale: Positive = Field(default=1.0, description="How many times as dense the arrivals are.")
    hash_block_tokens: Count | None = Field(
        default=None, description="Tokens that one hash id stands for; left out: the format's usual number."
    )
    sort: bool = Field(default=False, description="Sort rows that are out of order, instead of refusing.")
    keep_empty: bool = Field(
        default=False, description="Keep requests without output, with one token each, instead of dropping."
    )
    turns: Literal["as_format", "wait", "timestamps"] = Field(
        default="as_format", description="What starts a session's next turn: the end of the last, or a stamp."
    )
    arrivals: ArrivalsSection | None = Field(
        default=None,
        description="Replaces the stamps, once the window is chosen; needed for traces that have none.",
    )
    num_samples: Count = Field(default=1, description="Outputs per request (n).")
    beam_width: Count | None = Field(
        default=None, description="Beams of each request, which searches instead of sampling (vllm-v0)."
    )
    beam_change_probability: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.2, description="How probable it is that a request's beams change parents in a step."
    )
    cancel_after: Duration | None = Field(
        default=None, description="How long after its arrival a client gives up, such as 30 s."
    )

    def value(self) -> WorkloadConfig:
        """The workload behind it."""
        return TraceWorkload(
            path=Path(self.path),
            format=TraceFormat(self.format),
            limit=self.limit,
            window_start_ns=self.window.start,
            window_end_ns=self.window.end,
            rate_scale=self.rate_scale,
            hash_block_tokens=self.hash_block_tokens,
            sort=self.sort,
            keep_empty=self.keep_empty,
            turns=TurnRule(self.turns),
            arrivals=self.arrivals.value() if self.arrivals else None,
            num_samples=self.num_samples,
            beam_width=self.beam_width or 0,
            cancel_after_ns=self.cancel_after,
        )


class ServeGenWindowSection(Section):
    """A stretch of a day, in whole windows of 600 s."""

    start: Pause = Field(default=0, description="Where it starts: a multiple of 600 s.")
    end: Duration = Field(description="Where it ends: a multiple of 600 s.")


class ServeGenSection(Section):
    """Requests drawn from ServeGen client files."""

    kind: Literal["servegen"]
    folder: DataFolder = Field(
        description="Folder of chunk-N files, relative to the configuration; ${PAGECAST_DATA} expands."
    )
    window: ServeGenWindowSection = Field(description="Only this stretch of the day.")
    clients: list[Whole] = Field(default=[], description="Client numbers; left out: all in the folder.")
    rate_scale: Positive = Field(default=1.0, description="How many times as many requests.")

    def value(self) -> WorkloadConfig:
        """The workload behind it."""
        return ServeGenWorkload(
            folder=Path(self.folder),
            window_end_ns=self.window.end,
            clients=tuple(self.clients),
            window_start_ns=self.window.start,
            rate_scale=self.rate_scale,
        )


WorkloadSection = Annotated[
    SyntheticSection | TraceSection | ServeGenSection,
    Field(discriminator="kind"),
    AfterValidator(makes_its_value),
]
