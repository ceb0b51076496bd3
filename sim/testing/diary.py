"""`Diary`: the calls that an allocator had, as one would write them, and what it said; told when it fails.

    allocator = make_allocator(num_blocks=4, block_size=2, num_host_blocks=0)
    allocator.admit(1, ['a'])  # [3]
    allocator.fork(1, 2)
    allocator.append(1, 1)  # [3]

So a story can be told without the machine: in a debugger, or as a test of one's own.
"""

from __future__ import annotations


class Diary:
    """Calls in their order."""

    def __init__(self) -> None:
        self.is_over = False
        """Whether something went wrong: nothing that follows says anything."""
        self._calls: list[tuple[str, tuple[object, ...], str]] = []
        self._begun = ""

    def begin(self, sizes: dict[str, int]) -> None:
        """An allocator is made."""
        self._begun = ", ".join(f"{name}={size}" for name, size in sizes.items())

    def note(self, name: str, *arguments: object) -> None:
        """It is called."""
        self._calls.append((name, arguments, ""))

    def note_answer(self, answer: object) -> None:
        """What it said to the last call."""
        name, arguments, _ = self._calls[-1]
        self._calls[-1] = (name, arguments, f"  # {answer}")

    def end(self, error: BaseException) -> None:
        """Tell the error what led to it, once."""
        if not self.is_over and isinstance(error, Exception):
            error.add_note(str(self))
        self.is_over = True

    def __str__(self) -> str:
        lines = [f"allocator = make_allocator({self._begun})"]
        for name, arguments, answer in self._calls:
            lines.append(f"allocator.{name}({', '.join(map(repr, arguments))}){answer}")
        return "\n".join(["The calls that led here:", *(f"    {line}" for line in lines)])
