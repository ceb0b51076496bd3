"""How fast the simulator is: CPU seconds of the simulation alone, median of five runs, as one page.

Run by `make bench`, which writes `results/bench.md`. Reading the configuration, making the workload and
writing results are not part of the figures; block ids, per-token times and the table of steps are.
Machines differ and are noisy: the ratios in one run say more than the seconds.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from sim.config import load_experiment
from sim.simulation import simulate

from sim.run_record import RunRecord

REPO = Path(__file__).resolve().parents[2]
CONFIGS = REPO / "configs" / "bench"
NUM_RUNS = 5
STANDARD = ("1k_at_10", "10k_at_10", "10k_at_40", "10k_at_40_tight")
LENGTHS = (1_000, 10_000, 100_000)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One workload, simulated `NUM_RUNS` times."""

    name: str
    num_requests: int
    cpu_s: tuple[float, ...]
    record: RunRecord

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
        counters, count = self.record.counters, self.num_requests
        spread = f"({min(self.cpu_s):.3f} to {max(self.cpu_s):.3f})"
        cells = (
            self.name,
            f"{count:,}",
            f"{self.median_cpu_s:.3f} {spread}",
            f"{count / self.median_cpu_s:,.0f}",
            f"{self.us_per_request:.1f}",
            f"{counters['num_steps'] / count:.2f}",
            f"{counters['num_plans'] / count:.2f}",
            f"{counters['preemptions']:,}",
        )
        return f"| {' | '.join(cells)} |"


def measure(name: str, config: Path, overrides: tuple[str, ...] = ()) -> Measurement:
    """Simulate one configuration `NUM_RUNS` times."""
    experiment = load_experiment(config, overrides)
    records = [simulate(experiment) for _ in range(NUM_RUNS)]
    print(f"{name}: {[round(record.cpu_s, 3) for record in records]} s", file=sys.stderr)
    num_requests = len(records[0].requests["request_id"])
    return Measurement(name, num_requests, tuple(record.cpu_s for record in records), records[0])


def standard_workloads() -> list[Measurement]:
    """The four standard workloads, the Azure trace, and the first of the four with horizon 1."""
    measured = [measure(name, CONFIGS / f"{name}.yaml") for name in STANDARD]
    first = CONFIGS / f"{STANDARD[0]}.yaml"
    measured.append(measure(f"{STANDARD[0]}, horizon 1", first, ("engine.max_horizon=1",)))
    caching_on = ("engine.enable_prefix_caching=true",)
    measured.append(measure(f"{STANDARD[0]}, prefix caching on", first, caching_on))
    azure = REPO / "configs" / "azure_conv.yaml"
    data = Path(os.environ.get("PAGECAST_DATA", REPO.parent / "shared" / "data"))
    if (data / "traces").is_dir():
        measured.append(measure("Azure 2023 conversation, 2 replicas", azure))
    return measured


def by_length() -> list[Measurement]:
    """The second standard workload at growing lengths: time per request should stay flat."""
    config = CONFIGS / f"{STANDARD[1]}.yaml"
    return [
        measure(f"{count:,} requests at 10/s", config, (f"workload.num_requests={count}",))
        for count in LENGTHS
    ]


HEADER = """\
| workload | requests | CPU s, median of 5 (range) | requests per CPU-second | us per request | steps per
request | plans per request | preemptions | | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""  # noqa: E501  one line is one row

PAGE = """\
# Speed of the simulator

Made by `make bench`. CPU seconds of the simulation alone (arrivals, scheduling, block ids, step times, recording),
one process, one core; no GPU is involved. Machine: {machine}.

{standard}

Standard workloads: Poisson arrivals, 1,000 prompt and 250 output tokens, one replica of Llama-3-8B on an A100-80GB,
block size 16, 256 sequences, 8,192 tokens a step; 27,000 blocks, the tight one 10,000. Prefix caching is off where not
said otherwise: no content is shared.

The horizon makes the first workload {speed_up:.1f} times as fast as planning every step by itself; the results are the
same to the last nanosecond (a property test holds that).

## Time per request by length of the run

{lengths}

Largest over smallest: {flatness:.2f}.
"""  # noqa: E501  one paragraph, one line width of its own


def page(standard: list[Measurement], lengths: list[Measurement]) -> str:
    """The page as Markdown."""
    flatness = max(m.us_per_request for m in lengths) / min(m.us_per_request for m in lengths)
    full, single = standard[0], next(m for m in standard if m.name.endswith("horizon 1"))
    return PAGE.format(
        machine=f"{_cpu_name()}, Python {platform.python_version()}",
        standard=HEADER + "\n".join(m.row() for m in standard),
        lengths=HEADER + "\n".join(m.row() for m in lengths),
        speed_up=single.median_cpu_s / full.median_cpu_s,
        flatness=flatness,
    )


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=REPO / "results" / "bench.md")
    arguments = parser.parse_args()
    text = page(standard_workloads(), by_length())
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
