"""`Drafter`: the draft model of one replica, its keys and values, and what it proposes.

The draft model's blocks have the target's ids; the core keeps slots free for what it writes ahead. It reads
what the target read, one step behind:

    text           . . . . . . . . n          n: the newest token, which nobody has read yet
    it has read    . . . . . .                up to the first draft but one that was kept, or less
    first pass             └ ─ ─ ▶ x1         whatever it lacks, n included
    further passes                 x2 ... xK  one token each

Owns how far it has come in each sequence. Refuses to know which drafts are kept. Invariant: at the end of a
step it has read every token that the target has, so blocks found again by their content hold its keys too.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch

from gpu_backend.batch import Span, lay_out
from gpu_backend.memory.block_tables import BlockTables
from gpu_backend.model.texts import Name, Texts, name_of
from gpu_backend.runner import ModelRunner
from gpu_backend.speculation.sampling import RowSettings
from gpu_backend.speculation.speculative import propose
from gpu_backend.speculation.uniforms import Purpose, uniforms
from sim.core.request import Sequence
from sim.core.step import ScheduledSequence, ScheduleKind, StepPlan
from sim.replay_settings import SamplingSettings

_NO_PROBS = torch.empty(0)


class Drafter:
    """The draft model of one replica."""

    def __init__(
        self,
        runner: ModelRunner,
        texts: Texts,
        settings: SamplingSettings,
        *,
        block_size: int,
        seed: int,
    ) -> None:
        self.runner = runner
        self._texts = texts
        self._settings = settings
        self._block_size = block_size
        self._seed = seed
        self._num_read: dict[Name, int] = {}
        self._proposals: dict[Name, tuple[list[int], torch.Tensor]] = {}

    def take_as_read(self, name: Name, num_tokens: int) -> None:
        """Take it that the keys of so many tokens are there: for steps that are made up."""
        self._num_read[name] = num_tokens
        self._proposals.pop(name, None)

    def drafts_of(self, row: ScheduledSequence) -> tuple[list[int], torch.Tensor] | None:
        """The drafts that a row verifies, and what they were drawn from; None where they only fill places.

        Returns:
            Token ids and probabilities.  # [num_draft_tokens], [num_draft_tokens, vocab]
        """
        tokens, probs = self._proposals.get(name_of(row.seq), ([], _NO_PROBS))
        count = row.num_draft_tokens
        if row.kind is not ScheduleKind.RUNNING or not 0 < count <= len(tokens):
            return None
        return tokens[:count], probs[:count]

    def read_and_propose(
        self, plan: StepPlan, tables: BlockTables, going_on: Collection[Sequence], num_drafts: int
    ) -> None:
        """Read what a step computed, and propose drafts for some of its sequences."""
        drafting = set(going_on) if num_drafts else set()
        spans = [self._span(row, row.seq in drafting) for row in plan.rows]
        spans = [span for span in spans if span.tokens]
        if not spans:
            return
        batch = lay_out(spans, tables, self._block_size, self.runner.model.device)
        logits = self.runner.forward(batch.tensors)  # [num_drafting, vocab]
        seqs = [spans[place].seq for place in batch.order if spans[place].num_logits]
        if seqs:
            self._propose(seqs, logits, tables, num_drafts)

    def _span(self, row: ScheduledSequence, is_drafting: bool) -> Span:
        """What the model lacks of a sequence; with its newest token if it is to go on."""
        name = name_of(row.seq)
        text = self._texts.of(name)
        begin = self._num_read_of(row, text)
        end = len(text) if row.yields_token else row.num_computed_tokens + row.num_tokens
        if row.yields_token and not is_drafting:
            end -= 1
        begin = min(begin, end - is_drafting)
        self._num_read[name] = end
        return Span(row.seq, begin, text[begin:end], int(is_drafting))

    def _num_read_of(self, row: ScheduledSequence, text: list[int]) -> int:
        """How many tokens of the text it has read: drafts that were kept among them, but for the last."""
        name = name_of(row.seq)
        tokens, _ = self._proposals.pop(name, ([], _NO_PROBS))
        if row.kind is not ScheduleKind.RUNNING:
            return row.num_computed_tokens
        num_read = self._num_read.get(name, 0)
        for draft, token in zip(tokens[:-1], text[num_read:], strict=False):
            if draft != token:
                break
            num_read += 1
        return num_read

    def _propose(
        self, seqs: list[Sequence], logits: torch.Tensor, tables: BlockTables, num_drafts: int
    ) -> None:
        names = [name_of(seq) for seq in seqs]
        ends = np.array([len(self._texts.of(name)) for name in names])
        model = self.runner.model
        device = model.device
        first, passes = [logits], iter(range(num_drafts))

        def draft_step(tokens: torch.Tensor) -> torch.Tensor:
            """Logits after one token more; those after the newest token are there already."""
            place = next(passes)
            if place == 0:
                return first.pop()
            starts = np.minimum(ends + place - 1, model.config.max_position_embeddings - 1).tolist()
            spans = [
                Span(seq, start, (token,), 1)
                for seq, start, token in zip(seqs, starts, tokens.tolist(), strict=True)
            ]
            batch = lay_out(spans, tables, self._block_size, device)
            return self.runner.forward(batch.tensors)

        numbers = uniforms(
            self._seed,
            Purpose.DRAFT,
            np.array([name[0] for name in names]),
            np.array([name[1] for name in names]),
            ends[:, None] + np.arange(num_drafts),
            device,
        )
        rows = RowSettings.of([self._settings] * len(seqs), device)
        newest = torch.tensor([self._texts.of(name)[-1] for name in names], device=device)
        proposal = propose(draft_step, newest, rows, numbers, model.implementation)
        drafts = zip(names, proposal.token_ids.tolist(), proposal.probs, strict=True)
        self._proposals |= {name: (tokens, probs) for name, tokens, probs in drafts}
