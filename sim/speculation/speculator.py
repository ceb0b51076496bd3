"""`Speculator`: what a replica drafts, what of it is kept, and how long drafting takes.

After each step it answers two questions for the executor: how many of the drafts that the step verified are
kept (`sim.speculation.acceptance`), and how many are proposed for the next one, in which time.

    draft_model   K passes of a small model, one after the other, the first over the step's tokens
    ngram         looked up in what has been said: no time
    medusa        heads that propose all K at once, for a fraction of a target step
    eagle         a head that proposes one after the other, each for a fraction of a target step
    own           whatever `DraftTimes` of one's own says

How many: always the same (`Fixed`), by batch size (`ByBatch`), or whatever makes a token cheapest under the
cost model (`Adaptive`), which may be none. Refuses to know scheduling: the core commits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from sim.core.request import SeqId, Sequence
from sim.core.step import ScheduledSequence, ScheduleKind, StepPlan
from sim.cost.cost_model import CostModel
from sim.cost.model import ModelShape
from sim.speculation.acceptance import AcceptanceLaw, expected_rate, make_acceptance
from sim.speculation.theory import expected_tokens

_PRIOR_DRAFTS = 50
"""How many drafts the expected rate weighs when a rate is estimated from what was kept so far."""


class Proposer(Enum):
    """Who drafts."""

    DRAFT_MODEL = "draft_model"
    NGRAM = "ngram"
    MEDUSA = "medusa"
    EAGLE = "eagle"
    OWN = "own"


class DraftTimes(Protocol):
    """A proposer of a user's own: what its drafts take. How many and how good are other settings."""

    def draft_ns(self, num_seqs: int, context_tokens: int, num_drafts: int) -> int:
        """Nanoseconds to propose so many drafts for each of these, whose contexts sum up to so much."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always so many."""

    num_drafts: int

    @property
    def most(self) -> int:
        """The most that are ever drafted."""
        return self.num_drafts


@dataclass(frozen=True, slots=True)
class ByBatch:
    """So many up to a batch size: (largest batch, drafts), ascending; none beyond the last."""

    steps: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        batches = [batch for batch, _ in self.steps]
        if not self.steps or batches != sorted(set(batches)):
            raise ValueError("batch sizes must ascend, and there must be at least one")

    @property
    def most(self) -> int:
        """The most that are ever drafted."""
        return max(num_drafts for _, num_drafts in self.steps)

    def at(self, batch: int) -> int:
        """Drafts for a batch of so many sequences."""
        return next((num_drafts for limit, num_drafts in self.steps if batch <= limit), 0)


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Whatever makes the expected time per token least, at most so many."""

    most: int


HowMany = Fixed | ByBatch | Adaptive


@dataclass(frozen=True, slots=True)
class Speculation:
    """How a fleet speculates.

    Attributes:
        how_many: Drafts of each sequence and step.
        cost_fraction: With heads: time of one of their passes, of a target step with the same sequences.
        draft: With a draft model: its shape.
        draft_tensor_parallel_size: GPUs that share each of its layers.
        draft_overhead_ns: Time of one of its passes beside its work.
        make_proposer: With a proposer of one's own: makes one for each replica.
    """

    proposer: Proposer
    how_many: HowMany
    acceptance: AcceptanceLaw
    seed: int = 0
    cost_fraction: float = 0.0
    draft: ModelShape | None = None
    draft_tensor_parallel_size: int = 1
    draft_overhead_ns: int = 300_000
    make_proposer: Callable[[], DraftTimes] | None = None

    def __post_init__(self) -> None:
        if self.how_many.most < 1:
            raise ValueError(f"num_speculative_tokens must be at least 1, not {self.how_many.most}")
        if (self.proposer is Proposer.DRAFT_MODEL) != (self.draft is not None):
            raise ValueError("a draft model needs a shape, and nothing else does")
        if (self.proposer is Proposer.OWN) != (self.make_proposer is not None):
            raise ValueError("a proposer of one's own has to be made, and nothing else has")


@dataclass(frozen=True, slots=True)
class Speculated:
    """What became of a step's drafts, and what comes next."""

    num_accepted: dict[SeqId, int]
    num_drafts: dict[SeqId, int]
    draft_ns: int
    """Time spent proposing."""


