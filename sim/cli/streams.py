"""Standard output and error as a command finds them: one that cannot be written is bad input, not a fault.

A full disk, a closed pipe or no stream at all is told in one line on standard error; without a standard
output no command begins.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO


class OutputError(Exception):
    """Standard output cannot be written; the message says why."""


class _Checked:
    """A stream that says with an error of our own that it cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.fault: OutputError | None = None
        """Why it cannot be written, once that is known: whoever printed may have swallowed it."""

    def write(self, text: str) -> int:
        """Write."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:
            raise self._given_up(error) from error

    def flush(self) -> None:
        """Write what is still to be written."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            raise self._given_up(error) from error

    def _given_up(self, error: Exception) -> OutputError:
        """Nothing more is tried: what is left would fail once more when Python ends."""
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        if isinstance(error, OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
        self.fault = OutputError(f"standard output: cannot be written: {why}")
        return self.fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def checked_output() -> Iterator[None]:
    """Whatever is printed within is printed, or an error says that it was not.

    Raises:
        OutputError: It cannot be.
    """
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # as long as the process
    if sys.stdout is None:
        raise OutputError("standard output: is closed: send it to /dev/null if nobody is to read it")
    stream, checked = sys.stdout, _Checked(sys.stdout)
    sys.stdout = checked
    try:
        yield
    finally:
        sys.stdout = stream
        checked.flush()
        if checked.fault is not None:
            raise checked.fault
