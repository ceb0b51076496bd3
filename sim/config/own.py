"""Policies of a user's own in experiment files: a class by its name, with options that its constructor knows.

    router: my_package.my_module:MyRouter
    router: {class: my_package.my_module:MyRouter, options: {weight: 2}}

The module is looked for beside the experiment file, in the current folder, and among what is installed; where
it was found is kept (`folder`), so that a resolved configuration finds it again. Options are held against the
constructor's parameters, by name and, where these are annotated, by type. A parameter that no option names
gets what an experiment knows under that name: `seed`, `num_replicas`, `block_size`, `max_num_seqs`,
`max_num_batched_tokens`, `max_model_len`, `num_speculative_tokens`.

Owns what such a class is once it was found (`own_reading.py` finds and checks it). Refuses to know what it
decides.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KNOWN = (
    "seed",
    "num_replicas",
    "block_size",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_model_len",
    "num_speculative_tokens",
)
"""What a constructor may ask for by name."""


class OwnClassError(ValueError):
    """A class of one's own cannot be used; says where below its key.

    Attributes:
        place: Keys below that of the class.
        is_key: Whether the key itself is wrong, and not what it holds.
    """

    def __init__(self, message: str, *place: str, is_key: bool = False) -> None:
        super().__init__(message)
        self.place = place
        self.is_key = is_key


@dataclass(frozen=True, slots=True)
class Role:
    """What a class of one's own has to be able to do.

    Attributes:
        name: In words, for messages.
        methods: Those that it needs, each as it is called.
        arguments: Parameters of its constructor that whoever makes it gives.
    """

    name: str
    methods: tuple[str, ...]
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnClass:
    """A class of one's own and its options; called, it makes one object.

    Attributes:
        reference: `package.module:Class`.
        options: Arguments of its constructor, by name.
        folder: Where its module lies, if that is none of Python's own places.
        made: The class.
        source: The file that it was read from; None: it came from none.
        known: What an experiment knows, by name; given where the constructor asks for it.
    """

    reference: str
    options: Mapping[str, Any]
    folder: str | None
    made: Callable[..., Any] = field(compare=False, repr=False)
    source: Path | None = field(default=None, compare=False, repr=False)
    known: Mapping[str, int] = field(default_factory=dict)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """One more of it."""
        asked = parameters(self.made)
        takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in asked.values())
        known = {name: value for name, value in self.known.items() if name in asked}
        if not takes_all:
            named = {name: value for name, value in named.items() if name in asked}
        return self.made(*arguments, **{**known, **named, **self.options})

    def to_yaml(self) -> dict[str, Any]:
        """As it stands in a resolved configuration."""
        whole = {"class": self.reference, "options": dict(self.options), "folder": self.folder}
        return {key: value for key, value in whole.items() if value}

    @property
    def short_name(self) -> str:
        """The class alone."""
        return self.reference.partition(":")[2]


def parameters(made: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """What a class's constructor takes, by name; nothing where it does not say."""
    try:
        return inspect.signature(made).parameters
    except (TypeError, ValueError):  # built-in classes do not say
        return {}