class SpeculationCost:
    """What drafting and verifying take, by the step times of both models."""

    __slots__ = ("_config", "_draft", "_own", "_target")

    def __init__(self, config: Speculation, target: CostModel, draft: CostModel | None = None) -> None:
        if (config.proposer is Proposer.DRAFT_MODEL) != (draft is not None):
            raise ValueError("a draft model needs step times, and nothing else does")
        self._config = config
        self._target = target
        self._draft = draft
        self._own = config.make_proposer() if config.make_proposer is not None else None

    def ns_per_token(
        self, rows: list[ScheduledSequence], nums_left: list[int], count: int, rate: float
    ) -> float:
        """Expected time of a sequence's token with `count` drafts; nothing past its last token is gained.

        Args:
            rows: Sequences that go on.
            nums_left: Tokens that each of them has yet to give.
            count: Drafts of each.
            rate: At which drafts are kept.
        """
        verify = self._target.step_ends_ns(_verify_step(rows, count + 1))[0]
        draft = self._passes_ns(rows, count) if count else 0
        gained = [expected_tokens(rate, num_drafts) for num_drafts in range(count + 1)]
        return (verify + draft) * len(rows) / sum([gained[min(count, left - 1)] for left in nums_left])

    def draft_ns(self, plan: StepPlan, rows: list[ScheduledSequence], count: int) -> int:
        """Time to draft so many tokens for each of these after a step.

        A draft model reads what the step made known even where nothing is drafted: it has to keep up.
        """
        if self._draft is None:
            return self._passes_ns(rows, count) if count else 0
        first = self._draft.step_ends_ns(_read_along(plan))[0]
        return first + (self._passes_ns(rows, count - 1) if count > 1 else 0)

    def _passes_ns(self, rows: list[ScheduledSequence], count: int) -> int:
        """Time to draft so many tokens for each of these, one more token known in each pass."""
        config, context = self._config, _context_tokens(rows)
        match config.proposer:
            case Proposer.NGRAM:
                return 0
            case Proposer.DRAFT_MODEL:
                assert self._draft is not None, "checked when this was made"
                step = _decode_step(len(rows), context)._replace(
                    rows=tuple(map(_as_decode, rows)), num_steady_seqs=0
                )
                contexts = (context + place * len(rows) for place in range(count))
                passes = (step._replace(decode_context_tokens=tokens) for tokens in contexts)
                return sum(self._draft.step_ends_ns(each)[0] for each in passes)
            case Proposer.MEDUSA:
                return round(config.cost_fraction * self._target_ns(len(rows), context))
            case Proposer.EAGLE:
                return round(count * config.cost_fraction * self._target_ns(len(rows), context))
            case Proposer.OWN:
                assert self._own is not None, "checked by the configuration"
                return self._own.draft_ns(len(rows), context, count)

    def _target_ns(self, num_seqs: int, context: int) -> int:
        return self._target.step_ends_ns(_decode_step(num_seqs, context))[0]


class DraftCounter:
    """How many drafts a replica proposes: fixed, by its batch, or what the cost model finds cheapest."""

    __slots__ = ("_cost", "_how_many", "_num_accepted", "_num_tested")

    def __init__(self, config: Speculation, cost: SpeculationCost) -> None:
        self._how_many = config.how_many
        self._cost = cost
        self._num_tested = _PRIOR_DRAFTS
        self._num_accepted = _PRIOR_DRAFTS * expected_rate(config.acceptance)

    @property
    def rate(self) -> float:
        """At which drafts are kept, as far as is known by now."""
        return self._num_accepted / self._num_tested

    def note(self, seq: Sequence, num_drafts: int, num_kept: int) -> None:
        """A sequence's round of so many drafts kept so many, of which those up to its last token count.

        The first refused one was looked at, those after it were not.
        """
        num_left = seq.max_known - seq.num_known
        self._num_tested += min(num_kept + 1, num_drafts, num_left)
        self._num_accepted += min(num_kept, num_left)

    def count(self, rows: list[ScheduledSequence], accepted: Mapping[SeqId, int]) -> int:
        """Drafts for each of these in their next step, by how many of their drafts this one kept."""
        if not rows:
            return 0
        match self._how_many:
            case Fixed(num_drafts):
                return num_drafts
            case ByBatch() as by_batch:
                return by_batch.at(len(rows))
            case Adaptive(most):
                rate = self.rate
                nums_left = [_num_left(row, accepted) for row in rows]
                ns_per_token = self._cost.ns_per_token
                return min(range(most + 1), key=lambda count: ns_per_token(rows, nums_left, count, rate))


