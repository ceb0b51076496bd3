"""What a machine is made of: operations, the claims that are checked after each, and how one breaks.

    @operation(rule, pick=PICK)          @claim
    def end(self, pick): ...             def every_block_is_free_or_referenced(self): holds(...)

Refuses to know allocators.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any


class ClaimBrokenError(AssertionError):
    """An allocator broke a claim."""

    def __init__(self, claim: str, message: str) -> None:
        super().__init__(f"{claim}: {message}")
        self.claim = claim


def holds(claim: str, truth: bool, message: str) -> None:
    """Raise `ClaimBrokenError` unless the claim holds."""
    __tracebackhide__ = True
    if not truth:
        raise ClaimBrokenError(claim, message)


def claim(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """Make a check a claim of its machine, looked at after every operation."""
    check.is_claim = True  # type: ignore[attr-defined]
    return check


def operation(
    decorated: Callable[..., Callable[[Callable[..., None]], Callable[..., None]]],
    *,
    when: Callable[[Any], object] = lambda machine: True,
    **drawn: Any,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a method an operation: Hypothesis's `rule` or `initialize`, and all claims checked after it.

    Checks that are Hypothesis's invariants would be told as steps of their own, five after each one, and a
    story of three steps would be lost among them. And an operation for which it is not the time (`when`) does
    nothing instead of being forbidden: so any step can be left out of a story, which shrinks the further.
    """

    def make(act: Callable[..., None]) -> Callable[..., None]:
        @wraps(act)
        def acted(self: Any, **arguments: Any) -> None:
            __tracebackhide__ = True
            if not when(self):
                return
            try:
                act(self, **arguments)
                self.check_claims()
            except BaseException as error:
                self.diary.end(error)
                raise

        return decorated(**drawn)(acted)

    return make


@cache
def claims_of(machine: type) -> tuple[str, ...]:
    """Names of a machine's claims."""
    return tuple(name for name in dir(machine) if getattr(getattr(machine, name), "is_claim", False))


def answer(question: Callable[..., object], *arguments: object) -> object:
    """What an allocator says, be it that it knows no such thing."""
    try:
        return question(*arguments)
    except Exception as error:
        return type(error).__name__
