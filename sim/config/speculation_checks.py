"""Whether speculation fits the model, the engine and the draft it names."""

from __future__ import annotations

from collections.abc import Iterator

from sim.config.own import OwnClass
from sim.config.schema import PAPER, ExperimentFile
from sim.config.speculation import SpeculationSection
from sim.config.yaml_source import KeyPath
from sim.cost.model import ModelShape

Fault = tuple[KeyPath, str]
_KEY = "speculation"


def speculation_faults(
    file: ExperimentFile, model: ModelShape, draft: ModelShape | None, max_num_batched_tokens: int
) -> Iterator[Fault]:
    """Everything about speculation that cannot be run."""
    section = file.speculation
    if section is None:
        return
    if file.engine.scheduler == PAPER:
        yield (_KEY,), f"scheduler {PAPER} knows no drafts: choose another"
    if file.engine.kv_allocation != "paged" and not isinstance(file.engine.kv_allocation, OwnClass):
        yield (_KEY,), f"needs paged memory, and kv_allocation is {file.engine.kv_allocation}"
    if file.engine.async_scheduling:
        yield ("engine", "async_scheduling"), "is not simulated together with speculation: set it to false"
    yield from _proposer_faults(section)
    if draft is not None:
        yield from _draft_faults(model, draft)
        if file.step_time is not None and file.step_time.draft is None and not file.step_time.calibration:
            yield ("step_time",), "needs draft too, as speculation has a draft model"
    yield from _batch_faults(section)
    num_tokens = section.num_speculative_tokens + 1 + (section.proposer == "draft_model")
    if num_tokens > max_num_batched_tokens:
        message = f"with its drafts a sequence is {num_tokens} tokens; a step holds {max_num_batched_tokens}"
        yield (_KEY, "num_speculative_tokens"), message
    budget, num_tokens = file.engine.max_num_scheduled_tokens, section.num_speculative_tokens + 1
    if budget is not None and budget < num_tokens:
        message = (
            f"{budget} do not hold one sequence with its drafts, {num_tokens} tokens: set at least these"
        )
        yield ("engine", "max_num_scheduled_tokens"), message


def _proposer_faults(section: SpeculationSection) -> Iterator[Fault]:
    is_model = section.proposer == "draft_model"
    if is_model and section.draft_model is None:
        yield (_KEY,), "needs draft_model, the small model: or choose proposer ngram, medusa or eagle"
    if not is_model and section.draft_model is not None:
        yield (_KEY, "draft_model"), f"proposer {section.proposer} has no model of its own"
    if section.cost_fraction is not None and section.proposer not in ("medusa", "eagle"):
        yield (
            (_KEY, "cost_fraction"),
            f"is for medusa and eagle, not for {section.proposer}",
        )


def _draft_faults(model: ModelShape, draft: ModelShape) -> Iterator[Fault]:
    if draft.num_parameters >= model.num_parameters:
        message = (
            f"{draft.name} ({draft.num_parameters / 1e9:.1f} billion parameters) is not smaller than "
            f"{model.name} ({model.num_parameters / 1e9:.1f} billion)"
        )
        yield (_KEY, "draft_model"), message
    if draft.vocab_size != model.vocab_size:
        message = (
            f"{draft.name} has a vocabulary of {draft.vocab_size:,} tokens and {model.name} one of "
            f"{model.vocab_size:,}: they must be the same"
        )
        yield (_KEY, "draft_model"), message


def _batch_faults(section: SpeculationSection) -> Iterator[Fault]:
    if section.by_batch is None:
        return
    sizes = [step.max_batch_size for step in section.by_batch]
    if not sizes or sizes != sorted(set(sizes)):
        yield (_KEY, "by_batch"), "max_batch_size must ascend, and there must be at least one entry"
    if section.adaptive:
        yield (_KEY, "adaptive"), "goes not together with by_batch: choose one"
    most = max((step.num_tokens for step in section.by_batch), default=0)
    if not 1 <= most <= section.num_speculative_tokens:
        message = f"the most it drafts, {most}, must be from 1 to num_speculative_tokens"
        yield (_KEY, "by_batch"), f"{message} ({section.num_speculative_tokens})"
