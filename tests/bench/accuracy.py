"""Writes results/accuracy.md: predicted against measured times, a section a module."""

from __future__ import annotations

import sys
from pathlib import Path

from sim.config.paths import DATA_VARIABLE, data_folder
from tests.bench import accuracy_host, accuracy_kernels, accuracy_run, accuracy_steps

SECTIONS = (
    accuracy_kernels.section,
    accuracy_steps.section,
    accuracy_host.section,
    accuracy_run.section,
)
"""In the order of the page; each takes the data folder and gives lines of Markdown."""
REPO = Path(__file__).resolve().parents[2]
PAGE = Path("results/accuracy.md")


def measured_data() -> Path:
    """The folder of public data that has `measured/`; ends the process where there is none."""
    try:
        folder = data_folder(REPO)
    except ValueError as error:
        sys.exit(str(error))
    for data in (folder / "traces", folder):
        if (data / "measured").is_dir():
            return data
    sys.exit(f"set {DATA_VARIABLE} to the folder of public data, with traces/measured/: {folder} has none")


def main() -> None:
    """Compose the page."""
    data = measured_data()
    lines = ["# Predicted against measured", "", "Made by `make accuracy`; predictions are CPU work.", ""]
    for section in SECTIONS:
        lines += section(data)
    PAGE.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
