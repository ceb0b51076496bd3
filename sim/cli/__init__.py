"""The command line: `pagecast simulate`, `replay`, `crosscheck` and the others.

    app.py                  the command, its exit codes, options that are shared
    simulator_commands.py   what each command without an engine takes
    engine_commands.py      and each about an engine; planning_commands.py each of many simulations
    streams.py              where it is printed to, and what if that cannot be
    console.py              what is printed around them: bars of progress, warnings
    the rest                what they do: a module for each command, or for a few that are alike

Each command is a thin wrapper over a Python function, imported when it is called, so that `--help` is quick.
Results go to standard output, everything else to standard error. Exit codes: 0 fine, 1 the answer is no,
2 bad input, 130 interrupted. A fault of pagecast's own keeps its traceback.
"""

from __future__ import annotations

import sys

try:
    from sim.cli import engine_commands, planning_commands, simulator_commands
    from sim.cli.app import INTERRUPTED, TOLD_INTERRUPTED, app
except KeyboardInterrupt:
    sys.stderr.write("interrupted: no run is left half-written\n")
    raise SystemExit(130) from None

__all__ = ["app", "engine_commands", "main", "planning_commands", "simulator_commands"]


def main() -> None:
    """Entry point of the command `pagecast`."""
    try:
        app()
    except KeyboardInterrupt:
        sys.stderr.write(f"{TOLD_INTERRUPTED}\n")
        raise SystemExit(INTERRUPTED) from None
