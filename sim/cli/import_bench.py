"""What `import-bench` does: a benchmark of a real server beside a simulation of the same requests."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

from rich.console import Console

from sim.cli.console import warn
from sim.config import load_experiment
from sim.crosscheck.bench_import import Imported, import_bench
from sim.crosscheck.comparison import ErrorRow, Status, error_rows
from sim.crosscheck.observed import Observed, observe
from sim.crosscheck.page import page_with_verdict
from sim.crosscheck.pictures import write_pictures
from sim.crosscheck.text import errors_text, measured_table
from sim.errors import ConfigError, Problem
from sim.experiment import Experiment
from sim.recording import Served, folder_for, simulated, write_served
from sim.report.html import images, section, terminal_text
from sim.results.whole_folder import WholeFolder

_EXPLANATION = """\
<p>A server was <b>measured</b> ({server}), and the same requests, with the same lengths at the same times,
were <b>simulated</b> from {config}. An error is simulated over measured, less one.</p>"""


@dataclass(frozen=True, slots=True)
class Import:
    """What a user asked `import-bench` for."""

    file: Path
    config: Path | None
    overrides: tuple[str, ...]
    out: Path | None
    with_plots: bool = True


def import_one(request: Import) -> bool:
    """Print a benchmark's figures, beside a simulation of it if there is one; whether tolerances hold."""
    imported = import_bench(request.file)
    warn(imported.observed.notes)
    if request.config is None:
        Console().print(measured_table(imported.observed))
        return True
    if imported.workload is None:
        message = "does not say when requests were sent (start_times): it cannot be simulated"
        raise ConfigError([Problem(str(request.file), "start_times", message)])
    experiment = load_experiment(request.config, request.overrides)
    folder = folder_for(request.out, experiment, "measured-")
    served = simulated(experiment, imported.workload, None)
    ours = observe(served.record, "simulated")
    rows = error_rows([ours], [imported.observed], experiment.crosscheck.tolerances)
    warn((*experiment.warnings, *served.notes))
    page = _write(folder, request, experiment, imported, ours, served, rows)
    Console().print(errors_text(rows, "measured"))
    sys.stdout.write(f"\nPage        {page}\n")
    return not any(row.status is Status.BEYOND for row in rows)


def _write(
    folder: Path,
    request: Import,
    experiment: Experiment,
    imported: Imported,
    ours: Observed,
    served: Served,
    rows: list[ErrorRow],
) -> Path:
    """The folder of a comparison, whole or not at all; returns its page."""
    writing = WholeFolder(folder)
    with writing as partial:
        write_served(partial / "simulation", experiment, served, with_plots=False)
        pictures = []
        if request.with_plots:
            title = f"{experiment.name} and {request.file.name}"
            pictures = write_pictures(partial / "pictures", ours, imported.observed, None, title)
        names = [picture.relative_to(partial).as_posix() for picture in pictures]
        (partial / "comparison.html").write_text(_page(request, imported, rows, names), encoding="utf-8")
        errors = [row.to_json() for row in rows]
        document = {"file": str(request.file), "config": str(request.config), "errors": errors}
        (partial / "comparison.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return writing.folder / "comparison.html"


def _page(request: Import, imported: Imported, rows: list[ErrorRow], pictures: list[str]) -> str:
    beyond = [row.title for row in rows if row.status is Status.BEYOND]
    is_judged = any(row.tolerance is not None for row in rows)
    verdict = (
        f"Beyond its tolerance: {', '.join(beyond)}"
        if beyond
        else "Every judged error is within its tolerance"
    )
    server = ", ".join(f"{name} {text}" for name, text in imported.server.items()) or "a server"
    explanation = _EXPLANATION.format(server=escape(server), config=escape(str(request.config)))
    parts = [
        explanation,
        section("Numbers", terminal_text(errors_text(rows, "measured"))),
    ]
    if pictures:
        parts.append(section("Pictures", images(pictures)))
    return page_with_verdict(
        f"{request.file.name}, measured and simulated",
        verdict if is_judged else "No tolerance is given (crosscheck: in the file), so nothing is judged",
        holds=not beyond if is_judged else None,
        parts=parts,
    )
