"""What compiling brings: CPU seconds of the simulation by the wheel, compiled and plain, as one page.

    python -m tests.bench.bench_compiled WHEEL

Run by `make bench-compiled`, which builds the wheel and writes `results/bench_compiled.md`. Both take turns,
each time in a process of its own that simulates each workload twice and counts the second time.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
from pathlib import Path

from sim.results.environment import cpu_model
from tests.bench.bench_simulation import CONFIGS, STANDARD
from tests.wheels import REPO, install, run

NUM_TURNS = 7
OVERRIDES = {
    "horizon 1": ["engine.max_horizon=1"],
    "prefix caching on": ["engine.enable_prefix_caching=true"],
}
WORKLOADS: dict[str, tuple[Path, list[str]]] = {
    **{name: (CONFIGS / f"{name}.yaml", []) for name in STANDARD},
    **{f"1k_at_10, {what}": (CONFIGS / "1k_at_10.yaml", change) for what, change in OVERRIDES.items()},
    "speculation": (REPO / "configs" / "crosscheck" / "speculation.yaml", ["workload.num_requests=500"]),
    "swap": (REPO / "configs" / "crosscheck" / "swap.yaml", ["workload.num_requests=500"]),
}
CODE = """\
import json, pathlib, sys
from sim.config import load_experiment
from sim.simulation import simulate
print(json.dumps({
    name: [simulate(load_experiment(pathlib.Path(path), overrides)).cpu_s for _ in range(2)][-1]
    for name, (path, overrides) in json.loads(sys.argv[1]).items()
}))
"""
PAGE = """\
# What compiling brings

Made by `make bench-compiled`. CPU seconds of the simulation alone, median of {turns} (range), by one wheel:
with its compiled modules, and with `PAGECAST_PURE=1`. Both took turns. Machine: {machine}.

| workload | plain Python | compiled | times as fast |
| --- | ---: | ---: | ---: |
{rows}

The results are the same to the byte (`tests/test_compiled.py`).
"""


def measure(python: Path) -> dict[str, dict[str, list[float]]]:
    """CPU seconds of each turn, by workload and by value of PAGECAST_PURE."""
    asked = json.dumps({name: [str(path), overrides] for name, (path, overrides) in WORKLOADS.items()})
    seconds: dict[str, dict[str, list[float]]] = {name: {"0": [], "1": []} for name in WORKLOADS}
    with tempfile.TemporaryDirectory() as elsewhere:
        for turn in range(NUM_TURNS):
            for pure in ("0", "1"):
                code = (str(python), "-c", CODE, asked)
                found = json.loads(run(*code, cwd=Path(elsewhere), env={"PAGECAST_PURE": pure}))
                for name, cpu_s in found.items():
                    seconds[name][pure].append(cpu_s)
            print(f"{turn + 1}/{NUM_TURNS}", file=sys.stderr)
    return seconds


def page(seconds: dict[str, dict[str, list[float]]]) -> str:
    """The page as Markdown."""
    rows = []
    for name, of in seconds.items():
        plain, compiled = (statistics.median(of[pure]) for pure in ("1", "0"))
        ranges = [f"({min(of[pure]):.3f} to {max(of[pure]):.3f})" for pure in ("1", "0")]
        rows.append(
            f"| {name} | {plain:.3f} {ranges[0]} | {compiled:.3f} {ranges[1]} | {plain / compiled:.2f} |"
        )
    machine = f"{cpu_model()}, Python {platform.python_version()}"
    return PAGE.format(turns=NUM_TURNS, machine=machine, rows="\n".join(rows))


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=REPO / "results" / "bench_compiled.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = page(measure(install(arguments.wheel.resolve(), Path(folder))))
    arguments.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
