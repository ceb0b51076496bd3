"""The bytes of ten runs, as one digest a file: two states of the code that give equal digests simulate alike.

    python tests/same_bytes.py before.json      # with one state of the code, one interpreter
    python tests/same_bytes.py after.json       # with another
    diff before.json after.json

    python tests/same_bytes.py swap.json swap   # only these experiments

Simulates by the command line only, outside the checkout, so that it runs with whatever code its interpreter
imports there: an editable install, PYTHONPATH or a wheel. Says which that is. Experiments that need public
traces are left out where PAGECAST_DATA names no folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
MAIN = ("-c", "from sim.cli import main; main()")
NOT_COMPARED = {"environment.json"}
"""Machine, times, commit: what differs between two runs of one experiment."""


@dataclass(frozen=True, slots=True)
class Case:
    """One experiment: a file of `configs/` and what is changed in it."""

    name: str
    config: str
    overrides: tuple[str, ...] = ()

    @property
    def needs_data(self) -> bool:
        """Whether it reads a public trace."""
        return "${PAGECAST_DATA}" in (CONFIGS / self.config).read_text(encoding="utf-8")


CASES = (
    Case("quickstart", "quickstart.yaml"),
    Case("azure_conv", "azure_conv.yaml", ("workload.limit=2000",)),
    Case("speculation", "crosscheck/speculation.yaml", ("workload.num_requests=200",)),
    Case("swap", "crosscheck/swap.yaml", ("workload.num_requests=200",)),
    Case(
        "beam_search",
        "crosscheck/swap.yaml",
        ("workload.num_requests=100", "workload.num_samples=1", "workload.beam_width=4"),
    ),
    Case(
        "offload",
        "chat_l40s.yaml",
        (
            "workload.num_requests=500",
            "workload.shared_prefix={groups: 40, tokens: 1024}",
            "workload.prompt_tokens={kind: uniform, low: 1100, high: 3000}",
            "engine.num_gpu_blocks_override=2001",
            "offload={space: 8 GiB}",
        ),
    ),
    Case(
        "static_batch",
        "batching.yaml",
        ("engine.batching={kind: static, max_batch_size: 32}", "workload.num_requests=500"),
    ),
    Case(
        "tp2_pp2",
        "chat_l40s.yaml",
        (
            "workload.num_requests=1000",
            "parallelism={tensor_parallel_size: 2, pipeline_parallel_size: 2}",
        ),
    ),
    Case(
        "closed_loop_replicas",
        "batching.yaml",
        (
            "workload.arrivals={kind: closed_loop, concurrency: 48}",
            "cluster={replicas: 3, router: least_outstanding}",
        ),
    ),
    Case("mooncake", "mooncake_conv.yaml", ("workload.limit=300",)),
)


def digests(
    cases: Sequence[Case], options: Sequence[str] = (), **variables: str
) -> dict[str, dict[str, str]]:
    """SHA-256 of every file of each case's run folder, by case and file.

    Args:
        cases: What is simulated.
        options: Of `pagecast simulate`, besides.
        variables: Of the environment, besides.
    """
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as workers:
        found = workers.map(lambda case: _digests_of(case, options, variables, Path(folder)), cases)
        return dict(zip((case.name for case in cases), found, strict=True))


def _digests_of(
    case: Case, options: Sequence[str], variables: Mapping[str, str], folder: Path
) -> dict[str, str]:
    config = folder / f"{case.name}.yaml"
    shutil.copyfile(CONFIGS / case.config, config)
    overrides = [part for override in case.overrides for part in ("--set", override)]
    arguments = ("simulate", str(config), "--quiet", "--out", str(folder / case.name), *options, *overrides)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", **variables}
    done = subprocess.run(
        [sys.executable, *MAIN, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{case.name}: {done.stderr}")
    files = sorted(path for path in (folder / case.name).rglob("*") if path.is_file())
    return {
        path.relative_to(folder / case.name).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name not in NOT_COMPARED
    }


def runnable() -> tuple[Case, ...]:
    """The cases whose data is here."""
    has_data = Path(os.environ.get("PAGECAST_DATA", "")).joinpath("traces").is_dir()
    return tuple(case for case in CASES if has_data or not case.needs_data)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main(out: Path, names: Sequence[str]) -> None:
    """Write the digests of these cases, or of all that can be run here."""
    cases = [case for case in runnable() if not names or case.name in names]
    with tempfile.TemporaryDirectory() as elsewhere:
        where = subprocess.run(
            [sys.executable, "-c", "import sim; print(sim.__file__)"],
            cwd=elsewhere,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    _say(f"{len(cases)} of {len(CASES)} experiments, by {where}")
    out.write_text(json.dumps(digests(cases), indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} OUT.json [EXPERIMENT ...]")
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
