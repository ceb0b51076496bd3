"""Writes results/accuracy.md: predicted against measured times, a section a module."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.bench import accuracy_host, accuracy_kernels, accuracy_run, accuracy_steps

SECTIONS = (
    accuracy_kernels.section,
    accuracy_steps.section,
    accuracy_host.section,
    accuracy_run.section,
)
"""In the order of the page; each takes the data folder and gives lines of Markdown."""
PAGE = Path("results/accuracy.md")


def main() -> None:
    """Compose the page."""
    folder = os.environ.get("PAGECAST_DATA", "")
    data = next((at for at in (Path(folder) / "traces", Path(folder)) if (at / "measured").is_dir()), None)
    if data is None:
        sys.exit("set PAGECAST_DATA to the folder of public data, with traces/measured/")
    lines = ["# Predicted against measured", "", "Made by `make accuracy`; predictions are CPU work.", ""]
    for section in SECTIONS:
        lines += section(data)
    PAGE.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