class Speculator:
    """Speculation of one simulated replica."""

    __slots__ = ("_acceptance", "_cost", "_counter")

    def __init__(
        self,
        config: Speculation,
        target: CostModel,
        draft: CostModel | None = None,
        counter: DraftCounter | None = None,
    ) -> None:
        """Speculate with the step times of the target and, where there is one, of the draft model.

        Args:
            config: What is drafted and kept.
            target: Step times.
            draft: Likewise, of the draft model; None: there is none.
            counter: Says how much is drafted; None: one that goes by these times.
        """
        self._cost = SpeculationCost(config, target, draft)
        self._counter = counter if counter is not None else DraftCounter(config, self._cost)
        self._acceptance = make_acceptance(config.acceptance, config.seed)

    def speculate(self, plan: StepPlan) -> Speculated:
        """Judge the drafts of a step and propose those of the next one."""
        accepted = {row.seq.seq_id: self._judge(row) for row in plan.rows if row.num_draft_tokens}
        going_on = rows_going_on(plan, accepted)
        count = self._counter.count(going_on, accepted)
        drafts = {row.seq.seq_id: count for row in going_on} if count else {}
        return Speculated(accepted, drafts, self._cost.draft_ns(plan, going_on, count))

    def _judge(self, row: ScheduledSequence) -> int:
        """Drafts kept; those that only pad an admission are all refused."""
        if row.kind is not ScheduleKind.RUNNING:
            return 0
        num_kept = self._acceptance.num_accepted(row.seq, row.num_draft_tokens)
        self._counter.note(row.seq, row.num_draft_tokens, num_kept)
        return num_kept


def rows_going_on(plan: StepPlan, accepted: Mapping[SeqId, int]) -> list[ScheduledSequence]:
    """Rows whose sequences have tokens to come after this step, by how many of their drafts were kept."""
    return [row for row in plan.rows if row.yields_token and _num_left(row, accepted) > 0]


def _num_left(row: ScheduledSequence, accepted: Mapping[SeqId, int]) -> int:
    """Tokens that a sequence has yet to give after this step; 0 or less: it has them all."""
    return row.seq.max_known - row.seq.num_known - accepted.get(row.seq.seq_id, 0) - 1


def _verify_step(rows: list[ScheduledSequence], num_tokens: int) -> StepPlan:
    """A step in which each of these sequences computes so many tokens, all but one of them drafts."""
    if num_tokens == 1:
        return _decode_step(len(rows), _context_tokens(rows))
    chunks = tuple(
        row._replace(
            num_tokens=num_tokens,
            num_computed_tokens=row.seq.num_known,
            num_draft_tokens=num_tokens - 1,
            kind=ScheduleKind.RUNNING,
            yields_token=True,
        )
        for row in rows
    )
    return _decode_step(0, 0)._replace(chunks=chunks, rows=chunks, num_running=len(rows))


def _read_along(plan: StepPlan) -> StepPlan:
    """What a draft model reads of a step: of drafts it made itself, the token that followed those kept."""
    verified = [row for row in plan.chunks if row.num_draft_tokens]
    if not verified:
        return plan
    return plan._replace(
        num_decode_seqs=plan.num_decode_seqs + len(verified),
        decode_context_tokens=plan.decode_context_tokens + _context_tokens(verified),
        chunks=tuple(row for row in plan.chunks if not row.num_draft_tokens),
        rows=tuple(_as_decode(row) if row.num_draft_tokens else row for row in plan.rows),
    )


def _as_decode(row: ScheduledSequence) -> ScheduledSequence:
    """The row of a sequence that decodes its next token."""
    return row._replace(
        num_tokens=1, num_computed_tokens=row.seq.num_known, num_draft_tokens=0, yields_token=True
    )


def _decode_step(num_seqs: int, context_tokens: int) -> StepPlan:
    return StepPlan(
        step=0,
        horizon=1,
        num_decode_seqs=num_seqs,
        decode_context_tokens=context_tokens,
        chunks=(),
        preempted=(),
        num_running=num_seqs,
        rows=(),
        num_steady_seqs=num_seqs,
    )


def _context_tokens(rows: list[ScheduledSequence]) -> int:
    """What these attend to in their next step."""
    return sum(row.seq.num_known + 1 for row in rows)
