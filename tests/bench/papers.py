"""Published tables beside ours: every row from one experiment file, written to `results/papers.md`.

Run by `make papers`. A row says what the paper prints, what we get, the difference, and how far it may be
off; a row outside its tolerance is printed as such, never dropped. What each number is worth, and what was
fitted, stands above its table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from sim.report.canvas import save
from sim.results.environment import cpu_model
from tests.bench import papers_pagedattention as paged_attention
from tests.bench import papers_speculation as speculation
from tests.bench.papers_runs import REPO, Outcome, Run, execute

_HOW = "Made by `make papers`: files of `configs/papers/` with the changes named, simulated on a CPU"
_WHEN = (
    "The commands below each table make its runs. They sum up whole runs; the slots' states, batched "
    "requests and completed requests of the tables are those from a fifth of the arrivals' time on, when "
    "queues have filled, until the last arrival."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything, write the page and its pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=REPO / "results")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    runs = list(dict.fromkeys([*paged_attention.runs(), *speculation.runs()]))
    with ProcessPoolExecutor(options.jobs) as pool:
        outcomes = dict(zip(runs, pool.map(execute, runs), strict=True))
    options.out.mkdir(parents=True, exist_ok=True)
    pictures = paged_attention.pictures(outcomes) | speculation.pictures(outcomes)
    for name, draw in pictures.items():
        save(draw, options.out / f"papers_{name}")
    page = _page(outcomes)
    (options.out / "papers.md").write_text(page, encoding="utf-8")
    sys.stdout.write(page)


def _page(outcomes: dict[Run, Outcome]) -> str:
    lines = [
        "# Published numbers, and ours",
        "",
        f"{_HOW} ({cpu_model()}). No number here was measured on a GPU.",
        "",
        _WHEN,
        "",
        *paged_attention.section(outcomes),
        *speculation.section(outcomes),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
