"""What every sequence has said so far.

Owns the token ids; the core knows only how many there are. A text is its prompt and its settled tokens;
drafts are no part of it. Named by request and sample, since a text outlives the sequence that made it.
"""

from __future__ import annotations

from gpu_backend.prompts import Prompts
from sim.core.request import Sequence

Name = tuple[int, int]
"""(request, sample)."""


def name_of(seq: Sequence) -> Name:
    """The name of a sequence's text."""
    return int(seq.request.request_id), seq.sample


class Texts:
    """Texts of one replica."""

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts
        self._texts: dict[Name, list[int]] = {}
        self._num_prompt_tokens: dict[Name, int] = {}

    def of(self, name: Name) -> list[int]:
        """All known tokens of a text; it begins as its prompt."""
        text = self._texts.get(name)
        if text is None:
            text = self._texts[name] = self._prompts.tokens(name[0])
            self._num_prompt_tokens[name] = len(text)
        return text

    def begin(self, name: Name, num_tokens: int) -> None:
        """Begin a text anew, with the first tokens of its prompt."""
        self._texts[name] = self._prompts.tokens(name[0])[:num_tokens]
        self._num_prompt_tokens[name] = num_tokens

    def outputs(self) -> dict[Name, list[int]]:
        """What followed each prompt; the last round of drafts may have given more than was asked for."""
        return {name: text[self._num_prompt_tokens[name] :] for name, text in sorted(self._texts.items())}
