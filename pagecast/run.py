"""A run in a notebook: an experiment is loaded and simulated, its numbers and tables are at hand.

Owns no number: everything is the run's own (`sim.results`), as its folder would hold it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sim.config import load_experiment
from sim.experiment import Experiment
from sim.metrics.summary import Number
from sim.recording import Served, simulated, sum_up, write_summed_up
from sim.results import run_folder
from sim.results.writable import refuse_unwritable
from workloads.generate import build


class Table(Mapping[str, NDArray[Any]]):
    """Columns of equal length by name; times are `timedelta64[ns]` since the start of the run."""

    def __init__(self, columns: Mapping[str, NDArray[Any]]) -> None:
        self._columns = dict(columns)

    def __getitem__(self, name: str) -> NDArray[Any]:  # [num_rows]
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    @property
    def num_rows(self) -> int:
        """How many rows it has."""
        return len(next(iter(self._columns.values()), ()))

    def to_pandas(self) -> Any:
        """The same as a `pandas.DataFrame`.

        Raises:
            ImportError: pandas is not installed; it is no part of pagecast.
        """
        try:
            import pandas  # type: ignore[import-untyped,import-not-found,unused-ignore]  # no part of ours
        except ImportError as error:
            raise ImportError("a data frame needs pandas: pip install pandas") from error
        return pandas.DataFrame(self._columns)

    def __repr__(self) -> str:
        return f"Table({self.num_rows:,} rows: {', '.join(self._columns)})"


@dataclass(frozen=True, slots=True)
class Run:
    """One run: numbers, what to know before trusting them, and the tables they were made of."""

    _run: run_folder.Run

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved configuration, as plain data; it loads as an equal experiment."""
        return self._run.config

    @property
    def summary(self) -> Mapping[str, Number]:
        """Every number by its name in `summary.json`; the name ends in its unit. None: there is none."""
        return self._run.summary.values

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know before trusting the numbers, as sentences."""
        return self._run.summary.notes

    @property
    def requests(self) -> Table:
        """A row for each request that arrived (`sim.record.run_record.REQUEST_COLUMNS`)."""
        return Table(self._run.record.requests)

    @property
    def steps(self) -> Table:
        """A row for each step of each replica (`sim.record.run_record.STEP_COLUMNS`)."""
        return Table(self._run.record.steps)

    @property
    def tokens(self) -> Table:
        """A row for each token: when it came out, of which request and sample."""
        return Table(self._run.record.token_rows())

    def __repr__(self) -> str:
        name = self._run.summary.identity.experiment
        return f"Run({name}: {self.requests.num_rows:,} requests, {self.steps.num_rows:,} steps)"


def load(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file.

    Args:
        path: The file.
        overrides: Changes such as `engine.block_size=32`, as `--set` takes them.

    Raises:
        ConfigError: Something is wrong; it holds everything found, each with its place.
    """
    return load_experiment(path, overrides)


def simulate(experiment: Experiment, folder: str | Path | None = None) -> Run:
    """Simulate an experiment.

    Args:
        experiment: What `load` gave.
        folder: Where to write the run, with its pictures and its page; None: nothing is written.

    Raises:
        ConfigError: The folder exists or cannot be written; a recording is too short.
        WorkloadError: The workload cannot be read or made.
    """
    if folder is not None:
        refuse_unwritable(Path(folder))
    workload = build(experiment.workload, seed=experiment.seed)
    served: Served = simulated(experiment, workload, None)
    run = sum_up(experiment, served)
    if folder is not None:
        write_summed_up(Path(folder), experiment, served, run)
    return Run(run)


def open_run(folder: str | Path) -> Run:
    """Read a run back from its folder.

    Raises:
        ConfigError: It is no run, or a file of it is missing or damaged.
    """
    return Run(run_folder.load_run(Path(folder)))
