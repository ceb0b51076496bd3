"""`Chooser`: from the logits of a step to what every sequence says next.

    one logits row          sampled, by the number that belongs to its place in the text
    drafts and their rows   verified: a prefix kept, then the recovered or the bonus token
    a prompt of samples     one token for each sample that will be forked from it
    beams of a search       the likeliest continuations of all of them, whoever they descend from

Owns the sums of beams' log-probabilities. Refuses to know models and blocks: it gets logits and
extends texts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gpu_backend.batch import StepBatch
from gpu_backend.model.texts import Name, Texts, name_of
from gpu_backend.ops.implementation import Implementation
from gpu_backend.speculation.drafting import Drafter
from gpu_backend.speculation.sampling import RowSettings, sample
from gpu_backend.speculation.speculative import Proposal, emitted, verify
from gpu_backend.speculation.uniforms import Purpose, uniforms
from sim.core.request import RequestId, SeqId, Sequence
from sim.core.step import BeamFork, ScheduledSequence
from sim.replay_settings import SamplingSettings


@dataclass(slots=True)
class Choices:
    """What came of a step."""

    num_accepted: dict[SeqId, int] = field(default_factory=dict)
    """Drafts kept, of every row that had any."""
    num_tested: dict[SeqId, int] = field(default_factory=dict)
    """Drafts looked at, of every row whose drafts were proposed by the draft model."""
    beams: dict[RequestId, tuple[BeamFork, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row that yields tokens, and where its logits begin."""

    row: ScheduledSequence
    start: int


