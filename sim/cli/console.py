"""What people see while a command works: warnings and a progress bar, both on standard error.

Text of the user's (names, paths) is never read as markup. rich leaves colours out where `NO_COLOR` is set
and draws no bar where standard error is no terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from sim.fleet.cluster import Progress as Report

NS_PER_S = 1e9


def warn(messages: Sequence[str]) -> None:
    """Print warnings, one a line."""
    console = Console(stderr=True)
    for message in messages:
        console.print(Text.assemble(("warning: ", "yellow"), message), soft_wrap=True)


@contextmanager
def progress(name: str, *, shown: bool) -> Iterator[Report | None]:
    """A bar with the requests that ended and the time simulated; None where none is wanted."""
    if not shown:
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[state]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task(name, total=None, state="reading the workload")

        def report(now_ns: int, num_ended: int, num_requests: int) -> None:
            state = f"{num_ended:,} of {num_requests:,} requests, {now_ns / NS_PER_S:,.0f} s simulated"
            bar.update(task, completed=num_ended, total=num_requests, state=state)

        yield report
