"""`TorchExecutor`: carries a plan out on tensors; implements `sim.core.step.Executor`. Read this second.

    move blocks  ->  lay out the batch  ->  target forward  ->  choose tokens  ->  the draft model catches up
    swap, copy       tokens, slots          [num_logits, V]     sample, verify     and proposes

One object per replica. Owns the order of these, and how long each took. Refuses to decide: plans come from
the core. Invariant: after `execute`, every text has as many tokens as the core will count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from gpu_backend.batch import build_batch
from gpu_backend.memory.block_tables import BlockTables
from gpu_backend.memory.kv_storage import KVStorage
from gpu_backend.model.texts import Name, Texts, name_of
from gpu_backend.ops.launches import LaunchLog, counted_launches
from gpu_backend.runner import ModelRunner
from gpu_backend.speculation.choosing import Choices, Chooser
from gpu_backend.speculation.drafting import Drafter
from gpu_backend.stopwatch import Stopwatch
from sim.core.request import SeqId
from sim.core.step import ScheduledSequence, StepPlan, StepResult
from sim.crosscheck.parts import StepParts
from sim.speculation.speculator import DraftCounter, rows_going_on


class TorchExecutor:
    """One replica's engine on tensors."""

    def __init__(
        self,
        target: ModelRunner,
        texts: Texts,
        tables: BlockTables,
        chooser: Chooser,
        drafter: Drafter | None = None,
        counter: DraftCounter | None = None,
        *,
        block_size: int,
        take_schedule_ns: Callable[[], int] = lambda: 0,
    ) -> None:
        """Args: take_schedule_ns: Says how long was spent deciding since it was last asked."""
        self.target = target
        self.texts = texts
        self.drafter = drafter
        self.parts: list[StepParts] = []
        """Of each step so far."""
        self.accepted: dict[Name, list[int]] = {}
        """Drafts kept in each round of each sequence."""
        self.counts_launches = False
        self.launches: list[LaunchLog] = []
        """Of each step since `counts_launches` was set."""
        self.fixed_num_drafts: int | None = None
        """So many drafts for every row that yields a token, whatever is left of it; None: as is decided."""
        self._tables = tables
        self._chooser = chooser
        self._counter = counter
        self._block_size = block_size
        self._take_schedule_ns = take_schedule_ns
        self._watch = Stopwatch(target.model.device)

    @property
    def runners(self) -> list[ModelRunner]:
        """The target, and the draft model if there is one."""
        return [self.target] if self.drafter is None else [self.target, self.drafter.runner]

    @property
    def storages(self) -> list[KVStorage]:
        """Keys and values of each."""
        return [runner.storage for runner in self.runners]

    def release(self) -> None:
        """Give the memory of keys, values and graphs back; no step can follow."""
        for runner in self.runners:
            runner.release()

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult:
        """Do the one step of a plan, and say how long it took."""
        assert plan.horizon == 1, "a device does one step at a time: plan with max_horizon 1"
        watch, target = self._watch, self.target
        watch.restart()
        swap_ns, copy_ns = self._move(plan)
        self._tables.update(plan)
        batch = build_batch(plan, self._tokens_of, self._tables, self._block_size, target.model.device)
        with self._counted():
            logits = target.forward(batch.tensors)  # [num_logits, vocab]
            choices = self._chooser.choose(batch, logits, self.drafter)
        model_ns = watch.lap_ns()
        num_drafts = self._draft(plan, choices)
        draft_ns = watch.lap_ns()
        if self.drafter is None:  # looking whether there is one counts as the model's
            model_ns, draft_ns = model_ns + draft_ns, 0
        parts = StepParts(self._take_schedule_ns(), swap_ns, copy_ns, model_ns, draft_ns)
        self.parts.append(parts)
        return StepResult(
            [parts.total_ns],
            num_accepted=choices.num_accepted,
            num_drafts=num_drafts,
            draft_ns=parts.draft_ns if self.drafter is not None else 0,
            beams=choices.beams,
        )

    def _move(self, plan: StepPlan) -> tuple[int, int]:
        """Carry out a plan's moves; how long swapping took, and copying. None take no lap of their own."""
        swap_ns = copy_ns = 0
        if plan.blocks_to_swap_out or plan.blocks_to_swap_in:
            for storage in self.storages:
                storage.swap(plan)
            swap_ns = self._watch.lap_ns()
        if plan.blocks_to_copy:
            for storage in self.storages:
                storage.copy(plan)
            copy_ns = self._watch.lap_ns()
        return swap_ns, copy_ns

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Counts the launches of the target's part of a step, where that is asked for."""
        if not self.counts_launches:
            yield
            return
        with counted_launches() as log:
            yield
        self.launches.append(log)

    def _tokens_of(self, row: ScheduledSequence) -> list[int]:
        """The tokens a row computes; places that only wait for drafts are filled with the newest token."""
        text = self.texts.of(name_of(row.seq))
        begin, end = row.num_computed_tokens, row.num_computed_tokens + row.num_tokens
        if not row.num_draft_tokens:
            return text[begin:end]
        drafts = self.drafter.drafts_of(row) if self.drafter is not None else None
        tokens = drafts[0] if drafts is not None else [text[-1]] * row.num_draft_tokens
        return text[begin:] + tokens

    def _draft(self, plan: StepPlan, choices: Choices) -> dict[SeqId, int]:
        """Let the draft model read the step and propose; how many drafts each sequence has now."""
        if self.drafter is None or self._counter is None:
            return {}
        for row in plan.rows:
            num_tested = choices.num_tested.get(row.seq.seq_id)
            if num_tested is not None:
                num_kept = choices.num_accepted[row.seq.seq_id]
                self._counter.note(row.seq, num_tested, num_kept)
                self.accepted.setdefault(name_of(row.seq), []).append(num_kept)
        rows = rows_going_on(plan, choices.num_accepted)
        count = self._counter.count(rows, choices.num_accepted)
        if self.fixed_num_drafts is not None:
            rows, count = [row for row in plan.rows if row.yields_token], self.fixed_num_drafts
        self.drafter.read_and_propose(plan, self._tables, [row.seq for row in rows], count)
        return {row.seq.seq_id: count for row in rows} if count else {}
