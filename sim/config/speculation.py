"""The `speculation` section: who drafts, how much, and what of it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from sim.config.laws import makes_its_value
from sim.config.own import OwnClass
from sim.config.own_reading import ReadsOwn
from sim.config.paths import DataFile, DataFolder
from sim.config.roles import ACCEPTANCE, COST, PROPOSER
from sim.config.value_types import Count, CountOrZero, Duration, Pause, Section
from sim.speculation.acceptance import AcceptanceLaw, Constant, Own, PerPosition, PerRequest, Runs
from sim.speculation.acceptance_file import read_recorded
from sim.speculation.speculator import Adaptive, ByBatch, Fixed, HowMany

ProposerName = Annotated[str | OwnClass, ReadsOwn(PROPOSER, ("draft_model", "ngram", "medusa", "eagle"))]
OwnLaw = Annotated[OwnClass, ReadsOwn(ACCEPTANCE)]
OwnCostModel = Annotated[OwnClass, ReadsOwn(COST)]
Rate = Annotated[float, Field(ge=0, le=1)]


class ConstantSection(Section):
    """Every draft is kept with the same probability."""

    kind: Literal["constant"]
    rate: Rate = Field(description="That probability.")

    def value(self) -> AcceptanceLaw:
        """The law behind it."""
        return Constant(self.rate)


class PerPositionSection(Section):
    """The first draft of a run is kept with one probability, the second with another, ..."""

    kind: Literal["per_position"]
    rates: Annotated[list[Rate], Field(min_length=1)] = Field(
        description="Given that those before it were kept; the last one holds for all further drafts."
    )

    def value(self) -> AcceptanceLaw:
        """The law behind it."""
        return PerPosition(tuple(self.rates))


class PerRequestSection(Section):
    """Easy and hard requests: each has a rate of its own, drawn from a beta distribution."""

    kind: Literal["per_request"]
    mean: Rate = Field(description="Mean of the rates.")
    std: Annotated[float, Field(ge=0, lt=0.5)] = Field(description="Their standard deviation.")

    def value(self) -> AcceptanceLaw:
        """The law behind it."""
        return PerRequest(self.mean, self.std)


class RunsSection(Section):
    """Easy and hard stretches alternate along each output."""

    kind: Literal["runs"]
    easy_rate: Rate = Field(description="Probability in an easy stretch.")
    hard_rate: Rate = Field(description="Probability in a hard one.")
    easy_tokens: Annotated[float, Field(ge=1)] = Field(description="Mean length of an easy stretch.")
    hard_tokens: Annotated[float, Field(ge=1)] = Field(description="Mean length of a hard one.")

    def value(self) -> AcceptanceLaw:
        """The law behind it."""
        return Runs(self.easy_rate, self.hard_rate, self.easy_tokens, self.hard_tokens)


class RecordedSection(Section):
    """Accepted counts that an engine measured."""

    kind: Literal["recorded"]
    path: DataFile = Field(description="The file, relative to the configuration.")

    def value(self) -> AcceptanceLaw:
        """The law behind it."""
        return read_recorded(Path(self.path))


class OwnLawSection(Section):
    """A law of one's own."""

    kind: Literal["own"]
    law: OwnLaw = Field(description="A class, my_module:MyLaw.")

    def value(self) -> AcceptanceLaw:
        """The law behind it."""
        return Own(self.law)


AcceptanceSection = Annotated[
    ConstantSection | PerPositionSection | PerRequestSection | RunsSection | RecordedSection | OwnLawSection,
    Field(discriminator="kind"),
    AfterValidator(makes_its_value),
]


class BatchDraftsSection(Section):
    """Drafts up to a batch size."""

    max_batch_size: Count = Field(description="Largest batch that this is for.")
    num_tokens: CountOrZero = Field(description="Drafts of each sequence and step.")


class SpeculationSection(Section):
    """Speculative decoding: a cheap proposer drafts, the model checks all drafts in one pass."""

    proposer: ProposerName = Field(
        default="draft_model",
        description="Who drafts: a small model (draft_model), a look-up (ngram), heads on the model (medusa, "
        "eagle), or a class of your own, my_module:MyProposer.",
    )
    draft_model: str | None = Field(
        default=None, description="The small model: name in the catalogue, or path of a YAML file."
    )
    draft_tensor_parallel_size: Count | None = Field(
        default=None, description="GPUs that share each layer of the draft model; left out: as the model."
    )
    num_speculative_tokens: Annotated[int, Field(ge=1, le=64)] = Field(
        default=4, description="Drafts of each sequence and step; with by_batch or adaptive the most."
    )
    by_batch: list[BatchDraftsSection] | None = Field(
        default=None, description="Drafts by batch size, ascending; none beyond the last."
    )
    adaptive: bool = Field(
        default=False,
        description="Draft as many, perhaps none, as make a token cheapest by the cost model in each step.",
    )
    cost_fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="medusa, eagle: time of a pass of the heads, of a step of the model; left out: 0.05.",
    )
    draft_overhead: Pause = Field(
        default=300_000,
        description="Time of a pass of the draft model beside its work: launches, sampling. Assumed: 300 us; "
        "engines without CUDA graphs for it take some milliseconds.",
    )
    acceptance: AcceptanceSection = Field(description="Which drafts are kept.")

    def how_many(self) -> HowMany:
        """How many drafts, as the value behind it."""
        if self.by_batch is not None:
            return ByBatch(tuple((step.max_batch_size, step.num_tokens) for step in self.by_batch))
        if self.adaptive:
            return Adaptive(self.num_speculative_tokens)
        return Fixed(self.num_speculative_tokens)


class StepTimeSection(Section):
    """Step times that are known, instead of the cost model's: always the same, or as a device took them."""

    target: Duration | None = Field(
        default=None, description="Of the model, whatever a step computes: 14.1 ms."
    )
    draft: Duration | None = Field(default=None, description="Of the draft model: 1.8 ms.")
    calibration: DataFolder | None = Field(
        default=None, description="Folder that pagecast calibrate wrote, instead of target and draft."
    )

    cost: OwnCostModel | None = Field(
        default=None, description="A cost model of your own, my_module:MyCost, instead of both."
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> StepTimeSection:
        if sum(value is not None for value in (self.target, self.calibration, self.cost)) != 1:
            raise ValueError("needs either target (and draft), or calibration, or cost")
        if self.calibration is not None and self.draft is not None:
            raise ValueError("has draft beside calibration, which holds the draft model's times itself")
        return self
