"""One page of a run, `report.html`: its pictures, its numbers, and what these rest on, as in the terminal.

Refuses to have numbers of its own. The pictures stand beside it, under `plots/`; without them the page is
still whole. The same run gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from sim.metrics.summary import Summary
from sim.report.html import html_page, images, terminal_text
from sim.report.plots import write_plots
from sim.report.tables import summary_table
from sim.results.run_folder import Run


def draw_run(folder: Path, run: Run) -> None:
    """Add a run's pictures and its page to its folder."""
    summary = run.summary
    files = write_plots(folder / "plots", run.record, summary.slo, summary.identity.experiment)
    write_page(folder, summary, [file for file in files if file.suffix == ".svg"])


def write_page(folder: Path, summary: Summary, pictures: Sequence[Path]) -> Path:
    """Write `report.html` into the folder of a run that has these pictures; returns the file."""
    path = folder / "report.html"
    names = [picture.relative_to(folder).as_posix() for picture in pictures]
    path.write_text(run_page(summary, names), encoding="utf-8")
    return path


def run_page(summary: Summary, pictures: Sequence[str]) -> str:
    """The page; `pictures` are addresses of images, relative to it."""
    identity = summary.identity
    served = f"{summary.values['completed']:,} requests completed"
    what = f"Model {identity.model_id}, seed {identity.seed}: {served}."
    numbers = terminal_text(summary_table("", summary))
    return html_page(identity.experiment, [f"<p>{escape(what)}</p>", images(pictures), numbers])