class Chooser:
    """Choices of one replica."""

    def __init__(
        self,
        texts: Texts,
        settings: SamplingSettings,
        *,
        seed: int,
        forks_samples: bool,
        implementation: Implementation,
    ) -> None:
        """Args: forks_samples: whether a prompt is computed once for all its samples."""
        self._texts = texts
        self._settings = settings
        self._seed = seed
        self._forks_samples = forks_samples
        self._implementation = implementation
        self._scores: dict[Name, float] = {}

    def choose(self, batch: StepBatch, logits: Tensor, drafter: Drafter | None) -> Choices:
        """Extend the texts of all rows that yield tokens.  # logits: [num_logits, vocab]."""
        choices = Choices()
        plain, drafted, searching = [], [], []
        for row, start in zip(batch.rows, batch.logits_starts[:-1].tolist(), strict=True):
            if not row.yields_token:
                continue
            drafts = drafter.drafts_of(row) if drafter is not None else None
            if row.num_draft_tokens:
                choices.num_accepted[row.seq.seq_id] = 0
            if row.seq.request.beam_width:
                searching.append(_Row(row, start))
            elif drafts is not None:
                drafted.append((_Row(row, start), drafts))
            else:
                plain.append(_Row(row, start))
        if plain:
            self._sample(plain, logits)
        if drafted:
            self._verify(drafted, logits, choices)
        if searching:
            self._search(searching, logits, choices)
        return choices

    # Sampling -------------------------------------------------------------------------------------

    def _sample(self, rows: list[_Row], logits: Tensor) -> None:
        names, places = [], []
        for each in rows:
            for name in self._speakers(each.row):
                names.append(name)
                places.append(each.start)
        positions = np.array([len(self._texts.of(name)) for name in names])
        device = logits.device
        numbers = self._uniforms(Purpose.TOKEN, names, positions, device)
        settings = RowSettings.of([self._settings] * len(names), device)
        tokens = sample(logits[places], settings, numbers, self._implementation)
        for name, token in zip(names, tokens.tolist(), strict=True):
            self._texts.of(name).append(token)

    def _speakers(self, row: ScheduledSequence) -> list[Name]:
        """Whose next token a row gives: its own, and at the end of a prompt that of all samples."""
        request, name = row.seq.request, name_of(row.seq)
        if self._forks_samples and len(self._texts.of(name)) == request.num_prompt_tokens:
            return [(name[0], number) for number in range(request.num_samples)]
        return [name]

    def _uniforms(
        self, purpose: Purpose, names: list[Name], positions: np.ndarray, device: torch.device
    ) -> Tensor:
        requests, samples = (np.array([name[part] for name in names]) for part in (0, 1))
        return uniforms(self._seed, purpose, requests, samples, positions, device)

    # Verifying ------------------------------------------------------------------------------------

    def _verify(
        self,
        rows: list[tuple[_Row, tuple[list[int], Tensor]]],
        logits: Tensor,
        choices: Choices,
    ) -> None:
        names = [name_of(each.row.seq) for each, _ in rows]
        device = logits.device
        counts = np.array([len(tokens) for _, (tokens, _) in rows])
        most = int(counts.max())
        proposal = _padded([drafts for _, drafts in rows], most)
        places = np.array([each.start for each, _ in rows])[:, None] + np.minimum(
            np.arange(most + 1), counts[:, None]
        )  # [num_rows, most + 1]: the last row again where there are fewer drafts
        ends = np.array([len(self._texts.of(name)) for name in names])
        verdict = verify(
            proposal,
            torch.from_numpy(counts.astype(np.int32)).to(device),
            logits[torch.from_numpy(places).to(device)],
            RowSettings.of([self._settings] * len(rows), device),
            torch.cat(
                (
                    self._uniforms(Purpose.ACCEPT, names, ends[:, None] + np.arange(most), device),
                    self._uniforms(Purpose.NEXT, names, ends[:, None], device),
                ),
                1,
            ),
            self._implementation,
        )
        for (each, (drafts, _)), name, tokens in zip(rows, names, emitted(proposal, verdict), strict=True):
            self._texts.of(name).extend(tokens)
            choices.num_accepted[each.row.seq.seq_id] = len(tokens) - 1
            choices.num_tested[each.row.seq.seq_id] = len(drafts)

    # Searching ------------------------------------------------------------------------------------

    def _search(self, rows: list[_Row], logits: Tensor, choices: Choices) -> None:
        beams: dict[RequestId, list[_Row]] = {}
        for each in rows:
            beams.setdefault(each.row.seq.request.request_id, []).append(each)
        for request_id, members in beams.items():
            forks = self._search_one(members, logits)
            if forks:
                choices.beams[request_id] = forks

    def _search_one(self, members: list[_Row], logits: Tensor) -> tuple[BeamFork, ...]:
        """The likeliest continuations of a request's beams; ties go to earlier beams and lower ids."""
        width = members[0].row.seq.request.beam_width
        names = [name_of(each.row.seq) for each in members]
        gains = logits[[each.start for each in members]].float().log_softmax(-1)  # [num_beams, vocab]
        scores = torch.tensor([self._scores.get(name, 0.0) for name in names], device=logits.device)
        best = (gains.double() + scores[:, None]).flatten().topk(width)
        vocab = logits.shape[1]
        found = list(zip(best.values.tolist(), best.indices.tolist(), strict=True))
        if len(members) == 1 and width > 1:  # the prompt: its beams begin
            request_id = names[0][0]
            for number, (score, index) in enumerate(found):
                self._say((request_id, number), index % vocab, score)
            return ()
        return self._branch([each.row.seq for each in members], found, vocab)

    def _branch(
        self, beams: list[Sequence], found: list[tuple[float, int]], vocab: int
    ) -> tuple[BeamFork, ...]:
        """Each continuation goes to its parent, or to a beam that nobody continues."""
        parents = [beams[index // vocab] for _, index in found]
        idle = iter([beam for beam in beams if beam not in set(parents)])
        texts = {beam: list(self._texts.of(name_of(beam))) for beam in beams}
        seen: set[Sequence] = set()
        forks = []
        for parent, (score, index) in zip(parents, found, strict=True):
            beam = parent
            if parent in seen:
                beam = next(idle)
                forks.append(BeamFork(parent, beam))
                self._texts.of(name_of(beam))[:] = texts[parent]
            seen.add(parent)
            self._say(name_of(beam), index % vocab, score)
        return tuple(forks)

    def _say(self, name: Name, token: int, score: float) -> None:
        self._texts.of(name).append(token)
        self._scores[name] = score


def _padded(drafts: list[tuple[list[int], Tensor]], most: int) -> Proposal:
    """Drafts of several sequences, those with fewer filled up.  # [n, most], [n, most, vocab]."""
    first = drafts[0][1]
    tokens = torch.zeros((len(drafts), most), dtype=torch.int64)
    probs = torch.zeros((len(drafts), most, first.shape[1]), dtype=first.dtype, device=first.device)
    for place, (ids, distribution) in enumerate(drafts):
        tokens[place, : len(ids)] = torch.tensor(ids)
        probs[place, : len(ids)] = distribution
    return Proposal(tokens.to(first.device), probs)
