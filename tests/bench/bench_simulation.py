"""How fast the simulator is: CPU seconds of the simulation alone, median of five runs, as one page.

Run by `make bench`, which writes `results/bench.md`. Reading the configuration, making the workload and
writing results are not part of the figures; block ids, per-token times and the table of steps are.
Machines differ and are noisy: workloads take turns, and ratios within one run say more than seconds.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sim.config import load_experiment
from sim.experiment import Experiment
from sim.record.run_record import RunRecord
from sim.results.environment import cpu_model
from sim.simulation import simulate

REPO = Path(__file__).resolve().parents[2]
CONFIGS = REPO / "configs" / "bench"
NUM_RUNS = 5
STANDARD = ("1k_at_10", "10k_at_10", "10k_at_40", "10k_at_40_tight")
LENGTHS = (1_000, 10_000, 100_000)
COLUMNS = (
    "workload",
    "requests",
    "CPU s, median of 5 (range)",
    "requests per CPU-second",
    "us per request",
    "steps per request",
    "plans per request",
    "preemptions",
)


@dataclass(slots=True)
class Subject:
    """One workload and how long each of its simulations took."""

    name: str
    experiment: Experiment
    cpu_s: list[float] = field(default_factory=list)
    record: RunRecord | None = None

    def measure(self) -> None:
        """Simulate once more."""
        self.record = simulate(self.experiment)
        self.cpu_s.append(self.record.cpu_s)

    @property
    def num_requests(self) -> int:
        """Requests of the workload."""
        assert self.record is not None, "measure first"
        return self.record.num_requests

    @property
    def median_cpu_s(self) -> float:
        """Middle of the runs."""
        return statistics.median(self.cpu_s)

    @property
    def us_per_request(self) -> float:
        """CPU microseconds a request."""
        return self.median_cpu_s / self.num_requests * 1e6

    def row(self) -> str:
        """A line of the table."""
        assert self.record is not None, "measure first"
        counters, count = self.record.counters, self.num_requests
        spread = f"({min(self.cpu_s):.3f} to {max(self.cpu_s):.3f})"
        return _line(
            self.name,
            f"{count:,}",
            f"{self.median_cpu_s:.3f} {spread}",
            f"{count / self.median_cpu_s:,.0f}",
            f"{self.us_per_request:.1f}",
            f"{counters['num_steps'] / count:.2f}",
            f"{counters['num_plans'] / count:.2f}",
            f"{counters['preemptions']:,}",
        )


def measure(subjects: Sequence[Subject]) -> Sequence[Subject]:
    """Simulate each `NUM_RUNS` times, in turns, after one run that is not counted."""
    for subject in subjects:
        simulate(subject.experiment)
    for number in range(NUM_RUNS):
        for subject in subjects:
            subject.measure()
            print(f"{number + 1}/{NUM_RUNS} {subject.name}: {subject.cpu_s[-1]:.3f} s", file=sys.stderr)
    return subjects


def standard_workloads() -> list[Subject]:
    """The four standard workloads, variations of the first, and the Azure trace."""
    first = CONFIGS / f"{STANDARD[0]}.yaml"
    subjects = [Subject(name, load_experiment(CONFIGS / f"{name}.yaml")) for name in STANDARD]
    subjects.append(Subject(f"{STANDARD[0]}, horizon 1", load_experiment(first, ["engine.max_horizon=1"])))
    caching = load_experiment(first, ["engine.enable_prefix_caching=true"])
    subjects.append(Subject(f"{STANDARD[0]}, prefix caching on", caching))
    data = Path(os.environ.get("PAGECAST_DATA", REPO.parent / "shared" / "data"))
    if (data / "traces").is_dir():
        azure = REPO / "configs" / "azure_conv.yaml"
        subjects.append(Subject("Azure 2023 conversation", load_experiment(azure)))
        single = load_experiment(azure, ["engine.max_horizon=1"])
        subjects.append(Subject("Azure 2023 conversation, horizon 1", single))
    return subjects


def by_length() -> list[Subject]:
    """The second standard workload at growing lengths: time per request should stay flat."""
    config = CONFIGS / f"{STANDARD[1]}.yaml"
    return [
        Subject(f"{count:,} requests at 10/s", load_experiment(config, [f"workload.num_requests={count}"]))
        for count in LENGTHS
    ]


PAGE = """\
# Speed of the simulator

Made by `make bench`. CPU seconds of the simulation alone (arrivals, scheduling, block ids, step times,
recording), one process, one core; no GPU is involved. Machine: {machine}.

{standard}

Standard workloads: Poisson arrivals, 1,000 prompt and 250 output tokens, one replica of Llama-3-8B on an
A100-80GB, block size 16, 256 sequences, 8,192 tokens a step; 27,000 blocks, the tight one 10,000. Prefix
caching is off where not said otherwise: no content is shared. With it on, every block gets a key, is found
by it, and loses it again.

What the horizon brings, against planning every step by itself (`engine.max_horizon=1`), which gives the
same results: {speed_ups}.

## Time per request by length of the run

{lengths}

Largest over smallest: {flatness:.2f}.
"""


def page(standard: Sequence[Subject], lengths: Sequence[Subject]) -> str:
    """The page as Markdown."""
    median = {subject.name: subject.median_cpu_s for subject in standard}
    speed_ups = [
        f"{name} {median[f'{name}, horizon 1'] / seconds:.2f} times as fast"
        for name, seconds in median.items()
        if f"{name}, horizon 1" in median
    ]
    per_request = [subject.us_per_request for subject in lengths]
    return PAGE.format(
        machine=f"{cpu_model()}, Python {platform.python_version()}",
        standard=_table(standard),
        speed_ups=", ".join(speed_ups),
        lengths=_table(lengths),
        flatness=max(per_request) / min(per_request),
    )


def _table(subjects: Sequence[Subject]) -> str:
    rule = _line("---", *["---:"] * (len(COLUMNS) - 1))
    return "\n".join([_line(*COLUMNS), rule, *(subject.row() for subject in subjects)])


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=REPO / "results" / "bench.md")
    arguments = parser.parse_args()
    text = page(measure(standard_workloads()), measure(by_length()))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
