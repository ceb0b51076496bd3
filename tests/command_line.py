"""The command line run by tests: in this process where that is enough, as a process of its own where not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from sim.cli import app
from sim.cli.app import BAD_INPUT

LEFT_BY_TOOLS = {"__pycache__", ".hypothesis", ".pytest_cache", ".mypy_cache", ".ruff_cache"}
COMMAND = (sys.executable, "-c", "from sim.cli import main; main()")
EXPERIMENT = """\
name: tiny
model: llama-3-8b
hardware: a100-80gb-sxm
engine:
  max_model_len: 4096
workload:
  kind: synthetic
  num_requests: 30
  arrivals: {kind: poisson, rate: 20 /s}
  prompt_tokens: {kind: uniform, low: 10, high: 300}
  output_tokens: {kind: uniform, low: 1, high: 40}
slo: {ttft: 100 ms, tpot: 20 ms}
"""


def _files() -> list[Path]:
    """Everything here but what tools leave beside it, which other tests set going meanwhile."""
    return sorted(path for path in Path().rglob("*") if not LEFT_BY_TOOLS & set(path.parts))


def pagecast(*arguments: str, code: int = 0) -> Result:
    """Run a command in this process; it must end with `code`, and an exception is the test's."""
    plain = {"COLUMNS": "80", "FORCE_COLOR": None}
    result = CliRunner().invoke(app, list(arguments), env=plain)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refused(*arguments: str) -> str:
    """Run a command in this process that must end with code 2, a message and nothing written; the message."""
    before = _files()
    result = pagecast(*arguments, code=BAD_INPUT)
    assert result.stdout == ""
    assert _files() == before, "something was written"
    return result.stderr


def refused_by_a_process(*arguments: str) -> str:
    """The same of the real command, whose traceback would be seen."""
    before = _files()
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (BAD_INPUT, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert _files() == before, "something was written"
    return done.stderr
